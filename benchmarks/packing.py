"""Texts of unlike lengths through a CLIP's text encoder: side by side in fewer rows, or a row each.

Forward and backward. Batches are cut to their longest text in both ways, and gradients must be equal. The emoji's
texts are words of one tokenizer trained on them; the others are of lengths drawn evenly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from _side_by_side import apart, arguments, median_seconds, report
from torch import Tensor

from chiasm.data.layouts import open_source
from chiasm.models import language
from chiasm.models.language import TextConfig, TextEncoder, TextRules
from chiasm.nn import packing
from chiasm.progress import track
from chiasm.text import Tokenizer

VOCABULARY = 8192
DRAWN = {"8 to 20 tokens": (8, 20), "8 to 60 tokens": (8, 60)}
TOLERANCE = 1e-3
"""Of the largest value of a gradient: sums in another order."""


def main() -> None:
    parser = arguments(__doc__, repeat=15, repeated="measurements of each way")
    args = parser.parse_args()
    batch, width, depth = (16, 32, 1) if args.toy else (128, 256, 4)
    batches = {"the emoji's": emoji(batch)} | {name: drawn(batch, *ends) for name, ends in DRAWN.items()}
    rows = []
    for name, texts in track(batches.items(), "texts", total=len(batches)):
        torch.manual_seed(0)
        rules = TextRules(context=77)
        encoder = TextEncoder(TextConfig(width=width, depth=depth, heads=4, vocabulary=VOCABULARY, rules=rules))
        rows.append({"texts": name} | compare(encoder, padded(texts, rules), args.repeat))
    report(f"Text encoder {depth}x{width}, batch {batch}, forward and backward", rows, args.out)


def compare(encoder: TextEncoder, ids: Tensor, repeat: int) -> dict[str, float]:
    """Check that both ways give the same gradients, then time both."""
    target = torch.randn(len(ids), encoder.width)

    def step(way: Callable) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            language.packing = way
            encoder.zero_grad()
            (encoder(ids).pooled * target).sum().backward()
            return [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]

        return run

    sides = {"a row each": step(lambda real: None), "packed": step(packing)}
    gradients = [[part.clone() for part in side()] for side in sides.values()]
    if apart(*gradients) > TOLERANCE:
        sys.exit(f"gradients are {apart(*gradients):.1e} apart")
    real = ids != encoder.config.rules.pad
    found = packing(real)
    seconds = median_seconds(sides, repeat)
    return {
        "real": float(real.float().mean()),
        "rows left": 1.0 if found is None else len(found.positions) / len(ids),
        **{f"{name}, ms": 1000 * value for name, value in seconds.items()},
        "times as fast": seconds["a row each"] / seconds["packed"],
    }


def emoji(batch: int) -> list[list[int]]:
    """Texts of the built-in emoji, evenly spread over all."""
    texts = [text for example in open_source("emoji").examples for text in example.texts]
    rows = Tokenizer.train(texts).rows(texts[:: len(texts) // batch][:batch], context=77)
    return [list(row) for row in rows]


def drawn(batch: int, shortest: int, longest: int) -> list[list[int]]:
    """Random words."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(shortest, longest + 1, (batch,), generator=generator).tolist()
    words = (torch.randint(3, VOCABULARY, (length - 2,), generator=generator).tolist() for length in lengths)
    return [[1, *text, 2] for text in words]


def padded(texts: list[list[int]], rules: TextRules) -> Tensor:
    """A row each, up to the longest."""
    rows = [torch.tensor(text) for text in texts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=rules.pad)


if __name__ == "__main__":
    main()
