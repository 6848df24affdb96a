"""Does a class token help? Captioners with and without one, and CLIPs that pool by class token, mean or attention.

Every arm trains on the same pictures in the same order from the same seeds, with equal steps, so differences are paired
by seed. Intervals are Student's over seeds: with three of them they are wide, and honest.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _side_by_side import arguments, report

from chiasm.data.shapes import ShapesConfig
from chiasm.data.transforms import PreprocessConfig, augment_for
from chiasm.evaluate import evaluate
from chiasm.models.captioner import CaptionerConfig
from chiasm.models.clip import ClipConfig
from chiasm.models.decoder import DecoderConfig
from chiasm.models.language import TextConfig
from chiasm.models.vision import VitConfig
from chiasm.predict import CaptionPredictor, ClipPredictor
from chiasm.progress import track
from chiasm.train.config import DataConfig, RunConfig, TrainConfig
from chiasm.train.run import Run, fit

POOLS = {"captioner": ("none", "cls"), "clip": ("mean", "cls", "attention")}
"""The first of each is what the others are compared with."""
SCORES = {"captioner": "exact_match", "clip": "all_texts_r1"}
TESTS = {"shapes": "test-combinations", "emoji": "test-style"}
EPOCHS = {"shapes": 8.0, "emoji": 20.0}


def main() -> None:
    parser = arguments(__doc__, repeat=3, repeated="seeds")
    parser.add_argument("--data", nargs="+", choices=TESTS, default=list(TESTS), help="which data (default: both)")
    args = parser.parse_args()
    arms = [
        (data, model, pool)
        for data in (("shapes",) if args.toy else args.data)
        for model, pools in POOLS.items()
        for pool in pools
    ]
    jobs = [(arm, seed) for arm in arms for seed in range(args.repeat)]
    values: dict[tuple[str, str, str], list[float]] = {arm: [] for arm in arms}
    for arm, seed in track(jobs, "training every arm", total=len(jobs)):
        values[arm].append(score(*arm, seed, toy=args.toy))
    report(f"Pooling, {args.repeat} seeds", [row(arm, values) for arm in arms], args.out)


def score(data: str, model: str, pool: Any, seed: int, *, toy: bool) -> float:
    """Train one arm, and return its score on the data's hardest test."""
    vision = VitConfig(size=(32, 32), patch_pixels=8, width=128, depth=3, heads=4, stem="conv", pool=pool)
    if model == "captioner":
        sizes = CaptionerConfig(vision=vision, decoder=DecoderConfig(width=128, depth=2, heads=4))
    else:
        sizes = ClipConfig(vision=vision, text=TextConfig(width=128, depth=2, heads=4), embed_dim=128)
    augment = augment_for("strong" if data == "emoji" else "light")
    train = TrainConfig(epochs=EPOCHS[data], keep="last", augment=augment, label_smoothing=0.0, seed=seed,
                        validate_every_epochs=1000.0)  # fmt: skip
    config = RunConfig(
        data=DataConfig(path=data, shapes=ShapesConfig(difficulty="easy", samples=200 if toy else 20_000)),
        model=sizes,
        preprocess=PreprocessConfig(trim=data == "emoji"),
        train=replace(train, steps=2, batch_size=16) if toy else train,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Run(config, Path(folder) / "run")
        bundle = fit(run).bundle
    assert bundle is not None
    predictor = (CaptionPredictor if model == "captioner" else ClipPredictor)(bundle)
    (result,) = evaluate(predictor, run.source, [TESTS[data]])
    return result.scores[SCORES[model]].value


def row(arm: tuple[str, str, str], values: dict[tuple[str, str, str], list[float]]) -> dict[str, Any]:
    """An arm's mean and interval, and those of its difference to the first arm of its kind."""
    data, model, pool = arm
    first = values[data, model, POOLS[model][0]]
    less = np.subtract(values[arm], first)
    return {
        "data": f"{data}, {TESTS[data]}",
        "model": model,
        "pool": pool,
        SCORES["captioner"] + " / " + SCORES["clip"]: float(np.mean(values[arm])),
        "95 %": interval(values[arm]),
        "difference": float(less.mean()),
        "its 95 %": interval(less) if pool != POOLS[model][0] else "",
        "seeds": [round(value, 4) for value in values[arm]],
    }


def interval(values: Any) -> str:
    """Student's interval of a mean, as people read it."""
    from scipy.stats import t

    if len(values) < 2:
        return "one seed"
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values) - half:.3f} to {np.mean(values) + half:.3f}"


if __name__ == "__main__":
    main()
