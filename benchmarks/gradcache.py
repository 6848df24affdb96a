"""One contrastive step on a batch that would not fit: cached by sub-batches, against the sub-batch and the whole.

The memory of a process's peak beyond what it held before is shown for a step on the sub-batch alone, and for a step on
the large batch in parts of that size; on a batch that fits, the gradients of both ways must be equal to 1e-4. Every
measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _side_by_side import apart, arguments, held_bytes, peak_bytes, report

from chiasm.models import Clip, build_model
from chiasm.models.presets import clip_preset
from chiasm.objectives import Contrastive
from chiasm.progress import track
from chiasm.types import Batch

VOCABULARY = 4096


def main() -> None:
    parser = arguments(__doc__, repeat=1, repeated="measurements of each")
    parser.add_argument("--size", type=int, default=4096, help="pairs of the large batch (default: 4096)")
    parser.add_argument("--part", type=int, default=128, help="pairs of a sub-batch (default: 128)")
    parser.add_argument("--fits", type=int, default=512, help="pairs on which gradients are compared (default: 512)")
    parser.add_argument("--measure", nargs=3, metavar=("PAIRS", "PARTS", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.toy:
        args.size, args.part, args.fits = 64, 8, 32
    if args.measure:
        pairs, parts, file = args.measure
        torch.save(step("tiny" if args.toy else "small", int(pairs), int(parts)), file)
        return
    ways = [(args.part, 1), (args.fits, 1), (args.fits, args.fits // args.part), (args.size, args.size // args.part)]
    runs: dict[tuple[int, int], list[dict[str, Any]]] = {way: [] for way in ways}
    jobs = [way for _ in range(args.repeat) for way in ways]
    with tempfile.TemporaryDirectory() as folder:
        for pairs, parts in track(jobs, "measuring", total=len(jobs)):
            file = Path(folder) / "measured.pt"
            words = ["--measure", str(pairs), str(parts), str(file), *(["--toy"] if args.toy else [])]
            subprocess.run([sys.executable, __file__, *words], check=True)
            runs[pairs, parts].append(torch.load(file))
    whole, cached = (runs[way][0]["gradients"] for way in ways[1:3])
    difference = apart(whole, cached)
    if not difference <= 1e-4:
        raise SystemExit(f"the gradients differ by {difference:.2g}")
    rows = [
        {
            "pairs": pairs,
            "parts": parts,
            "GiB": min(run["GiB"] for run in runs[pairs, parts]),
            "s": min(run["s"] for run in runs[pairs, parts]),
            "gradients apart": difference if (pairs, parts) == ways[2] else None,
        }
        for pairs, parts in ways
    ]
    report("A step of the contrastive loss, whole and cached by parts (preset small, fp32)", rows, args.out)


def step(preset: str, pairs: int, parts: int) -> dict[str, Any]:
    """Forward and backward of one batch."""
    torch.manual_seed(0)
    model = build_model(clip_preset(preset).completed(VOCABULARY, 3))
    assert isinstance(model, Clip)
    batch = drawn(model, pairs)
    held = held_bytes()
    start = time.perf_counter()
    Contrastive().backward(model, batch, parts, lambda loss: loss.backward())
    seconds = time.perf_counter() - start
    gradients = [p.grad for p in model.parameters()]
    return {"s": seconds, "GiB": (peak_bytes() - held) / 2**30, "gradients": gradients}


def drawn(model: Clip, pairs: int) -> Batch:
    """Noise as pictures, arbitrary words as texts."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, VOCABULARY, (pairs, 10), generator=generator)
    ids[:, 0], ids[:, -1] = model.config.rules.start, model.config.rules.eot
    return Batch(
        images=torch.randn(pairs, 3, *model.config.size, generator=generator),
        ids=ids,
        keep=torch.ones_like(ids, dtype=torch.bool),
        image_ids=torch.arange(pairs),
        text_ids=torch.arange(pairs),
        keys=tuple(map(str, range(pairs))),
    )


if __name__ == "__main__":
    main()
