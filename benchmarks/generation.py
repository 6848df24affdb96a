"""Greedy captions per second, against the lesson's `generate` with the same weights; the tokens must be equal.

Rows "stops at the end": chiasm stops at EOT, the lesson runs all its steps; tokens are equal up to EOT. Rows "all
steps": neither may write EOT before the last step, so that both take as many steps.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from _lesson import EOT, LessonCaptioner
from _side_by_side import arguments, median_seconds, report
from torch import Tensor, nn

from chiasm.data.shapes import ShapesConfig, draw_shapes
from chiasm.data.transforms import normalize
from chiasm.generate import GenerateConfig, generate
from chiasm.models import Captioner
from chiasm.models.language import TextRules
from chiasm.models.presets import captioner_tiny
from chiasm.nn import Attention, Block
from chiasm.progress import track
from chiasm.train.config import DataConfig, RunConfig, TrainConfig
from chiasm.train.run import Run, fit

LIMITS = 12, 64
SLOW_REPEATS = 25
"""A single caption takes milliseconds: it is timed so many times as often."""


def main() -> None:
    parser = arguments(__doc__, repeat=5, repeated="measurements of each side")
    args = parser.parse_args()
    batches = (1, 4) if args.toy else (1, 32, 256)
    model, images = trained_captioner(max(batches), steps=20 if args.toy else 120)
    lesson = as_lesson(model)
    jobs = [(forced, batch, limit) for forced in (False, True) for batch in batches for limit in LIMITS]
    rows = []
    for forced, batch, limit in track(jobs, "captioning", total=len(jobs)):
        repeat = args.repeat * (1 if args.toy or batch > 1 else SLOW_REPEATS)
        rows.append(compare(model, lesson, images[:batch], limit, forced=forced, repeat=repeat))
    report("Greedy captions per second, lesson and chiasm", rows, args.out)


def trained_captioner(pictures: int, steps: int) -> tuple[Captioner, Tensor]:
    """A captioner of the lesson's sizes and 64 tokens, trained until it stops where captions end; and new pictures."""
    sizes = captioner_tiny()
    sizes = replace(sizes, decoder=replace(sizes.decoder, rules=TextRules(context=max(LIMITS) + 2)))
    data = DataConfig(path="shapes", shapes=ShapesConfig(difficulty="lesson", samples=624))
    train = TrainConfig(steps=steps, batch_size=32, learning_rate=2e-3, precision="fp32", label_smoothing=0.0,
                        ema_decay=0.0, augment=None, keep="last", validate_every_epochs=100.0)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CHIASM_CACHE"] = folder
        bundle = fit(Run(RunConfig(data=data, model=sizes, train=train), Path(folder) / "run")).bundle
    assert bundle is not None
    drawn = draw_shapes(ShapesConfig(difficulty="lesson", samples=max(10, pictures), seed=1))
    return bundle.model, normalize(drawn.pixels[:pictures], bundle.preprocess)


def compare(
    model: Captioner, lesson: LessonCaptioner, images: Tensor, limit: int, *, forced: bool, repeat: int
) -> dict[str, object]:
    """Check that both write the same tokens, then time both."""
    rules = model.rules
    config = GenerateConfig(max_tokens=limit, min_tokens=limit if forced else 1)
    banned = (rules.pad, rules.bos, rules.eot) if forced else ()
    ours = [written[0].ids for written in generate(model, images, config)]
    theirs = [before_end(ids) for ids in lesson.generate(images, limit, banned).tolist()]
    if ours != theirs:
        different = sum(a != b for a, b in zip(ours, theirs, strict=True))
        raise SystemExit(f"{different} of {len(images)} texts differ (batch {len(images)}, {limit} tokens)")
    seconds = median_seconds(
        {
            "lesson": lambda: lesson.generate(images, limit, banned),
            "chiasm": lambda: generate(model, images, config),
        },
        repeat,
    )
    return {
        "tokens": "all steps" if forced else "stops at the end",
        "batch": len(images),
        "limit": limit,
        "written": sum(map(len, ours)) / len(ours),
        "lesson/s": len(images) / seconds["lesson"],
        "chiasm/s": len(images) / seconds["chiasm"],
        "ratio": seconds["lesson"] / seconds["chiasm"],
    }


def before_end(ids: list[int]) -> tuple[int, ...]:
    """The tokens before EOT."""
    return tuple(ids[: ids.index(EOT)] if EOT in ids else ids)


@torch.no_grad()
def as_lesson(model: Captioner) -> LessonCaptioner:
    """The same weights in PyTorch's layers, whose keys and values have biases: zero here."""
    config = model.config.decoder
    lesson = LessonCaptioner(config.vocabulary, config.rules.context).eval()
    vision, decoder = model.vision, model.decoder
    lesson.encoder.patches.load_state_dict(vision.embed.project.state_dict())
    lesson.encoder.positions.copy_(vision.positions.table.flatten(1).T)
    lesson.encoder.layers.norm.load_state_dict(vision.norm.state_dict())
    for layer, block in zip(lesson.encoder.layers.layers, vision.blocks, strict=True):
        copy_block(layer, block)
    lesson.tokens.weight.copy_(decoder.embed.tokens.weight)
    lesson.positions.copy_(decoder.embed.positions)
    lesson.layers.norm.load_state_dict(decoder.norm.state_dict())
    lesson.head.weight.copy_(decoder.head.weight)
    for layer, block in zip(lesson.layers.layers, decoder.blocks, strict=True):
        copy_block(layer, block)
        copy_attention(layer.multihead_attn, block.attend_cross)
        layer.norm2.load_state_dict(block.norm_cross.state_dict())
        layer.norm3.load_state_dict(block.norm_mlp.state_dict())
    return lesson


def copy_block(layer: nn.Module, block: Block) -> None:
    """Self-attention, feed-forward and their norms; `norm2` is the feed-forward's where nothing stands between."""
    copy_attention(layer.self_attn, block.attend_self)
    layer.norm1.load_state_dict(block.norm_self.state_dict())
    layer.norm2.load_state_dict(block.norm_mlp.state_dict())
    layer.linear1.load_state_dict(block.mlp[0].state_dict())
    layer.linear2.load_state_dict(block.mlp[2].state_dict())


def copy_attention(theirs: nn.MultiheadAttention, ours: Attention) -> None:
    """One matrix for queries, keys and values."""
    theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
    theirs.in_proj_bias.zero_()
    theirs.in_proj_bias[: len(ours.query.bias)] = ours.query.bias
    theirs.out_proj.load_state_dict(ours.out.state_dict())


if __name__ == "__main__":
    main()
