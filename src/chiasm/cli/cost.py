"""`chiasm cost`: what a model costs, before it is trained."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from chiasm.cli.settings import ModelName, apply_settings, fused, read_settings, start_settings
from chiasm.config import merge
from chiasm.cost import (
    PRECISIONS,
    free_bytes,
    largest_batch,
    model_cost,
    pictures_per_sequence,
    predicted_step_seconds,
    step_bytes,
    worthwhile_precisions,
)
from chiasm.errors import UserError
from chiasm.models import CaptionerConfig, FlamingoConfig, FusionClassifierConfig, ModelConfig
from chiasm.models.captioner import CaptionerFusion
from chiasm.progress import waiting
from chiasm.train.config import RunConfig

if TYPE_CHECKING:
    from chiasm.cost.growth import Growth

ORDER: tuple[CaptionerFusion, ...] = ("late", "early", "cross", "perceiver")
"""Of the fusions, as they are told."""


def cost(
    model: ModelName = "captioner",
    preset: str = "small",
    *,
    fusion: CaptionerFusion | None = None,
    task: Literal["label", "reconstruct", "mask"] | None = None,
    inputs: str | None = None,
    batch_size: int | None = None,
    pictures: int = 10_000,
    epochs: float = 30.0,
    vocabulary: int = 4096,
    text_tokens: int = 12,
    classes: int = 10,
    memory_gib: float | None = None,
    seconds: float = 2.0,
    grow: bool = False,
    picture: Path | None = None,
    config: Path | None = None,
    set: tuple[str, ...] = (),
) -> int:
    """Parameters, FLOPs, memory and minutes of training a model on this machine.

    FLOPs are counted, attention included. Memory is that of a step at its peak, followed without computing it. Time is
    that of whole training steps, measured here for two seconds; of smaller batches where one would take longer.

    Args:
        model: what would be trained
        preset: sizes to start from, as for `chiasm train`
        fusion: of a captioner or a fusion, as for `chiasm train`
        task: of a perceiver, as for `chiasm train`
        inputs: of a perceiver, as for `chiasm train`
        batch_size: pictures in a step (texts, of a model that sees none; sequences, of a flamingo); that of
            `chiasm train` unless given
        pictures: in the training split
        epochs: how often each picture is seen
        vocabulary: tokens of the tokenizer, of a model that reads texts
        text_tokens: tokens of a caption or a question, BOS and EOT included
        classes: what a classifier tells apart
        memory_gib: memory for the largest batch; what is free now unless given
        seconds: to measure steps for, in each precision
        grow: also how the FLOPs of each fusion grow with the pictures' size and the texts' length
        picture: draw that into this file
        config: a YAML or JSON file of settings, nested as a run's config.json
        set: any setting by its path, as model.vision.width=192
    """

    def complete(fusion: CaptionerFusion | None) -> RunConfig:
        settings = start_settings(model, preset, fusion=fusion, task=task, inputs=inputs)
        if config is not None:
            settings = merge(settings, read_settings(config))
        settings = apply_settings(fused(settings, fusion), set)
        return settings.completed(vocabulary, classes=tuple(map(str, range(classes))))

    if model != "perceiver" and (task is not None or inputs is not None):
        raise UserError(
            f"The cost of a {model} is the same whatever its task", "Only a perceiver has --task, --inputs."
        )
    counts = {"batch-size": batch_size, "pictures": pictures, "epochs": epochs, "vocabulary": vocabulary,
              "classes": classes, "memory-gib": memory_gib, "seconds": seconds}  # fmt: skip
    for name, value in counts.items():
        if value is not None and value <= 0:
            raise UserError(f"--{name} is {value:g}", "It must be above 0.")
    settings = complete(fusion)
    if settings.train.tune != "full":
        raise UserError(
            f"train.tune is {settings.train.tune}", "chiasm cost knows what training the whole model costs."
        )
    rows = batch_size or settings.train.batch_size
    _check_tokens(settings.model, text_tokens)
    if (grow or picture is not None) and not isinstance(settings.model, (CaptionerConfig, FusionClassifierConfig)):
        raise UserError(f"A {model} has no fusions to compare", "Ask for a captioner or a fusion.")
    memory = free_bytes() if memory_gib is None else round(memory_gib * 2**30)
    shown = _counted(settings, rows, text_tokens)
    shown += _memory(settings, rows, text_tokens, memory, "free now" if memory_gib is None else "given")
    shown += _time(settings, rows, text_tokens, pictures, epochs, seconds)
    print("\n".join(line.rstrip() for line in shown))
    if grow or picture is not None:
        _show_growth({name: complete(name).model for name in ORDER}, text_tokens, grow, picture)
    return 0


def _check_tokens(model: ModelConfig, text_tokens: int) -> None:
    if model.rules is None:
        return
    most = model.rules.context - (1 if isinstance(model, FlamingoConfig) else 0)  # BOS stands before all texts
    if not 2 <= text_tokens <= most:
        raise UserError(
            f"--text-tokens is {text_tokens}",
            f"It must be at least 2 and at most {most}: the model's context is {model.rules.context}.",
        )


def _counted(settings: RunConfig, rows: int, text_tokens: int) -> list[str]:
    """What does not depend on the machine."""
    found = model_cost(settings.model, batch_size=rows, text_tokens=text_tokens, measure=False)
    height, width = settings.model.size
    each = pictures_per_sequence(settings.model, text_tokens)
    pictures = f"{height} x {width} pixels" if height else ""
    texts = f"{text_tokens} tokens" if settings.model.rules else ""
    of = " and ".join(filter(None, (pictures, texts)))
    return [
        _line("parameters", f"{found.parameters:,}"),
        _line("forward, one row", _flops(found.forward_flops / rows), f"of {f'{each} times ' if each > 1 else ''}{of}"),
        _line("training step", _flops(found.step_flops), f"{rows:,} rows, forward and backward"),
    ]


def _memory(settings: RunConfig, rows: int, text_tokens: int, memory: int, whose: str) -> list[str]:
    """Of a step, and of the largest batch, a column for each precision."""
    train = settings.train
    sizes = {"text_tokens": text_tokens, "accumulate": train.accumulate, "optimizer": train.optimizer}
    with waiting("Following the memory of a step"):
        peaks = [step_bytes(settings.model, batch_size=rows, precision=p, **sizes) for p in PRECISIONS]
        most = [largest_batch(settings.model, memory_bytes=memory, precision=p, **sizes) for p in PRECISIONS]
    return [
        "",
        _line("", *PRECISIONS),
        _line("memory at the peak", *(_bytes(peak.peak) for peak in peaks),
              f"of it {_bytes(peaks[0].state)} weights, moments, average"),
        _line("largest batch", *(f"{n:,}" if n else "none" for n in most), f"in {_bytes(memory)} {whose}"),
    ]  # fmt: skip


def _time(
    settings: RunConfig, rows: int, text_tokens: int, pictures: int, epochs: float, budget_seconds: float
) -> list[str]:
    """Of a step here, and of the whole training, a column for each precision."""
    model, train = settings.model, settings.train
    precisions = worthwhile_precisions()
    try:
        with waiting("Measuring training steps"):
            measured = predicted_step_seconds(
                model, rows, text_tokens, budget_seconds=budget_seconds, precisions=precisions,
                accumulate=train.accumulate, optimizer=train.optimizer,
            )  # fmt: skip
    except UserError as error:  # all the rest is worth knowing
        return [_line("a step here", "-", "-", f"not measured: {error.message}")]
    seconds = [measured.get(precision) for precision in PRECISIONS]
    shown = rows * pictures_per_sequence(model, text_tokens)
    steps = max(1, round(epochs * max(1, pictures // shown)))
    what = "texts" if model.size == (0, 0) else "pictures"
    left_out = "" if len(precisions) == len(PRECISIONS) else "bf16 is slower on this processor, and is not measured"
    return [
        _line("a step here", *("-" if s is None else f"{s:.3g} s" for s in seconds),
              f"with clipping, {train.optimizer} and average"),
        _line(f"{what}/s", *("-" if s is None else f"{shown / s:,.0f}" for s in seconds), left_out),
        _line("training", *("-" if s is None else _duration(s * steps) for s in seconds),
              f"{steps:,} steps: {pictures:,} {what} x {epochs:g} epochs"),
    ]  # fmt: skip


def _show_growth(models: dict[str, ModelConfig], text_tokens: int, grow: bool, picture: Path | None) -> None:
    """As a table, a picture, or both."""
    from chiasm.cost.growth import growth

    known = {name: c for name, c in models.items() if isinstance(c, (CaptionerConfig, FusionClassifierConfig))}
    grown = growth(known, text_tokens=text_tokens)
    if grow:
        print(_growth_table(grown, known["cross"].size[0], text_tokens))
    if picture is not None:
        from chiasm.figures import growth_figure

        size = " x ".join(map(str, known["cross"].size))
        by_pixels, by_tokens = f"texts of {text_tokens} tokens", f"pictures of {size} pixels"
        growth_figure([
            ("height of the picture, pixels", by_pixels, grown.pixels, grown.by_pixels),
            ("tokens of the text", by_tokens, grown.tokens, grown.by_tokens),
        ], picture)  # fmt: skip
        print(f"\ndrawn in {picture}")


def _growth_table(grown: Growth, pixels: int, text_tokens: int) -> str:
    """GFLOP of a step on one row, a line for each size."""
    lines = ["", "GFLOP of a training step on one row, by fusion"]
    parts = (
        (f"pictures of ... pixels, texts of {text_tokens}", grown.pixels, grown.by_pixels),
        (f"texts of ... tokens, pictures of {pixels}", grown.tokens, grown.by_tokens),
    )
    for title, sizes, flops in parts:
        lines += ["", _cells(title, flops)]
        lines += [_cells(f"{size:,}", (_gflop(of[row]) for of in flops.values())) for row, size in enumerate(sizes)]
    return "\n".join(lines)


def _cells(name: str, values: Iterable[str]) -> str:
    return f"{name:<40}" + "".join(f"{value:>12}" for value in values)


def _gflop(flops: int | float) -> str:
    return f"{flops / 1e9:,.0f}" if flops >= 1e11 else f"{flops / 1e9:.3g}"


def _line(name: str, *values: str) -> str:
    """A name, its values in columns, and behind two columns a remark."""
    return f"{name:<20}" + "".join(f"{value:<16}" for value in values)


def _flops(flops: int | float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9)):
        if flops >= size:
            return f"{flops / size:.3g} {unit}FLOP"
    return f"{flops / 1e6:.3g} MFLOP"


def _bytes(size: int | float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


__all__ = ["cost"]
