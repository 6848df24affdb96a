"""Writing captions with a decoder's large layers in int8, beside itself: the picture's encoding counted, greedily.

The weights are random, enlarged so that pictures matter; what int8 does to a trained model's scores, `chiasm evaluate
--int8` tells.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from _side_by_side import arguments, median_seconds, report

from chiasm.generate import GenerateConfig, generate
from chiasm.models import Captioner, CaptionerConfig, build_model
from chiasm.models.decoder import DecoderConfig
from chiasm.models.language import TextRules
from chiasm.models.vision import VitConfig
from chiasm.nn import LEAST_WEIGHTS, quantize_int8
from chiasm.progress import track

SIZES = {"4 layers of 256, 8,192 words": (256, 4, 8192), "6 layers of 768, 50,257 words": (768, 6, 50_257)}
BATCHES = 1, 8, 64
TOKENS = 20


def main() -> None:
    args = arguments(__doc__, repeat=5, repeated="measurements of each side").parse_args()
    sizes, batches = ({"toy": (32, 2, 128)}, BATCHES[:1]) if args.toy else (SIZES, BATCHES)
    jobs = [(name, batch) for name in sizes for batch in batches]
    rows = []
    for name, batch in track(jobs, "writing", total=len(jobs)):
        rows.append(compare(name, *sizes[name], batch, args.repeat, 1024 if args.toy else LEAST_WEIGHTS))
    report(f"Writing in int8, {TOKENS} tokens", rows, args.out)


def compare(
    name: str, width: int, depth: int, vocabulary: int, batch: int, repeat: int, least_weights: int
) -> dict[str, Any]:
    """Both sides in turn."""
    plain = captioner(width, depth, vocabulary)
    rounded = deepcopy(plain)
    layers = quantize_int8(rounded.decoder, least_weights)
    images = torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    config = GenerateConfig(max_tokens=TOKENS)
    sides = {"fp32": lambda: generate(plain, images, config), "int8": lambda: generate(rounded, images, config)}
    seconds = median_seconds(sides, repeat)
    tokens = {side: batch * TOKENS / spent for side, spent in seconds.items()}
    return {"decoder": name, "batch": batch, "layers in int8": layers, "fp32 tokens/s": tokens["fp32"],
            "int8 tokens/s": tokens["int8"], "ratio": seconds["fp32"] / seconds["int8"],
            "first logits apart": apart(plain, rounded, images)}  # fmt: skip


@torch.inference_mode()
def apart(plain: Captioner, rounded: Captioner, images: torch.Tensor) -> float:
    """How far the logits of the first word are from each other, relative to how they vary over words."""
    start = torch.full((len(images),), plain.rules.start)
    one, other = (model.step(start, model.start(images)) for model in (plain, rounded))
    return float((other - one).std() / one.std())


def captioner(width: int, depth: int, vocabulary: int) -> Captioner:
    torch.manual_seed(0)
    heads = max(2, width // 64)
    vision = VitConfig(size=(64, 64), patch_pixels=8, width=width, depth=depth, heads=heads)
    decoder = DecoderConfig(width=width, depth=depth, heads=heads, vocabulary=vocabulary, rules=TextRules(context=66))
    model = build_model(CaptionerConfig(vision=vision, decoder=decoder))
    assert isinstance(model, Captioner)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data.mul_(3)
    return model.eval()


if __name__ == "__main__":
    main()
