"""Configurations survive JSON, and what does not fit is named by its dotted path."""

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.config import fingerprint, from_dict, load, merge, override, parse_value, save, to_dict
from chiasm.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Circle:
    radius: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Square:
    side: int = 2
    name: str = "square"

    def __post_init__(self):
        if self.side < 0:
            raise ValueError(f"side is {self.side}, it must not be negative")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    title: str
    shape: Circle | Square = field(default_factory=Circle)
    frame: Square | None = None
    size: tuple[int, int] = (3, 4)
    points: tuple[float, ...] = ()
    path: Path = Path("a")
    mode: Literal["fast", "slow"] = "fast"
    limit: int | None = None
    bold: bool = False
    extra: dict[str, int] = field(default_factory=dict)


finite = st.floats(allow_nan=False, allow_infinity=False)
circles = st.builds(Circle, radius=finite)
squares = st.builds(Square, side=st.integers(0, 10**9), name=st.text())
drawings = st.builds(
    Drawing,
    title=st.text(),
    shape=circles | squares,
    frame=st.none() | squares,
    size=st.tuples(st.integers(), st.integers()),
    points=st.lists(finite).map(tuple),
    path=st.text("abc/", min_size=1).map(Path),
    mode=st.sampled_from(["fast", "slow"]),
    limit=st.none() | st.integers(),
    bold=st.booleans(),
    extra=st.dictionaries(st.text(), st.integers()),
)


@given(drawings)
def test_json_brings_back_what_went_in(drawing):
    again = from_dict(Drawing, json.loads(json.dumps(to_dict(drawing))))
    assert again == drawing
    assert fingerprint(again) == fingerprint(drawing)
    assert type(again.path) is type(drawing.path) and all(type(point) is float for point in again.points)


@given(drawings, drawings)
def test_fingerprints_are_equal_exactly_where_configurations_are(first, second):
    assert (fingerprint(first) == fingerprint(second)) == (to_dict(first) == to_dict(second))


def test_every_field_changes_the_fingerprint():
    drawing = Drawing(title="t")
    other = Drawing(
        title="u", shape=Square(), frame=Square(), size=(4, 3), points=(1.0,), path=Path("b"),
        mode="slow", limit=1, bold=True, extra={"a": 1},
    )  # fmt: skip
    prints = {fingerprint(replace(drawing, **{f.name: getattr(other, f.name)})) for f in fields(Drawing)}
    assert len(prints | {fingerprint(drawing)}) == len(fields(Drawing)) + 1


def test_classes_with_equal_fields_have_different_fingerprints():
    @dataclass(frozen=True, kw_only=True)
    class Disc:
        radius: float = 1.0

    assert fingerprint(Circle()) != fingerprint(Disc())


def test_a_file_brings_back_what_went_in(tmp_path):
    drawing = Drawing(title="żółw 🐢", frame=Square(side=5))
    save(drawing, tmp_path / "a.json")
    assert load(Drawing, tmp_path / "a.json") == drawing
    assert "żółw 🐢" in (tmp_path / "a.json").read_text(encoding="utf-8")


def complaint(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    return caught.value


@pytest.mark.parametrize(
    "change, path, near",
    [
        ({"tilte": "x"}, "'tilte'", "'title'"),
        ({"shape": {"radiu": 1}}, "'shape.radiu'", "'radius'"),
        ({"frame": {"kind": "Square", "sides": 1}}, "'frame.sides'", "'side'"),
    ],
)
def test_an_unknown_key_is_named_by_its_path_with_the_nearest_known_one(change, path, near):
    for error in (
        complaint(from_dict, Drawing, {"title": "t", "shape": {"kind": "Circle"}} | _tagged(change)),
        complaint(merge, Drawing(title="t"), change),
    ):
        assert path in error.message
        assert f"Did you mean {near}?" in error.hint


def _tagged(change):
    return {k: ({"kind": "Circle"} | v if k == "shape" else v) for k, v in change.items()}


def test_an_unknown_key_like_no_other_lists_the_known_ones():
    error = complaint(from_dict, Circle, {"zzz": 1})
    assert "Did you mean" not in error.hint and "radius" in error.hint and "kind" not in error.hint


@pytest.mark.parametrize(
    "kind, value, told",
    [
        (int, "x", "'x'"), (int, 1.5, "1.5"), (int, True, "True"), (float, "x", "'x'"), (float, True, "True"),
        (bool, 1, "1"), (bool, "yes", "'yes'"), (str, None, "None"), (str, True, "True"), (str, [1], "[1]"),
        (Path, 3, "3"), (Literal["a", "b"], "c", "'c'"), (tuple[int, int], [1], "[1]"), (tuple[int, int], 5, "5"),
        (tuple[int, ...], "12", "'12'"), (dict[str, int], [1], "[1]"), (int | None, "x", "'x'"),
        (Circle, 3, "3"), (Circle | None, "x", "'x'"), (Circle | Square, 3, "3"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_refused_by_value_and_path(kind, value, told):
    error = complaint(from_dict, kind, value, "a.b")
    assert "a.b" in error.message and told in error.message and error.hint


def test_the_path_leads_into_tuples_and_dictionaries():
    assert "points.1 " in complaint(merge, Drawing(title="t"), {"points": [1.0, "x"]}).message
    assert "extra.a " in complaint(from_dict, Drawing, {"title": "t", "extra": {"a": "x"}}).message


@pytest.mark.parametrize(
    "kind, value, wanted",
    [
        (float, 3, 3.0),
        (float, "1e-05", 1e-05),
        (str, 64, "64"),
        (Path, "a/b", Path("a/b")),
        (int | None, None, None),
        (Any, [1], [1]),
    ],
)
def test_what_is_meant_is_understood(kind, value, wanted):
    got = from_dict(kind, value)
    assert got == wanted and type(got) is type(wanted)


def test_a_union_goes_by_its_tag():
    tagged = {"title": "t", "shape": {"kind": "Square", "side": 5}}
    assert from_dict(Drawing, tagged).shape == Square(side=5)
    assert from_dict(Drawing, {"title": "t", "frame": {"side": 5}}).frame == Square(side=5)  # one class needs no tag


@pytest.mark.parametrize("shape", [{"side": 5}, {"kind": "Hexagon"}])
def test_a_union_without_a_known_tag_lists_the_kinds(shape):
    error = complaint(from_dict, Drawing, {"title": "t", "shape": shape})
    assert "shape.kind" in error.message and "Circle, Square" in error.hint


def test_a_tag_of_another_class_is_refused():
    assert "a Square" in complaint(from_dict, Circle, {"kind": "Square"}).message


def test_a_missing_field_is_named():
    assert "title" in complaint(from_dict, Drawing, {}).message


def test_what_a_class_refuses_is_told_with_its_path():
    error = complaint(merge, Drawing(title="t"), {"frame": {"kind": "Square", "side": -1}})
    assert error.message == "frame: side is -1, it must not be negative"


def test_merging_replaces_named_values_only():
    drawing = Drawing(title="t", shape=Square(side=7, name="n"), points=(1.0, 2.0))
    merged = merge(drawing, {"shape": {"side": 8}, "points": [3]})
    assert merged == replace(drawing, shape=Square(side=8, name="n"), points=(3.0,))
    assert drawing.shape.side == 7


def test_merging_another_kind_starts_from_its_defaults():
    drawing = Drawing(title="t", shape=Circle(radius=9.0))
    assert merge(drawing, {"shape": {"kind": "Square", "side": 8}}).shape == Square(side=8)
    assert merge(drawing, {"shape": {"kind": "Circle"}}).shape == Circle(radius=9.0)


def test_merging_into_nothing_and_to_nothing():
    drawing = Drawing(title="t")
    framed = merge(drawing, {"frame": {"side": 8}})
    assert framed.frame == Square(side=8)
    assert merge(framed, {"frame": None}) == drawing


def test_merging_fills_dictionaries():
    assert merge(Drawing(title="t", extra={"a": 1}), {"extra": {"a": 2, "b": 3}}).extra == {"a": 2, "b": 3}


def test_overriding_by_dotted_path():
    changed = override(
        Drawing(title="t", shape=Square(side=7)),
        {"shape.side": "9", "size": "[5, 6]", "title": "two words", "limit": "none", "bold": "True", "path": "b/c"},
    )
    assert changed == Drawing(title="two words", shape=Square(side=9), size=(5, 6), bold=True, path=Path("b/c"))


def test_later_overrides_see_earlier_ones():
    changed = override(Drawing(title="t"), {"shape.kind": "Square", "shape.side": "9"})
    assert changed.shape == Square(side=9)


@pytest.mark.parametrize("path", ["shape.sidee", "nothing", "limit.a", "title.b.c", ""])
def test_overriding_what_is_not_there_is_refused(path):
    error = complaint(override, Drawing(title="t", shape=Square()), {path: "1"})
    assert path.split(".")[0] in error.message


@pytest.mark.parametrize(
    "text, value",
    [("3", 3), ("3e-4", 3e-4), ("[1, 2]", [1, 2]), ("None", None), ("TRUE", True), ("false", False), ("a b", "a b"),
     ('"3"', "3"), ("", ""), ("1.2.3", "1.2.3")],
)  # fmt: skip
def test_what_users_type(text, value):
    got = parse_value(text)
    assert got == value and type(got) is type(value)


def test_a_missing_or_damaged_file_is_named(tmp_path):
    path = tmp_path / "a.json"
    assert str(path) in complaint(load, Drawing, path).message
    save(Drawing(title="t"), path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-20], b"\xff\xfe" + whole):
        path.write_bytes(damaged)
        assert f"{path} is not JSON" in complaint(load, Drawing, path).message
