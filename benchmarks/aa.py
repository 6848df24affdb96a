"""How often a comparison claims a difference where there is none: one arm twice under two names, trained for real.

With paired seeds two equal arms would be equal to the bit, and nothing could ever be claimed. So the second has one
learned token more, for a modality that is missing in no example: it is never read, but the weights are drawn after it,
so that its trainings are further draws of the same architecture. Every comparison has seeds of its own.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from _side_by_side import arguments, report

from chiasm.cli.arms import arms_from
from chiasm.compare.config import CompareConfig, Machinery
from chiasm.compare.experiment import compare
from chiasm.progress import track

ARMS = ("one=early", "other=early,model.fusion.missing=token")
SIZES = (
    "model.vision.width=64", "model.vision.heads=2", "model.text.width=64", "model.text.heads=2",
    "model.fusion.width=64", "model.fusion.heads=2", "model.fusion.depth=2", "tokenizer.units=word",
    "train.batch_size=32", "train.learning_rate=0.001", "train.augment=null", "train.label_smoothing=0.0",
    "train.precision=fp32", "train.validate_every_epochs=100.0",
)  # fmt: skip


def main() -> None:
    parser = arguments(__doc__, repeat=20, repeated="comparisons")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each arm (default: 3)")
    args = parser.parse_args()
    steps, samples = (4, 60) if args.toy else (300, 2_000)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CHIASM_CACHE"] = str(Path(folder) / "cache")
        places = [Path(folder) / f"comparison-{number}" for number in range(args.repeat)]
        rows = [
            row(place, range(number * args.seeds, (number + 1) * args.seeds), steps, samples)
            for number, place in enumerate(track(places, "comparing", total=len(places)))
        ]
    claims = sum(one["claimed"] for one in rows)
    report(f"The same arm twice: {claims} of {len(rows)} comparisons claim a difference", rows, args.out)


def row(folder: Path, seeds: range, steps: int, samples: int) -> dict[str, Any]:
    """One comparison: scores of both arms on the split of the verdict, their difference, and what is said of it."""
    data = {"path": "shapes", "shapes": {"difficulty": "easy", "samples": samples}}
    arms = arms_from("answer", ARMS, preset="tiny", data=data, set=(*SIZES, f"train.steps={steps}"))
    config = CompareConfig(
        task="answer", arms=arms, seeds=tuple(seeds), equal="samples", tune=0, scaling=False, floors=False
    )
    found = compare(config, folder, command="benchmarks/aa.py", machinery=Machinery(workers=os.cpu_count() or 1))
    (difference,) = (one for one in found.differences if one.split == found.split)
    return {
        "first seed": seeds[0],
        **{arm.name: arm.scores[found.split].value for arm in found.arms},
        "difference": difference.difference.value,
        "low": difference.difference.low,
        "high": difference.difference.high,
        "p": difference.p,
        "claimed": difference.different,
    }


if __name__ == "__main__":
    main()
