"""What `chiasm cost` predicts, beside what training takes: seconds of a step, and memory at its peak.

Every training is `chiasm.train` on the built-in shapes, in a process of its own. Its seconds are the median over
stretches of ten steps in metrics.csv, loader and log included; its memory is the most that the process held up to the
last step (the checkpoint that follows does not count) beyond what it held before the first, the weights counted in.
Predictions and trainings take turns, and medians are compared, so that whatever else the machine does meets both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from _side_by_side import arguments, held_bytes, peak_bytes, report

from chiasm.cli.settings import asked, start_settings
from chiasm.cost import predicted_step_seconds, step_bytes
from chiasm.data.shapes import ShapesConfig
from chiasm.progress import track
from chiasm.train.callbacks import read_metrics
from chiasm.train.config import RunConfig

MIB = 2**20
STEPS = 41
"""A row of metrics.csv every ten, and the last, after which comes validation."""


@dataclass(frozen=True)
class Case:
    """A preset and how it is trained."""

    model: str
    preset: str
    batch_size: int
    task: str | None = None
    fusion: Any = None
    data: str = "shapes"

    @property
    def name(self) -> str:
        """As it is asked for."""
        return " ".join(filter(None, (self.model, self.preset, self.fusion)))

    def settings(self, precision: Any, *, toy: bool) -> RunConfig:
        """Those of `chiasm train`, but for the length of the run."""
        settings = start_settings(self.model, self.preset, fusion=self.fusion)
        settings = asked(settings, self.task, None, None)
        shapes = ShapesConfig(difficulty="easy", samples=400 if toy else 2000)
        train = replace(settings.train, steps=STEPS, batch_size=self.batch_size, precision=precision, keep="last",
                        validate_every_epochs=1000.0, checkpoint_every_seconds=1e6)  # fmt: skip
        return replace(settings, data=replace(settings.data, path=self.data, shapes=shapes), train=train)


CASES = (
    Case("captioner", "tiny", 128),
    Case("captioner", "small", 32),
    Case("captioner", "small", 32, fusion="perceiver"),
    Case("clip", "lesson", 64),
    Case("clip", "small", 32),
    Case("coca", "tiny", 64),
    Case("fusion", "tiny", 128, task="answer", fusion="early"),
    Case("fusion", "small", 32, task="answer", fusion="cross"),
    Case("flamingo", "tiny", 16),
    Case("lm", "small", 128),
    Case("vit", "tiny", 128, data="emoji"),
    Case("perceiver", "tiny", 32, data="emoji"),
)


def main() -> None:
    parser = arguments(__doc__, repeat=3, repeated="trainings of each")
    parser.add_argument("--only", nargs="+", help="models of these kinds alone")
    parser.add_argument("--measure", nargs=3, metavar=("CASE", "PRECISION", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        number, precision, folder = args.measure
        train(CASES[int(number)].settings(precision, toy=args.toy), Path(folder))
        return
    chosen = [i for i, case in enumerate(CASES) if not args.only or case.model in args.only][: 1 if args.toy else None]
    ways = [(number, precision) for number in chosen for precision in (("fp32",) if args.toy else ("fp32", "bf16"))]
    found: dict[tuple[int, str], list[dict[str, float]]] = {way: [] for way in ways}
    for times in range(1, args.repeat + 1):
        for way in track(ways, "predicting and training", total=len(ways)):
            found[way].append(both(*way, toy=args.toy))
        report(f"Predicted and measured, {times} times", [row(*way, found[way]) for way in ways], args.out)  # so far


def both(number: int, precision: str, *, toy: bool) -> dict[str, float]:
    """One training, then the prediction of it, in a process whose threads wait as those of the command line."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--measure", str(number), precision, folder, *(["--toy"] if toy else [])]
        subprocess.run([sys.executable, __file__, *words], check=True)
        return json.loads((Path(folder) / "told.json").read_text())


def train(settings: RunConfig, folder: Path) -> None:
    """Train, and tell what it took and what would have been predicted."""
    from chiasm.train.run import Run, fit

    run = Run(settings, folder / "run")
    texts = run.tokenizer.lengths([text for example in run.source.split("train") for text in example.texts[:1]]) \
        if run.tokenizer else [0]  # fmt: skip
    before = held_bytes() - sum(p.nbytes for p in run.model.parameters())
    watched = Watched(run.loader)
    run.loader.stream = watched.stream  # pyright: ignore[reportAttributeAccessIssue]
    fit(run)
    logged = [row for row in read_metrics(folder / "run" / "metrics.csv") if row["val_loss"] is None]
    stretches = [(b["seconds"] - a["seconds"]) / (b["step"] - a["step"]) for a, b in pairwise(logged)]
    model, rows, precision = run.config.model, settings.train.batch_size, str(settings.train.precision)
    told = {
        "seconds": statistics.median(stretches),
        "bytes": watched.peak - before,
        "predicted seconds": predicted_step_seconds(model, rows, max(texts), precisions=(precision,))[precision],
        "predicted bytes": step_bytes(model, batch_size=rows, text_tokens=max(texts), precision=precision).peak,
    }
    (folder / "told.json").write_text(json.dumps(told))


class Watched:
    """A loader's batches, and the most memory that the process had held when the last of them was asked for."""

    def __init__(self, loader: Any):
        self.batches = loader.stream
        self.peak = 0

    def stream(self, start_step: int, stop_step: int) -> Iterator[Any]:
        """The same batches."""
        for batch in self.batches(start_step, stop_step):
            self.peak = peak_bytes()
            yield batch


def row(number: int, precision: str, found: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of both, and the one in units of the other."""
    case = CASES[number]
    middle = {name: statistics.median(told[name] for told in found) for name in found[0]}
    return {
        "model": case.name,
        "precision": precision,
        "rows": case.batch_size,
        "predicted ms": 1e3 * middle["predicted seconds"],
        "measured ms": 1e3 * middle["seconds"],
        "time ratio": middle["predicted seconds"] / middle["seconds"],
        "predicted MiB": middle["predicted bytes"] / MIB,
        "measured MiB": middle["bytes"] / MIB,
        "memory ratio": middle["predicted bytes"] / middle["bytes"],
    }


if __name__ == "__main__":
    main()
