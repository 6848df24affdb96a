"""From signatures to command lines: kinds of parameters, defaults, several values, and their help."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from chiasm.cli.parse import call


def function(
    first: Path,
    rest: tuple[str, ...] = (),
    *,
    rate: float = 0.5,
    colour: Literal["red", "blue"] = "red",
    limit: int | None = None,
    some_words: tuple[str, ...] = (),
    quiet: bool = False,
) -> int:
    """What it does, 100 % of it.

    And at length.

    Args:
        first: the first
            of all
        rest: the others
        rate: per step: a share
        colour: of it
        limit: at most
        some_words: several
        quiet: say nothing
    """
    function.got = locals()
    return 7


def parsed(*words):
    assert call(function, words, "program") == 7
    return function.got


def test_defaults():
    wanted = {"rest": (), "rate": 0.5, "colour": "red", "limit": None, "some_words": (), "quiet": False}
    assert parsed("a") == wanted | {"first": Path("a")}


def test_values_of_every_kind():
    got = parsed("a", "b", "c", "--rate", "2", "--colour", "blue", "--limit", "3", "--some-words", "x", "y", "--quiet")
    assert got == {"first": Path("a"), "rest": ("b", "c"), "rate": 2.0, "colour": "blue", "limit": 3,
                   "some_words": ("x", "y"), "quiet": True}  # fmt: skip


def test_a_repeated_option_adds_to_the_first():
    assert parsed("a", "--some-words", "x", "y", "--some-words", "z")["some_words"] == ("x", "y", "z")


def test_values_with_equals_signs_stay_whole():
    assert parsed("a", "--some-words", "train.steps=4", "a=b=c")["some_words"] == ("train.steps=4", "a=b=c")


@pytest.mark.parametrize("words", [(), ("a", "--rate", "fast"), ("a", "--colour", "green"), ("a", "--limit", "1.5")])
def test_wrong_values_end_with_2(words, capsys):
    with pytest.raises(SystemExit) as end:
        call(function, words, "program")
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: program ")


def test_help_is_the_docstring(capsys):
    with pytest.raises(SystemExit) as end:
        call(function, ["--help"], "program")
    told = capsys.readouterr().out
    assert end.value.code == 0
    assert "What it does, 100 % of it.\n\nAnd at length." in told
    assert "Args" not in told
    for line in ("the first of all", "per step: a share (default: 0.5)", "{red,blue}", "at most\n", "say nothing\n"):
        assert line in told
