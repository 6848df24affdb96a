"""Contrastive losses over one batch, forward and backward, plain and in chunks: seconds and peak memory.

Every measurement is a process of its own, the sides in turn. "CPU s" sums over threads and, unlike the seconds on the
clock, hardly depends on what else the machine does; memory is the process's peak beyond what it held before (read from
/proc, so on Linux). The gradients of both sides must be equal to 1e-5. The plain InfoNCE holds six batch x batch
matrices at its peak, 25 GiB at 32,768 pairs: the sides are compared on --plain-size pairs, and the chunked side alone
is measured on --size. Where there is memory for it, give `--plain-size 32768`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from _side_by_side import RESULTS, apart, held_bytes, peak_bytes, report
from torch import Tensor
from torch.nn.functional import normalize

from chiasm.losses import info_nce, sigmoid_pairs
from chiasm.progress import track

LOSSES = {"InfoNCE": info_nce, "sigmoid": sigmoid_pairs}
WIDTH = 512
WARM = 256
"""Rows of a first, small call, which starts threads and loads kernels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32_768, help="pairs in the batch (default: 32768)")
    parser.add_argument("--plain-size", type=int, default=16_384, help="pairs of the comparison (default: 16384)")
    parser.add_argument("--chunk", type=int, default=1024, help="rows of a chunk (default: 1024)")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each side (default: 3)")
    parser.add_argument("--toy", action="store_true", help="a small batch, to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "contrastive.json")
    parser.add_argument("--measure", nargs=3, metavar=("LOSS", "CHUNK", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.toy:
        args.size, args.chunk = 1024, 128
    if args.measure:
        name, chunk, file = args.measure
        torch.save(measure(name, args.size, int(chunk) or None), file)
    else:
        sides = {args.size: (args.chunk,)} | {min(args.plain_size, args.size): (0, args.chunk)}
        rows = compare(sides, args.repeat)
        report(f"Forward and backward of pairs of width {WIDTH}, plain and in chunks of {args.chunk}", rows, args.out)


def compare(sides: dict[int, tuple[int, ...]], repeat: int) -> list[dict[str, Any]]:
    """Measure both losses on so many pairs, whole (0) and in chunks, in turn."""
    jobs = [(name, size, chunk) for name in LOSSES for size in sides for _ in range(repeat) for chunk in sides[size]]
    seen: dict[tuple[str, int], dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        for name, size, chunk in track(jobs, "measuring", total=len(jobs)):
            file = Path(folder) / "measured.pt"
            command = [sys.executable, __file__, "--size", str(size), "--measure", name, str(chunk), str(file)]
            subprocess.run(command, check=True, env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ})  # as the command line
            seen[name, size][chunk].append(torch.load(file))
    return [row_of(name, size, by_chunk) for (name, size), by_chunk in seen.items()]


def measure(name: str, size: int, chunk: int | None) -> dict[str, Any]:
    """One forward and backward pass in this process."""
    run(name, *drawn(name, WARM), chunk)
    inputs, ids = drawn(name, size)
    held = held_bytes()
    start, start_cpu = time.perf_counter(), time.process_time()
    gradients = run(name, inputs, ids, chunk)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    return {"s": seconds, "CPU s": cpu, "GiB": (peak_bytes() - held) / 2**30, "gradients": gradients}


def drawn(name: str, size: int) -> tuple[list[Tensor], list[Tensor]]:
    """Unit embeddings of which a pair's two lie near each other, log-scale (and bias); ids of which some repeat."""
    g = torch.Generator().manual_seed(0)
    images = normalize(torch.randn(size, WIDTH, generator=g), dim=1)
    texts = normalize(images + 0.1 * torch.randn(size, WIDTH, generator=g), dim=1)
    of_loss = [torch.tensor(2.66), torch.tensor(-10.0)][: 2 if name == "sigmoid" else 1]
    ids = [torch.randint(size, (size,), generator=g) for _ in range(2)]
    return [leaf.requires_grad_() for leaf in (images, texts, *of_loss)], ids


def run(name: str, inputs: list[Tensor], ids: list[Tensor], chunk: int | None) -> tuple[Tensor, ...]:
    return torch.autograd.grad(LOSSES[name](*inputs, *ids, chunk=chunk), inputs)


def row_of(name: str, size: int, runs: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of both sides, and how far their gradients are apart, relative to the largest of each tensor."""
    plain, chunked = runs.pop(0, None), next(iter(runs.values()))
    row: dict[str, Any] = {"loss": name, "pairs": size}
    for key in ("s", "CPU s", "GiB"):
        ours = statistics.median(run[key] for run in chunked)
        theirs = statistics.median(run[key] for run in plain) if plain else None
        row |= {f"plain {key}": theirs, key: ours, f"{key} ratio": ours / theirs if theirs else None}
    row["apart"] = apart(plain[0]["gradients"], chunked[0]["gradients"]) if plain else None
    if plain and not row["apart"] <= 1e-5:
        raise SystemExit(f"{name}: the gradients differ by {row['apart']:.2g}")
    return row


if __name__ == "__main__":
    main()
