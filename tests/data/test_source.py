"""Sources and their splits: stable, disjoint, never empty on tiny data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.data.source import Source, split_by_hash, splits_by_name, with_less
from chiasm.errors import UserError
from chiasm.types import Example


def make_source() -> Source:
    examples = [Example(image=Path(f"{i}.png"), texts=(f"picture {i}",), key=str(i)) for i in range(6)]
    splits = {"train": np.array([4, 1, 3]), "test-style": np.array([0]), "val": np.array([5]), "test": np.array([2])}
    return Source(name="six", examples=examples, splits=splits, understood="six rows", fingerprint="00")


def test_a_split_is_a_view_in_the_order_of_its_indices():
    train = make_source().split("train")
    assert [example.key for example in train] == ["4", "1", "3"]
    assert train[-1].key == "3"
    assert [example.key for example in train[1:]] == ["1", "3"]
    with pytest.raises(IndexError):
        train[3]


def test_test_splits_are_those_named_test():
    assert make_source().test_splits == ["test-style", "test"]


def test_an_unknown_split_names_the_known_ones():
    with pytest.raises(UserError, match=r"no split 'dev'\nIt has: train \(3\), test-style \(1\)"):
        make_source().split("dev")


@given(st.lists(st.text(max_size=4), max_size=40), st.sampled_from([0.0, 0.1, 0.4]), st.sampled_from([0.0, 0.1, 0.4]))
def test_groups_are_whole_every_row_has_one_split_and_none_is_empty(groups: list[str], val: float, test: float):
    splits = split_by_hash(groups, val_share=val, test_share=test)
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(len(groups)))
    places = [{groups[i] for i in rows} for rows in splits.values()]
    assert sum(map(len, places)) == len(set(groups))
    if len(set(groups)) >= 3:
        assert len(splits["train"])
        assert bool(len(splits["val"])) == (val > 0)
        assert bool(len(splits["test"])) == (test > 0)


def test_a_groups_split_does_not_depend_on_the_others():
    groups = [f"photo {i}" for i in range(2000)]
    place = {groups[i]: name for name, rows in split_by_hash(groups).items() for i in rows}
    part = groups[::-3]
    assert {part[i]: name for name, rows in split_by_hash(part).items() for i in rows} == {g: place[g] for g in part}


def test_shares_are_as_asked_and_the_hash_is_the_same_on_every_machine():
    groups = [f"photo {i}" for i in range(5000)]
    splits = split_by_hash(groups, val_share=0.2, test_share=0.1)
    assert abs(len(splits["test"]) - 500) < 80
    assert abs(len(splits["val"]) - 1000) < 120
    # `printf s | sha256sum` begins with 043a7187, p with 148d, j with 189f, d with 18ac; 0.1 is 1999.
    letters = "abcdefghijklmnopqrst"
    assert {letters[i] for i in split_by_hash(letters)["test"]} == set("spjd")


def test_two_pictures_train():
    assert {name: len(rows) for name, rows in split_by_hash(["a", "b"]).items()} == {"train": 2, "val": 0, "test": 0}


@pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0.1)])
def test_shares_that_leave_no_train_are_refused(shares: tuple[float, float]):
    with pytest.raises(ValueError, match="val_share"):
        split_by_hash(["a"], val_share=shares[0], test_share=shares[1])


def test_splits_by_name_keeps_order_and_allows_empty():
    splits = splits_by_name(["b", "a", "b"], order=("a", "c"))
    assert {name: rows.tolist() for name, rows in splits.items()} == {"a": [1], "c": [], "b": [0, 2]}


def _of_groups(groups: int) -> Source:
    """Two examples of each group, all of them in training but for the last two."""
    examples = [Example(image=None, texts=("x",), key=f"{g}#{i}", group=str(g)) for g in range(groups) for i in (0, 1)]
    rows = np.arange(len(examples))
    splits = {"train": rows[:-2], "test": rows[-2:]}
    return Source(name="s", examples=examples, splits=splits, understood="", fingerprint="f")


def test_less_data_are_whole_groups_nested_of_about_the_share_and_only_of_training():
    source = _of_groups(2001)
    kept = {share: with_less(source, share) for share in (1 / 8, 1 / 4, 1 / 2)}
    rows = {share: set(less.splits["train"].tolist()) for share, less in kept.items()}
    assert rows[1 / 8] < rows[1 / 4] < rows[1 / 2] < set(source.splits["train"].tolist())
    for share, found in rows.items():
        assert {row ^ 1 for row in found} == found  # the two of a group are neighbours
        assert abs(len(found) / 4000 - share) < 0.04
        assert kept[share].splits["test"].tolist() == source.splits["test"].tolist()
    assert len({less.fingerprint for less in (source, *kept.values())}) == 4
    assert with_less(source, 1.0) is source


def test_the_smallest_share_leaves_a_group():
    assert len(with_less(_of_groups(5), 1e-6).splits["train"]) == 2


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_that_is_none_is_refused(share: float):
    with pytest.raises(ValueError, match="share is"):
        with_less(_of_groups(3), share)
