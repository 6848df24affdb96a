"""`chiasm report`: a page of what a training, or a comparison, found."""

from __future__ import annotations

from pathlib import Path

from chiasm.errors import UserError


def report(run: Path, *, out: Path | None = None) -> int:
    """Write a page of a training or of a comparison: one HTML file that needs no network.

    Of a training: how good the model is and where it fails, its best and worst answers with their pictures, the
    curves, what the coach found, what it cost. The pictures are read from the data, where that is still there. Of a
    comparison: the page that `chiasm compare` ends with.

    Args:
        run: the folder of a finished run of `chiasm train`, or of a comparison
        out: the file to write, of a training (report.html in its folder)
    """
    from chiasm.compare.results import FILE

    if (run / FILE).exists():
        from chiasm.report.comparison import write_comparison

        if out is not None:
            raise UserError(f"{run} is a comparison, whose page lies beside its {FILE}", "Leave --out away.")
        print(write_comparison(run))
        return 0
    from chiasm.report.training import write_training

    print(write_training(run, out))
    return 0
