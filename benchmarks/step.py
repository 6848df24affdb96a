"""A step of training beside open_clip's and transformers': contrastive at two sizes, its memory, and CoCa's.

Forward, loss, backward, clipping, AdamW; chiasm's, which is `chiasm.cost.Trainee`'s, keeps a moving average too. The
texts are the same, of 8 to 20 tokens: open_clip pads them to its context, transformers too unless told "longest", and
chiasm cuts them to the batch's longest, as their own loaders do. CLIPs start from the same weights, and the losses must
be equal; CoCas, which differ in their layout, have the same sizes, and the table says how much they compute. Each side
is a process of its own (memory is its peak's growth, of a first step), and they step in turn. Peers are timed as they
come and with what makes them fastest: eager attention, the fused optimizer, texts padded to the longest. The first step
of the whole batch is told by itself: where a model is compiled, it takes most of a minute.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from _peers import enter_peers
from _side_by_side import arguments, held_bytes, peak_bytes, report
from _steps import OwnStep, PeerStep, Sizes

MIB = 2**20
PEAK_SIZE = 2048
"""Rows and columns of the product of matrices whose speed counts as the machine's peak."""

SMALL = Sizes(name="ViT 6x256 64 px, text 4x256", pixels=64, patch=8, width=256, depth=6, text_width=256, text_depth=4,
              vocabulary=8192, context=32, batch=128)  # fmt: skip
LARGE = Sizes(name="ViT-B/32 224 px", pixels=224, patch=32, width=768, depth=12, text_width=512, text_depth=12,
              vocabulary=49_408, context=77, batch=16)  # fmt: skip
COCA = replace(SMALL, name="CoCa, ViT 6x256 64 px, text 4 + 4x512", text_width=512, batch=32, latents=256)
TOY = Sizes(name="toy", pixels=16, patch=8, width=64, depth=1, text_width=64, text_depth=1, vocabulary=64, context=24,
            batch=8)  # fmt: skip
FAST = {"fused": True}
PADDED = {"fused": True, "longest": True}


@dataclass(frozen=True)
class Side:
    """A package with its settings, in a process of its own."""

    label: str
    package: str
    settings: tuple[tuple[str, Any], ...] = ()
    precision: str = "bf16"

    @property
    def name(self) -> str:
        """As the table calls it."""
        return f"{self.label}, {self.precision}"

    @property
    def there(self) -> bool:
        """Whether it is installed."""
        return find_spec(self.package) is not None


def side(label: str, package: str, **settings: Any) -> Side:
    return Side(label, package, tuple(settings.items()))


OPEN_CLIP = [side("open_clip", "open_clip"), side("open_clip, fused", "open_clip", **FAST)]
TRANSFORMERS = [
    side("transformers", "transformers"),
    side("transformers, eager, fused", "transformers", eager=True, **FAST),
    side("transformers, eager, fused, longest", "transformers", eager=True, **PADDED),
]
CHIASM = side("chiasm", "chiasm")
ROWS: dict[str, tuple[Sizes, list[Side]]] = {
    "small": (SMALL, [*OPEN_CLIP, *TRANSFORMERS, CHIASM, side("chiasm, checkpointing", "chiasm", checkpointing=True),
                      side("chiasm, compiled", "chiasm", compile=True)]),
    "large": (LARGE, [*OPEN_CLIP, TRANSFORMERS[-1], CHIASM]),
    "coca": (COCA, [*OPEN_CLIP, CHIASM]),
}  # fmt: skip


def main() -> None:
    parser = arguments(__doc__, repeat=7, repeated="steps of each side")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="which rows (default: all)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--precision", choices=("bf16", "fp32"), default="bf16", help="fp32 where the processor has no bf16"
    )
    args = parser.parse_args()
    if not args.toy:
        enter_peers()
    rows = []
    for name in args.rows:
        sizes, sides = ROWS[name]
        sides = [replace(side, precision=args.precision) for side in sides if side.there]
        if args.toy:  # compiling takes a minute whatever the size
            sides = [side for side in sides if not dict(side.settings).get("compile")]
            sizes = replace(TOY, latents=4 if sizes.latents else 0)
        rows += compare(sizes, sides, args.repeat, None if args.toy else args.threads)
        report(f"Training steps, medians of {args.repeat}", rows, args.out)  # so far: a row takes minutes


class Process:
    """A side where it runs: a process of its own, or this one where no number of threads is given."""

    def __init__(self, side: Side, sizes: Sizes, threads: int | None):
        self.pool = None
        if threads is not None:
            self.pool = multiprocessing.get_context("spawn").Pool(1, torch.set_num_threads, (threads,))
        self.made = self.call(partial(begin, side, sizes))

    def call(self, job: Any) -> Any:
        """What a job returns there."""
        return job() if self.pool is None else self.pool.apply(job)


RUNNING: list[OwnStep | PeerStep] = []
"""The step of this process's side, or in a toy run of all sides."""


def begin(side: Side, sizes: Sizes) -> dict[str, Any]:
    """Build a side and take its first two steps; what is told of them."""
    kind = OwnStep if side.package == "chiasm" else PeerStep
    step = kind(side.package, sizes, side.precision, **dict(side.settings))
    loss = step.loss()
    step(rows=2)  # threads, kernels, moments
    before, start = held_bytes(), time.perf_counter()
    step()
    first_seconds = time.perf_counter() - start
    grown = max(0, peak_bytes() - before)
    RUNNING.append(step)
    return {"place": len(RUNNING) - 1, "loss": loss, "parameters": step.parameters, "flops": step.flops(),
            "peak MiB": grown / MIB, "first step s": first_seconds}  # fmt: skip


def step_seconds(place: int) -> float:
    start = time.perf_counter()
    RUNNING[place]()
    return time.perf_counter() - start


def matmul_seconds(precision: str) -> float:
    x = torch.randn(PEAK_SIZE, PEAK_SIZE, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    start = time.perf_counter()
    x @ x
    return time.perf_counter() - start


def compare(sizes: Sizes, sides: list[Side], repeat: int, threads: int | None) -> list[dict[str, Any]]:
    """Steps of all sides in turn, and in turn with them the products whose speed is the machine's."""
    processes = [Process(side, sizes, threads) for side in sides]
    if not sizes.latents:
        check_equal(sides, [process.made["loss"] for process in processes])
    seconds: list[list[float]] = [[] for _ in sides]
    products: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(repeat):
        for process, times in zip(processes, seconds, strict=True):
            times.append(process.call(partial(step_seconds, process.made["place"])))
        for precision, times in products.items():
            times += [processes[-1].call(partial(matmul_seconds, precision)) for _ in range(3)]
    for process in processes:
        if process.pool is not None:
            process.pool.terminate()
    RUNNING.clear()
    peaks = {precision: 2 * PEAK_SIZE**3 / statistics.median(times) for precision, times in products.items()}
    medians = [statistics.median(times) for times in seconds]
    first = next((i for i, s in enumerate(sides) if s.label == "open_clip"), 0)
    best = min((m for s, m in zip(sides, medians, strict=True) if s.package != "chiasm"), default=medians[0])
    return [
        {
            "sizes": sizes.name,
            "side": side.name,
            "ms": 1e3 * median,
            "images/s": sizes.batch / median,
            "x open_clip": medians[first] / median,
            "x best peer": best / median,
            "MFU": process.made["flops"] / median / peaks[side.precision],
            "GFLOP": process.made["flops"] / 1e9,
            "peak MiB": process.made["peak MiB"],
            "of open_clip's": process.made["peak MiB"] / (processes[first].made["peak MiB"] or float("nan")),
            "first step s": process.made["first step s"],
            "million parameters": process.made["parameters"] / 1e6,
        }
        for side, process, median in zip(sides, processes, medians, strict=True)
    ]


def check_equal(sides: list[Side], losses: list[float]) -> None:
    """The losses of equal weights on equal texts and pictures, in fp32."""
    for side, loss in zip(sides, losses, strict=True):
        if abs(loss - losses[-1]) > 1e-4 * losses[-1]:
            raise SystemExit(f"{side.name} has another loss than {sides[-1].name}: {loss} and {losses[-1]}")


if __name__ == "__main__":
    main()
