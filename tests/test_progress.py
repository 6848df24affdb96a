"""Progress bars: nothing on a stderr that is no terminal, a moving bar on one that is."""

import io
import sys

from chiasm.progress import counting, track, waiting


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_silent_where_nobody_looks(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(track([1, 2], "doing", 2)) == [1, 2]
    with waiting("waiting"), counting("counting", 3) as advance:
        advance(3)
    assert sys.stderr.getvalue() == ""


def test_shows_what_is_done_of_how_much(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert list(track(range(5), "counting sheep", 5)) == list(range(5))
    assert "counting sheep" in sys.stderr.getvalue()
    assert "5/5" in sys.stderr.getvalue()
