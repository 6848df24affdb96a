"""A Perceiver that reads 50,176 tokens, beside transformers'; and what length costs it, beside a full transformer.

Both sides of the first part have the same weights, and equal outputs and gradients. Every number is of a process of its
own, so that memory is the peak of that job alone; sides and repetitions take turns.
"""

from __future__ import annotations

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _side_by_side import add_precision, arguments, held_bytes, peak_bytes, report
from torch import nn

from chiasm.models.perceiver import LatentConfig, PerceiverEncoder, ReadConfig
from chiasm.nn import Block
from chiasm.pretrained.perceiver import encoder_rules
from chiasm.pretrained.rules import to_ours
from chiasm.progress import track
from chiasm.types import Encoded

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
PASSES = {"forward": False, "forward + backward": True}
APART = {"fp32": 1e-4, "bf16": 0.1}
"""By how much outputs and gradients may differ at most, relative to the largest."""
MIB = 2**20
SLOW_SECONDS = 20.0
"""A first step that takes longer is the measurement."""


@dataclass(frozen=True)
class Sizes:
    """Of the encoder, and of its inputs."""

    tokens: int = 50_176
    input_width: int = 256
    latents: int = 256
    width: int = 512
    depth: int = 6
    heads: int = 8

    def config(self) -> LatentConfig:
        """With a read and an MLP as wide as transformers' are unless told otherwise."""
        read = ReadConfig(heads=self.heads, mlp_ratio=1.0)
        return LatentConfig(latents=self.latents, width=self.width, depth=self.depth, heads=self.heads, mlp_ratio=1.0,
                            read=read)  # fmt: skip


class FullTransformer(nn.Module):
    """The same blocks on the tokens themselves."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.embed = nn.Linear(sizes.input_width, sizes.width)
        self.blocks = nn.ModuleList(Block(sizes.width, sizes.heads, mlp_ratio=1.0) for _ in range(sizes.depth))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The last block's tokens."""
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return x


def main() -> None:
    parser = arguments(__doc__, repeat=5, repeated="how often each job runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--part", choices=("both", "peer", "curve"), default="both")
    parser.add_argument("--most", type=int, default=16_384, help="tokens up to which the transformer is measured")
    parser.add_argument("--picture", type=Path, help="draw the curve here")
    add_precision(parser)
    args = parser.parse_args()
    precisions = [precision for precision in PRECISIONS if args.precision in ("all", precision)]
    rows, threads = [], None if args.toy else args.threads
    if args.part in ("both", "peer"):
        sizes = Sizes(tokens=2100, input_width=16, latents=8, width=32, depth=2, heads=4) if args.toy else Sizes()
        rows += beside_transformers(sizes, precisions, args.repeat, threads)
    if args.part in ("both", "curve"):
        lengths = (64, 128) if args.toy else (1024, 4096, 16_384, 50_176, 200_704)
        sizes = Sizes(input_width=16, latents=8, width=32, depth=2, heads=4) if args.toy else Sizes()
        curve = cost_curve(sizes, lengths, args.most, min(args.repeat, 3), threads)
        rows += curve
        if args.picture is not None:
            draw(curve, args.picture)
    report(f"Perceivers, {args.repeat} times", rows, args.out)


def beside_transformers(sizes: Sizes, precisions: list[str], repeat: int, threads: int | None) -> list[dict[str, Any]]:
    """Time and memory of both sides, and how far apart their outputs and gradients are, which must be little."""
    sides = {"transformers": peer_step, "chiasm": own_step}
    kinds = [(precision, passes) for precision in precisions for passes in PASSES]
    jobs = [(name, *kind) for _ in range(repeat) for kind in kinds for name in sides]
    found: dict[tuple[str, str, str], list[tuple[float, int]]] = {}
    for name, precision, passes in track(jobs, "side by side", total=len(jobs)):
        job = partial(sides[name], backward=PASSES[passes])
        found.setdefault((name, precision, passes), []).append(in_process(job, sizes, precision, threads))
    apart = {precision: in_process(difference, sizes, precision, threads) for precision in precisions}
    ceiling = {precision: in_process(matmul_flops, sizes, precision, threads) for precision in precisions}
    for precision in precisions:
        if apart[precision] > APART[precision]:
            raise SystemExit(f"the sides differ by {apart[precision]:.2g} of the largest value in {precision}")
    rows = []
    for precision, passes in kinds:
        flops = theory(sizes, "perceiver") / (1 if PASSES[passes] else 3)
        for name in sides:
            values = found[name, precision, passes]
            seconds = statistics.median(seconds for seconds, _ in values)
            rows.append({
                "what": f"encoder, {precision}, {passes}", "side": name, "tokens": sizes.tokens, "ms": 1e3 * seconds,
                "peak MiB": statistics.median(size for _, size in values) / MIB,
                "of its time": 1.0, "of its memory": 1.0, "MFU": flops / seconds / ceiling[precision],
                "apart": apart[precision],
            })  # fmt: skip
        for row in rows[-2:]:
            row["of its time"] = row["ms"] / rows[-2]["ms"]
            row["of its memory"] = row["peak MiB"] / (rows[-2]["peak MiB"] or math.nan)  # too little to be seen
    return rows


def cost_curve(
    sizes: Sizes, lengths: tuple[int, ...], most: int, repeat: int, threads: int | None
) -> list[dict[str, Any]]:
    """Time and memory by the input's length, and what theory says: products of matrices, forward and backward."""
    rows = []
    sides: dict[str, Callable[..., tuple[float, int]]] = {"perceiver": own_step, "transformer": full_step}
    jobs = [(n, name) for n in lengths for name in sides if name == "perceiver" or n <= most]
    for n, name in track(jobs, "the curve", total=len(jobs)):
        values = [in_process(sides[name], sizes_of(sizes, n), "fp32", threads) for _ in range(repeat)]
        rows.append({
            "what": "cost of length, fp32", "side": name, "tokens": n,
            "ms": 1e3 * statistics.median(seconds for seconds, _ in values),
            "peak MiB": statistics.median(size for _, size in values) / MIB,
            "theory, GFLOP": theory(sizes_of(sizes, n), name) / 1e9,
        })  # fmt: skip
    unmeasured = [(n, name) for n in lengths for name in sides if (n, name) not in jobs]
    return rows + [
        {"what": "cost of length, fp32", "side": name, "tokens": n, "ms": None, "peak MiB": None,
         "theory, GFLOP": theory(sizes_of(sizes, n), name) / 1e9}
        for n, name in unmeasured
    ]  # fmt: skip


def sizes_of(sizes: Sizes, tokens: int) -> Sizes:
    return Sizes(tokens, sizes.input_width, sizes.latents, sizes.width, sizes.depth, sizes.heads)


def theory(sizes: Sizes, side: str) -> float:
    """Multiplications and additions of a step: linear in the tokens, or with their square; thrice those of forward."""
    n, m, d, c = sizes.tokens, sizes.latents, sizes.width, sizes.input_width

    def block(tokens: int) -> float:
        return 2 * tokens * 6 * d * d + 4 * tokens * tokens * d  # projections and MLP; the two products of attention

    if side == "transformer":
        return 3 * (2 * n * c * d + sizes.depth * block(n))
    return 3 * (2 * n * c * 2 * d + 4 * n * m * d + sizes.depth * block(m))


def own_step(sizes: Sizes, precision: str, backward: bool = True) -> tuple[float, int]:
    def forward(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        return model(Encoded(tokens=tokens)).tokens

    return measured(own_encoder(sizes), forward, sizes, precision, backward)


def peer_step(sizes: Sizes, precision: str, backward: bool = True) -> tuple[float, int]:
    def forward(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        return model(tokens).last_hidden_state

    return measured(peer_model(sizes), forward, sizes, precision, backward)


def full_step(sizes: Sizes, precision: str) -> tuple[float, int]:
    return measured(FullTransformer(sizes), lambda model, tokens: model(tokens), sizes, precision, True)


def measured(
    model: nn.Module, forward: Callable[..., torch.Tensor], sizes: Sizes, precision: str, backward: bool
) -> tuple[float, int]:
    """The median time of three steps after a first one, and by how much memory grew at most."""
    model = model.to(PRECISIONS[precision])
    tokens = torch.randn(1, sizes.tokens, sizes.input_width, dtype=PRECISIONS[precision])
    before = held_bytes()
    times: list[float] = []
    while len(times) < 4 and (not times or times[0] < SLOW_SECONDS):
        start = time.perf_counter()
        with torch.set_grad_enabled(backward):
            loss = forward(model, tokens).float().square().mean()
        if backward:
            loss.backward()
        times.append(time.perf_counter() - start)
        model.zero_grad(set_to_none=True)
    return statistics.median(times[1:] or times), max(0, peak_bytes() - before)


def matmul_flops(sizes: Sizes, precision: str) -> float:
    """The multiplications and additions per second of a square product of matrices: the ceiling."""
    side = 2048 if sizes.tokens > 10_000 else 256
    a = torch.randn(side, side, dtype=PRECISIONS[precision])
    times = []
    for _ in range(20):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times)


def difference(sizes: Sizes, precision: str) -> float:
    """By how much outputs and gradients of the latents differ at most, relative to the largest."""
    dtype = PRECISIONS[precision]
    theirs, ours = peer_model(sizes).to(dtype), own_encoder(sizes).to(dtype)
    tokens = torch.randn(1, sizes.tokens, sizes.input_width, dtype=dtype)
    outputs = [theirs(tokens).last_hidden_state, ours(Encoded(tokens=tokens)).tokens]
    for output in outputs:
        output.float().square().mean().backward()
    assert theirs.embeddings.latents.grad is not None and ours.latents.grad is not None
    pairs = [outputs, [theirs.embeddings.latents.grad, ours.latents.grad]]
    return max(
        float((a.detach().float() - b.detach().float()).abs().max() / a.detach().float().abs().max()) for a, b in pairs
    )


def peer_model(sizes: Sizes) -> Any:
    """transformers' PerceiverModel without dropout, its attention as wide as the latents."""
    from transformers import PerceiverConfig, PerceiverModel

    torch.manual_seed(0)
    return PerceiverModel(
        PerceiverConfig(
            num_latents=sizes.latents, d_latents=sizes.width, d_model=sizes.input_width,
            num_self_attends_per_block=sizes.depth, num_self_attention_heads=sizes.heads,
            num_cross_attention_heads=sizes.heads, cross_attention_shape_for_attention="q",
            attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


def own_encoder(sizes: Sizes) -> PerceiverEncoder:
    """Ours, with the weights of theirs."""
    encoder = PerceiverEncoder(sizes.config(), sizes.input_width)
    encoder.load_state_dict(to_ours(encoder_rules(sizes.depth, "", ""), peer_model(sizes).state_dict()))
    return encoder


def in_process(job: Callable[..., Any], sizes: Sizes, precision: str, threads: int | None) -> Any:
    """What `job` returns, in a process of its own; in this one where no number of threads is given."""
    if threads is None:
        return job(sizes, precision)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, torch.set_num_threads, (threads,)) as pool:
        return pool.apply(job, (sizes, precision))


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Time and memory by length, measured and as theory has it (through the last measured point)."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9.0, 3.6), constrained_layout=True)
    for plot, (column, unit) in zip(axes.flat, (("ms", "ms a step"), ("peak MiB", "MiB at the peak")), strict=True):
        for side, color in (("perceiver", "C0"), ("transformer", "C3")):
            own = sorted((row for row in rows if row["side"] == side), key=lambda row: row["tokens"])
            known = [row for row in own if row[column] is not None]
            plot.loglog([r["tokens"] for r in known], [r[column] for r in known], "o-", color=color, label=side)
            if column == "ms":
                scale = known[-1]["ms"] / known[-1]["theory, GFLOP"]
                plot.loglog([r["tokens"] for r in own], [scale * r["theory, GFLOP"] for r in own], ":", color=color,
                            label=f"{side}, theory")  # fmt: skip
        plot.set_xlabel("input tokens")
        plot.set_ylabel(unit)
        plot.legend(frameon=False)
    figure.savefig(path, dpi=150)
    print(f"drawn      {path}")


if __name__ == "__main__":
    main()
