"""Contrastive losses over one batch, forward and backward, against open_clip's: seconds, peak memory, exactness.

Every measurement is a process of its own, the sides in turn; memory is the process's peak beyond what it held before
(read from /proc, so on Linux). All sides get the same fp32 embeddings, of which no two are equal, since open_clip does
not know of repeats. open_clip's bf16 is as its trainer runs (autocast) and, faster, with embeddings made bf16 first.
"error" is the norm of the difference of the embeddings' gradients from those of float64, by their norm; that of a side
in fp32 must be below 1e-3. MFU counts the three products that the mathematics needs against the matmul peak of
the same precision in this run. What holds the whole matrix needs over 15 GiB at 32,768 pairs: sides are compared on
--plain-size pairs, and the chunked ones alone measured on --size.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _peers import enter_peers
from _side_by_side import add_precision, arguments, held_bytes, median_seconds, peak_bytes, report
from torch import Tensor
from torch.nn.functional import normalize

from chiasm.losses import info_nce, sigmoid_pairs
from chiasm.progress import track

LOSSES = {"InfoNCE": info_nce, "sigmoid": sigmoid_pairs}
OPEN_CLIP = ("open_clip fp32", "open_clip bf16 autocast", "open_clip bf16 embeddings")
RATIOS = [("of fp32", OPEN_CLIP[0], "s"), ("of autocast", OPEN_CLIP[1], "s"), ("of bf16", OPEN_CLIP[2], "s"),
          ("of fp32 MiB", OPEN_CLIP[0], "MiB")]  # fmt: skip
"""A side's time or memory by that of a side of open_clip."""
CHUNKED = ("chunked fp32", "chunked bf16")
WIDTH = 512
WARM = 256
"""Rows of a first, small call, which starts threads and loads kernels."""


def main() -> None:
    parser = arguments(__doc__, repeat=3, repeated="measurements of each side")
    parser.add_argument("--size", type=int, default=32_768, help="pairs in the batch (default: 32768)")
    parser.add_argument("--plain-size", type=int, default=16_384, help="pairs of the comparison (default: 16384)")
    parser.add_argument("--chunk", type=int, default=1024, help="rows of a chunk (default: 1024)")
    parser.add_argument("--scale", type=float, default=1 / 0.07, help="of the similarities (default: 14.3)")
    add_precision(parser)
    parser.add_argument("--measure", nargs=3, metavar=("LOSS", "SIDE", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.toy:
        args.size, args.plain_size, args.chunk = 1024, 1024, 128
    if args.measure:
        name, side, file = args.measure
        torch.save(measure(name, side, args), file)
        return
    if not args.toy:
        enter_peers()
    report(f"Forward and backward of pairs of width {WIDTH}, chunks of {args.chunk}", compare(args), args.out)


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the sides in turn; the float64 gradients once, on the smaller batch."""
    peers = OPEN_CLIP if importlib.util.find_spec("open_clip") else ()
    peak = {precision: measure_peak(precision) for precision in (torch.float32, torch.bfloat16)}
    rows = []
    for name in LOSSES:
        sides = {args.size: CHUNKED} | {args.plain_size: ("plain", *CHUNKED, *(peers if name == "InfoNCE" else ()))}
        for size, of_size in sides.items():
            of_size = tuple(side for side in of_size if args.precision == "all" or "bf16" not in side)
            runs = run_all(name, size, of_size, args)
            inputs = drawn(name, size, args.scale)
            exact = side_of(name, "float64", args.chunk)(*inputs) if "plain" in of_size else None
            rows += [row_of(name, size, side, runs, exact, peak) for side in of_size]
    return rows


def run_all(name: str, size: int, sides: tuple[str, ...], args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The measurements of each side, taken in turn."""
    runs = defaultdict(list)
    jobs = [side for _ in range(args.repeat) for side in sides]
    for side in track(jobs, f"{name}, {size:,} pairs", total=len(jobs)):
        runs[side].append(run_once(name, size, side, args))
    return runs


def run_once(name: str, size: int, side: str, args: argparse.Namespace) -> dict[str, Any]:
    """One measurement, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "measured.pt"
        options = ["--size", str(size), "--chunk", str(args.chunk), "--scale", str(args.scale)]
        command = [sys.executable, __file__, *options, "--measure", name, side, str(file)]
        subprocess.run(command, check=True)
        return torch.load(file)


def measure(name: str, side: str, args: argparse.Namespace) -> dict[str, Any]:
    """One forward and backward pass in this process."""
    gradients_of = side_of(name, side, args.chunk)
    gradients_of(*drawn(name, WARM, args.scale))
    inputs, ids = drawn(name, args.size, args.scale)
    forget_peak()
    held, start = held_bytes(), time.perf_counter()
    gradients = gradients_of(inputs, ids)
    seconds = time.perf_counter() - start
    return {"s": seconds, "MiB": (peak_bytes() - held) / 2**20, "gradients": gradients}


def side_of(name: str, side: str, chunk: int) -> Callable[[list[Tensor], list[Tensor]], tuple[Tensor, ...]]:
    """The gradients by that side, of fp32 inputs."""

    def chiasm(inputs: list[Tensor], ids: list[Tensor]) -> tuple[Tensor, ...]:
        if side == "float64":
            inputs = [leaf.detach().double().requires_grad_() for leaf in inputs]
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in side):
            loss = LOSSES[name](*inputs, *ids, chunk=None if side == "plain" else chunk)
        return torch.autograd.grad(loss, inputs)

    def open_clip(inputs: list[Tensor], ids: list[Tensor]) -> tuple[Tensor, ...]:
        from open_clip.loss import ClipLoss  # pyright: ignore[reportMissingImports]

        images, texts, log_scale = inputs
        scale = log_scale.exp()
        if side.endswith("embeddings"):
            images, texts, scale = images.bfloat16(), texts.bfloat16(), scale.bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=side.endswith("autocast")):
            loss = ClipLoss()(images, texts, scale)
        return torch.autograd.grad(loss, inputs)

    return open_clip if side in OPEN_CLIP else chiasm


def drawn(name: str, size: int, scale: float) -> tuple[list[Tensor], list[Tensor]]:
    """Unit embeddings of which a pair's two lie near each other, log-scale (and bias), and their ids."""
    g = torch.Generator().manual_seed(0)
    images = normalize(torch.randn(size, WIDTH, generator=g), dim=1)
    texts = normalize(images + 0.1 * torch.randn(size, WIDTH, generator=g), dim=1)
    of_loss = [torch.tensor(scale).log(), torch.tensor(-10.0)][: 2 if name == "sigmoid" else 1]
    return [leaf.requires_grad_() for leaf in (images, texts, *of_loss)], [torch.arange(size)] * 2


def forget_peak() -> None:
    """Give memory that was freed back to the system, and count this process's peak from here."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def measure_peak(precision: torch.dtype) -> float:
    """The operations of a second of a square matrix product."""
    square = torch.randn(2048, 2048).to(precision)
    return 2 * 2048**3 / median_seconds({"product": lambda: square @ square}, 9)["product"]


def row_of(
    name: str,
    size: int,
    side: str,
    runs: dict[str, list[dict[str, Any]]],
    exact: tuple[Tensor, ...] | None,
    peak: dict[torch.dtype, float],
) -> dict[str, Any]:
    """Medians of a side, also relative to the peer's, and the error of its gradients."""
    ours = {key: statistics.median(run[key] for run in runs[side]) for key in ("s", "MiB")}
    row = {"loss": name, "pairs": size, "side": side, **ours}
    for column, peer, key in RATIOS:
        theirs = statistics.median(run[key] for run in runs[peer]) if peer in runs else None
        row[column] = ours[key] / theirs if theirs else None
    row["MFU"] = 6 * size**2 * WIDTH / ours["s"] / peak[torch.bfloat16 if "bf16" in side else torch.float32]
    error = error_of(runs[side][0]["gradients"], exact) if exact else None
    if error is not None and "bf16" not in side and not error <= 1e-3:
        raise SystemExit(f"{name}, {side}: the gradients are {error:.2g} from those of float64")
    return row | {"error": error}


def error_of(gradients: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> float:
    """The largest relative error of the embeddings' gradients (norm of the difference by norm)."""
    return max(
        ((mine - wanted).norm() / wanted.norm()).item() for mine, wanted in zip(gradients[:2], exact[:2], strict=True)
    )


if __name__ == "__main__":
    main()
