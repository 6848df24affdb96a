"""What a comparison's numbers say, in sentences: who is best, who is within noise, who loses where."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chiasm.compare.budget import Solved
from chiasm.compare.config import CompareConfig
from chiasm.compare.results import ArmResult, Costs, Difference, Floor, Interval, Metric

ALIKE = 1.1
"""Costs that differ by a smaller factor than this are called alike."""
FEW = 4
"""So many arms are named one by one; of more, only the nearest."""


def verdict(
    metric: Metric,
    split: str,
    arms: Sequence[ArmResult],
    differences: Sequence[Difference],
    floors: Sequence[Floor] = (),
) -> tuple[str, ...]:
    """Two sentences, or three where there is a floor to compare with; they follow from the numbers alone."""
    scored = [arm for arm in arms if split in arm.scores]
    best = best_of(scored, split, metric)
    others = {d.arm: d for d in differences if d.split == split}
    rest = sorted((arm for arm in scored if arm is not best), key=lambda arm: -_better(arm, split, metric))
    alike = [arm for arm in rest if not others[arm.name].different]
    behind = [arm for arm in rest if others[arm.name].different]
    value = f"{metric.words} {_interval(best.scores[split])}"
    if not alike:
        first = f"{best.name} is best on {split}, with {value}."
    elif not behind:
        ahead = any(others[arm.name].difference.value for arm in rest)
        who = f"{best.name} is ahead" if ahead else "all are equal"
        first = f"No difference on {split} is beyond noise: {who}, with {value}."
    else:
        near = _and([arm.name for arm in alike])
        first = f"{best.name} is ahead on {split}, with {value}, but {near} cannot be told from it."
    told = [_alike(arm, best, others[arm.name]) for arm in alike]
    told += [_behind(arm, best, others[arm.name], split, metric) for arm in behind]
    sentences = [first, f"{'Of the others, ' if len(told) > 1 else ''}{'; '.join(told[:FEW])}."]
    broken = [arm.name for arm in arms if split not in arm.scores]
    if broken:
        sentences.append(f"Without a result: {_and(broken)}.")
    floor = _highest(floors, split, metric)
    if floor is not None:
        sentences.append(f"For comparison, {floor.name}: {_number(floor.scores[split].value)}.")
    return tuple(sentences)


def best_of(arms: Sequence[ArmResult], split: str, metric: Metric) -> ArmResult:
    """The arm with the best mean; the first of equals."""
    return max(arms, key=lambda arm: _better(arm, split, metric))


def held_equal(config: CompareConfig, arms: Sequence[Solved]) -> str:
    """What was the same for all arms, and how nearly."""
    off = max(abs(arm.off) for arm in arms)
    within = f", within {max(off, 0.0005):.1%}"
    equal = {
        "params": f"the parameters ({_span(arms, lambda a: a.parameters, _count)}{within})",
        "flops": f"the FLOPs of a training ({_span(arms, lambda a: a.flops, _flops)}{within}) and the samples seen",
        "time": f"the time of a training ({arms[0].arm.settings.train.minutes:g} minutes)"
        if arms[0].arm.settings.train.minutes
        else "the time of a training",
        "samples": f"the samples seen ({_span(arms, lambda a: a.samples, _count)})",
    }[config.equal]
    tuned = f", {config.tune} learning rates tried for each" if config.tune > 1 else ""
    data = "the data and, seed by seed, their order and augmentation"
    return f"{equal[0].upper()}{equal[1:]}; {data}; batch size, schedule and precision{tuned}."


def not_equal(config: CompareConfig, arms: Sequence[ArmResult]) -> str:
    """Which costs differed all the same, and by how much."""
    costs: dict[str, tuple[Callable[[Costs], float], Callable[[float], str]]] = {
        "parameters": (lambda c: c.parameters, _count),
        "FLOPs of a training": (lambda c: c.flops, _flops),
        "samples seen": (lambda c: c.samples, _count),
        "seconds of a training": (lambda c: c.seconds, lambda s: f"{s:,.0f}"),
    }
    held = {"params": {"parameters"}, "flops": {"FLOPs of a training"}, "time": {"seconds of a training"},
            "samples": {"samples seen"}}[config.equal]  # fmt: skip
    done = [arm for arm in arms if arm.scores]
    told = []
    for name, (of, shown) in costs.items():
        values = [float(of(arm.costs)) for arm in done]
        if name not in held and values and max(values) > ALIKE * min(values):
            told.append(f"{name} ({shown(min(values))} to {shown(max(values))})")
    text = _and(told) if told else "no other cost by more than a tenth"
    return f"{text[0].upper()}{text[1:]}."


def _alike(arm: ArmResult, best: ArmResult, difference: Difference) -> str:
    """How an arm that cannot be told from the best compares in time."""
    ratio = arm.costs.seconds / max(1e-9, best.costs.seconds)
    speed = f"{ratio:.1f} × slower" if ratio > ALIKE else f"{1 / ratio:.1f} × faster" if ratio < 1 / ALIKE else ""
    gap = _signed(difference.difference)
    if difference.doubt == "within noise":
        return f"{arm.name} is within noise ({gap}) and {speed or 'about as fast'}"
    doubt = f"{difference.doubt} (p = {difference.p_holm:.2g} among all pairs)"
    return f"{arm.name} is behind ({gap}), though {doubt}, and {speed or 'about as fast'}"


def _behind(arm: ArmResult, best: ArmResult, difference: Difference, split: str, metric: Metric) -> str:
    """How much an arm loses, and on which slice most."""
    lost = f"{arm.name} loses {_number(abs(difference.difference.value))}"
    mine, its = arm.slices.get(split, {}), best.slices.get(split, {})
    sign = 1 if metric.higher_is_better else -1
    losses = {name: sign * (its[name].value - mine[name].value) for name in mine if name in its}
    worst = max(losses, key=losses.__getitem__, default=None)
    if worst is None or losses[worst] <= abs(difference.difference.value):
        return lost
    return f"{lost}, most on {worst} ({_number(losses[worst])})"


def _highest(floors: Sequence[Floor], split: str, metric: Metric) -> Floor | None:
    """The best that can be had without the whole."""
    sign = 1 if metric.higher_is_better else -1
    known = [floor for floor in floors if split in floor.scores]
    return max(known, key=lambda floor: sign * floor.scores[split].value, default=None)


def _better(arm: ArmResult, split: str, metric: Metric) -> float:
    value = arm.scores[split].value
    return value if metric.higher_is_better else -value


def _interval(found: Interval) -> str:
    return f"{_number(found.value)} ({_number(found.low)} to {_number(found.high)})"


def _signed(found: Interval) -> str:
    return f"{found.value:+.3f}, {found.low:+.3f} to {found.high:+.3f}".replace("-", "−")


def _number(value: float) -> str:
    return f"{value:.3f}"


def _count(value: float) -> str:
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value:,.0f}"


def _flops(value: float) -> str:
    return f"{value / 1e12:,.1f} TFLOP" if value >= 1e12 else f"{value / 1e9:,.1f} GFLOP"


def _span(arms: Sequence[Solved], of: Callable[[Solved], float], shown: Callable[[float], str]) -> str:
    low, high = (shown(float(pick(of(arm) for arm in arms))) for pick in (min, max))
    return low if low == high else f"{low} to {high}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


__all__ = ["best_of", "held_equal", "not_equal", "verdict"]
