"""`chiasm cost`: what a model costs, before it is trained."""

from __future__ import annotations

from pathlib import Path

from chiasm.cli.settings import ModelName, apply_settings, fused, read_settings, start_settings
from chiasm.config import merge
from chiasm.cost import model_cost
from chiasm.errors import UserError
from chiasm.models.captioner import CaptionerFusion


def cost(
    model: ModelName = "captioner",
    preset: str = "small",
    *,
    fusion: CaptionerFusion | None = None,
    batch_size: int = 128,
    pictures: int = 10_000,
    epochs: float = 30.0,
    vocabulary: int = 4096,
    text_tokens: int = 12,
    classes: int = 10,
    config: Path | None = None,
    set: tuple[str, ...] = (),
) -> int:
    """Parameters, FLOPs, memory and minutes of training a model on this machine.

    FLOPs are counted, attention included; time is that of a step measured here, in seconds.

    Args:
        model: what would be trained
        preset: sizes to start from, as for `chiasm train`
        fusion: of a captioner or a fusion, as for `chiasm train`
        batch_size: pictures in a step (texts, of a model that sees none)
        pictures: in the training split
        epochs: how often each picture is seen
        vocabulary: tokens of the tokenizer, of a model that reads texts
        text_tokens: tokens of a caption or a question
        classes: what a classifier tells apart
        config: a YAML or JSON file of settings, nested as a run's config.json
        set: any setting by its path, as model.vision.width=192
    """
    settings = start_settings(model, preset, fusion=fusion)
    if config is not None:
        settings = merge(settings, read_settings(config))
    settings = apply_settings(fused(settings, fusion), set)
    counts = {"batch-size": batch_size, "pictures": pictures, "vocabulary": vocabulary, "classes": classes}
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"--{name} is {value}", "It must be at least 1.")
    sizes = settings.completed(vocabulary, classes=tuple(map(str, range(classes)))).model
    if sizes.rules is not None and not 2 <= text_tokens <= sizes.rules.context:
        hint = f"It must be at least 2 and at most the context, {sizes.rules.context}."
        raise UserError(f"--text-tokens is {text_tokens}", hint)
    found = model_cost(sizes, batch_size=batch_size, text_tokens=text_tokens)
    steps = epochs * (pictures // batch_size or 1)
    rows = [
        ("parameters", f"{found.parameters:,}"),
        ("forward, one picture", f"{found.forward_flops / batch_size / 1e9:.2f} GFLOP"),
        ("training step", f"{found.step_flops / 1e9:,.0f} GFLOP ({batch_size} pictures)"),
        ("memory", f"{(found.state_bytes + found.activation_bytes) / 2**20:,.0f} MiB in fp32 "
                   f"(weights, gradients, optimizer {found.state_bytes / 2**20:,.0f}; activations "
                   f"{found.activation_bytes / 2**20:,.0f})"),
    ]  # fmt: skip
    for precision, seconds in found.step_seconds.items():
        rows.append((f"{precision} step here", f"{seconds:.3f} s, {batch_size / seconds:,.0f} pictures/s, "
                     f"{found.step_flops / seconds / 1e9:,.0f} GFLOP/s"))  # fmt: skip
    fastest = min(found.step_seconds.values())
    rows.append(("training", f"{fastest * steps / 60:,.1f} minutes for {pictures:,} pictures x {epochs:g} epochs "
                 f"({steps:,.0f} steps)"))  # fmt: skip
    print("\n".join(f"{name:<22}{value}" for name, value in rows))
    return 0
