"""Comparisons as an experiment would write them, from a simulated truth: a rich one, and poor or awkward ones."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from chiasm.compare import results
from chiasm.compare.results import (
    Answer,
    ArmResult,
    Comparison,
    Costs,
    DataCard,
    Difference,
    Floor,
    Interval,
    Metric,
    Point,
    Scaling,
    SeedResult,
    Shown,
    Trial,
)

TRUTH = {"cross": (0.874, 1.0), "early": (0.861, 1.8), "perceiver": (0.842, 0.9), "late": (0.751, 0.7)}
"""By arm: its accuracy, and its seconds in units of cross-attention's."""
SPLITS = {"test": 0.0, "test_combinations": -0.13}
SLICES = {
    "colour": 0.06,
    "shape": 0.04,
    "count": -0.05,
    "relation": -0.11,
    "2 to 4 words": 0.03,
    "5 words or more": -0.04,
}
STEPS = 1200
NASTY = '<script>alert("x")</script> & <b>bold</b>'


def comparison(arms=tuple(TRUTH), seeds=(0, 1, 2), splits=tuple(SPLITS)) -> Comparison:
    """The rich one: questions about shapes, equal FLOPs."""
    random = np.random.default_rng(0)
    found = tuple(_arm(name, seeds, splits, random) for name in arms)
    best = max(found, key=lambda arm: arm.scores[splits[0]].value)
    return Comparison(
        task="answer",
        metric=Metric(name="accuracy", explained="share of questions answered right"),
        split=splits[0],
        verdict=(
            f"Cross-attention ({best.name}) is best: {best.scores[splits[0]].value:.1%} of its answers are right.",
            "Early fusion is within noise of it and 1.8 times slower; late fusion loses most on relations.",
        ),
        held_equal="Training FLOPs, within 0.6 %: 212 TFLOP. Data, their order, augmentation, schedule and seeds.",
        not_equal="Parameters (2.1 M to 3.4 M), seconds (4 min 20 s to 11 min) and learning rate (4 tried each).",
        arms=found,
        differences=tuple(_difference(arm, best, split) for split in splits for arm in found if arm is not best),
        floors=_floors(splits),
        scaling=(_scaling(best.name),),
        gallery=tuple(_shown(number, arms, splits[0]) for number in range(6)),
        data=DataCard(
            name="shapes",
            understood="drawn shapes of one or more objects, with questions of five kinds",
            fingerprint="9f2c51d07be34a60",
            splits={"train": 8000, "val": 1000} | dict.fromkeys(splits, 1000),
            broken=2,
            findings=("3 pictures of test are also in train.", "12 questions are asked twice of one picture."),
        ),
        notes=(
            "late: validation loss has risen since step 900; stop there, or train on more data.",
            "early: the loader waits 31 % of the time; two workers would do.",
        ),
        command="chiasm compare shapes --difficulty hard --task answer --arms cross early perceiver late --seeds 3 "
        "--equal flops --out runs/fusions",
        settings={"task": "answer", "seeds": list(seeds), "equal": "flops", "budget": None, "tune": 4},
        versions={"chiasm": "0.1.0", "torch": "2.13.0+cpu", "python": "3.11.2", "numpy": "2.3.1"},
        machine="2 cores of an AMD EPYC 7B13, 8 GB, no GPU",
        minutes=52.4,
    )


def write(found: Comparison, folder) -> Comparison:
    """Save it as `results.json`, and the pictures that it names beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    results.save(found, folder)
    for number, shown in enumerate(found.gallery):
        named = [shown.picture, *(answer.attention for answer in shown.answers.values())]
        for place, name in enumerate(n for n in named if n):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _draw(number, looked_at=place > 0).save(folder / name)
    return found


def bare() -> Comparison:
    """Two arms, one seed, one split; nothing that could be left out."""
    rich = comparison(("cross", "late"), seeds=(0,), splits=("test",))
    arms = tuple(replace(arm, tried=(), slices={}, seeds=(replace(arm.seeds[0], course=()),)) for arm in rich.arms)
    data = replace(rich.data, findings=(), broken=0)
    return replace(rich, arms=arms, floors=(), scaling=(), gallery=(), notes=(), versions={}, data=data)


def broken() -> Comparison:
    """One arm of which every seed failed, and one that lost a seed."""
    rich = comparison()
    cross, early, perceiver, late = rich.arms
    why = "loss is not finite at step 312 (keys 17, 4411)"
    early = replace(early, seeds=(*early.seeds[:2], _failed(early.seeds[2], why)))
    gone = tuple(_failed(seed, why) for seed in late.seeds)
    late = replace(late, seeds=gone, scores={}, slices={}, probability_best={})
    return replace(
        rich,
        arms=(cross, early, perceiver, late),
        differences=tuple(d for d in rich.differences if d.arm != "late"),
        gallery=tuple(
            replace(shown, answers={arm: a for arm, a in shown.answers.items() if arm != "late"})
            for shown in rich.gallery
        ),
    )


def awkward() -> Comparison:
    """Eight arms with long names, texts that are HTML, a lower-is-better metric, a picture that is missing."""
    random = np.random.default_rng(1)
    names = [f"cross-attention_in_every_block.depth-{depth}" for depth in range(1, 9)]
    arms = tuple(replace(_arm("cross", (0, 1), ("test",), random), name=name, about=NASTY) for name in names)
    rich = comparison(splits=("test",))
    long = "is there a small red triangle to the left of the large blue circle that stands above the green square " * 3
    shown = tuple(
        replace(
            _shown(n, tuple(names), "test"), asked=f"{NASTY} {long}", truth=NASTY, picture=None if n else "gone.png"
        )
        for n in range(2)
    )
    return replace(
        rich,
        metric=Metric(name="loss", explained=NASTY, higher_is_better=False),
        verdict=(NASTY, long),
        arms=arms,
        differences=tuple(_difference(arm, arms[0], "test") for arm in arms[1:]),
        scaling=(replace(rich.scaling[0], arm=names[0], verdict=NASTY),),
        gallery=tuple(
            replace(
                s,
                answers={a: replace(x, attention=None, said=long if x.right else x.said) for a, x in s.answers.items()},
            )
            for s in shown
        ),
        notes=(NASTY, long),
        command=f"chiasm compare {'x' * 400}",
        data=replace(rich.data, name=NASTY, understood=NASTY, findings=(NASTY,)),
    )


def _arm(name, seeds, splits, random) -> ArmResult:
    accuracy, slowness = TRUTH[name]
    shift = random.normal(0, 0.012, len(seeds))
    trained = tuple(
        SeedResult(
            seed=seed,
            scores={split: _share(accuracy + SPLITS[split] + shift[place]) for split in splits},
            others={split: {"loss": 0.4 - 0.1 * accuracy} for split in splits},
            course=_course(accuracy, slowness, random),
            seconds=362.0 * slowness * (1 + 0.02 * place),
            folder=f"{name}/seed-{seed}",
        )
        for place, seed in enumerate(seeds)
    )
    scores = {split: _interval(float(np.mean([seed.scores[split] for seed in trained])), 0.016) for split in splits}
    about = {"cross": "width 192, depth 4 + 3 cross", "early": "width 160, depth 8", "late": "width 224, depth 5 + 5"}
    return ArmResult(
        name=name,
        about=about.get(name, "width 192, 32 latents, depth 6"),
        settings={"model": {"kind": "FusionConfig", "fusion": {"kind": name}, "width": 192}, "seed": 0},
        learning_rate=1e-3,
        tried=tuple(
            Trial(learning_rate=rate, steps=steps, val_loss=None if rate > 5e-3 else _loss(accuracy, 0.3) + worse)
            for rate, steps, worse in ((3e-4, 150, 0.2), (1e-3, 600, 0.0), (3e-3, 300, 0.1), (1e-2, 150, 0.0))
        ),
        costs=Costs(
            parameters=int(2.1e6 + 1.3e6 * (slowness - 0.7)),
            step_flops=1.767e11,
            flops=2.12e14 * (1 + 0.003 * random.random()),
            steps=STEPS,
            samples=64 * STEPS,
            seconds=362.0 * slowness,
        ),
        seeds=trained,
        scores=scores,
        slices={
            split: {kind: _interval(_share(score.value + _slope(name) * gain), 0.03) for kind, gain in SLICES.items()}
            for split, score in scores.items()
        },
        probability_best=dict.fromkeys(splits, {"cross": 0.861, "early": 0.134, "perceiver": 0.0049}.get(name, 0.0)),
    )


def _slope(name):
    return 2.0 if name == "late" else 1.0


def _course(accuracy, slowness, random):
    steps = np.linspace(STEPS / 12, STEPS, 12)
    losses = [_loss(accuracy, step / STEPS) + random.normal(0, 0.01) for step in steps]
    return tuple(
        Point(
            step=int(step), samples=int(64 * step), flops=1.767e11 * step, seconds=362.0 * slowness * step / STEPS,
            loss=loss - 0.05 * step / STEPS, val_loss=loss,
        )
        for step, loss in zip(steps, losses, strict=True)
    )  # fmt: skip


def _loss(accuracy, share):
    return 1.1 * (1 - accuracy) + 1.6 * float(np.exp(-4 * share))


def _difference(arm, best, split):
    gap = arm.scores[split].value - best.scores[split].value
    p = math.erfc(abs(gap) / (0.014 / 1.96) / math.sqrt(2))
    return Difference(
        arm=arm.name, split=split, difference=_interval(gap, 0.014), p=p, p_holm=min(1.0, 2 * p), different=2 * p < 0.05
    )


def _floors(splits):
    told = (
        ("chance", "the commonest answer of every kind of question", 0.391),
        ("text alone", "the question without the picture", 0.472),
        ("picture alone", "the picture without the question", 0.415),
        ("shuffled pictures", "cross, asked with another item's picture", 0.448),
    )
    return tuple(
        Floor(name=name, explained=explained, scores={split: _interval(value, 0.02) for split in splits})
        for name, explained, value in told
    )


def _scaling(arm):
    examples, floor, scale, exponent = np.array([1000, 2000, 4000, 8000]), 0.11, 9.0, 0.5
    losses = floor + scale * examples**-exponent + np.array([0.004, -0.006, 0.003, 0.0])
    return Scaling(
        arm=arm,
        fractions=(0.125, 0.25, 0.5, 1.0),
        examples=tuple(int(n) for n in examples),
        losses=tuple(_interval(float(loss), 0.012) for loss in losses),
        exponent=Interval(value=exponent, low=0.41, high=0.6),
        doubled=_interval(floor + scale * 16000**-exponent, 0.015),
        verdict="Twice the data should lower the loss from 0.211 to 0.181 (0.166 to 0.196): more data would help.",
    )


def _shown(number, arms, split):
    truths = ("yes", "red", "3", "no", "triangle", "blue")
    wrong = ("no", "green", "2", "yes", "circle", "red")
    asked = (
        "is the red circle left of the blue square?",
        "what colour is the triangle?",
        "how many circles are there?",
    )
    rights = {arm: (place + number) % 3 != 2 for place, arm in enumerate(arms)}
    return Shown(
        key=f"{split}-{417 + number}",
        split=split,
        picture=f"gallery/{number}.png",
        asked=asked[number % 3],
        truth=truths[number],
        answers={
            arm: Answer(
                said=truths[number] if right else wrong[number],
                right=right,
                probability=0.93 if right else 0.48,
                attention=f"gallery/{number}-{arm}.png" if arm != "late" else None,
            )
            for arm, right in rights.items()
        },
    )


def _failed(seed, why):
    return replace(seed, scores={}, others={}, course=seed.course[:3], failed=why)


def _interval(value, half):
    return Interval(value=value, low=value - half, high=value + half)


def _share(value):
    return float(min(1.0, max(0.0, value)))


def _draw(number, looked_at):
    picture = Image.new("RGB", (64, 64), "black")
    pen = ImageDraw.Draw(picture)
    pen.ellipse((8, 10 + 4 * number, 26, 28 + 4 * number), fill="red")
    pen.rectangle((36, 30 - 3 * number, 54, 48 - 3 * number), fill="blue")
    pen.polygon([(30, 58), (38, 44), (46, 58)], fill="lime")
    return picture.convert("L").convert("RGB") if looked_at else picture
