"""Flamingo's resampler and gated layer, forward and backward, beside flamingo-pytorch's with the same weights.

Outputs and gradients of both sides must be equal. Where the layouts differ the weights make them one function:
flamingo-pytorch's linear layers have no biases (ours have, trained but zero here), and its resampler tells pictures
apart by learned embeddings (here equal ones, as ours tells the frames of a video apart). Both sides compute in fp32,
which is how flamingo-pytorch comes, and with bf16 weights, which is its fastest.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from _peers import enter_peers
from _side_by_side import add_precision, apart, arguments, median_seconds, report
from torch import Tensor, nn

from chiasm.models.flamingo import latest_picture
from chiasm.nn import GatedCross, Resampler
from chiasm.nn.attention import Attention
from chiasm.progress import track

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
APART = {"fp32": 1e-4, "bf16": 0.1}
"""By how much an output or a gradient may differ at most, relative to its largest value."""
GATE = 0.5
"""Before tanh: both gates half open, so that what is behind them counts."""

Side = tuple[nn.Module, Callable[[], Tensor], Sequence[Tensor]]
"""A layer, what runs it, and what must get the same gradient on both sides."""


@dataclass(frozen=True)
class Sizes:
    """Of texts with pictures between their words, and of the layers; a head is 64 wide."""

    texts: int = 8
    words: int = 128
    pictures: int = 2
    tokens: int = 256
    latents: int = 64
    width: int = 512
    depth: int = 2

    @property
    def heads(self) -> int:
        """As many as make the width."""
        return self.width // 64

    def flops(self, what: str) -> float:
        """Multiplications and additions of a step: thrice those of forward."""
        media, d = self.texts * self.pictures, self.width
        if what == "resampler":
            per_query, layers = self.tokens + self.latents, self.depth
            queries, keys = media * self.latents, media * per_query
        else:
            per_query, layers = self.pictures * self.latents, 1
            queries, keys = self.texts * self.words, self.texts * per_query
        return 3 * layers * (4 * keys * d * d + 20 * queries * d * d + 4 * queries * per_query * d)


def main() -> None:
    parser = arguments(__doc__, repeat=30, repeated="measurements of each side")
    add_precision(parser)
    args = parser.parse_args()
    if not args.toy:
        enter_peers("flamingo_pytorch")
    sizes = Sizes(texts=2, words=6, tokens=5, latents=3, width=128) if args.toy else Sizes()
    builds = {"chiasm": own_sides}
    if importlib.util.find_spec("flamingo_pytorch") is not None:
        builds = {"flamingo-pytorch": peer_sides, **builds}
    precisions = [precision for precision in PRECISIONS if args.precision in ("all", precision)]
    ceilings = {precision: matmul_flops(256 if args.toy else 2048, precision) for precision in precisions}
    jobs = [(what, precision) for what in ("resampler", "gated layer") for precision in precisions]
    rows = []
    for what, precision in track(jobs, "side by side", total=len(jobs)):
        sides = {name: build(sizes, precision)[what] for name, build in builds.items()}
        rows += compare(what, precision, sides, sizes, args.repeat, ceilings[precision])
    report(f"Flamingo, forward and backward, {args.repeat} times", rows, args.out)


def compare(
    what: str, precision: str, sides: dict[str, Side], sizes: Sizes, repeat: int, ceiling: float
) -> list[dict[str, Any]]:
    """Check that the sides are equal, then time them."""
    found = [results(side) for side in sides.values()]
    differ = apart([t.float() for t in found[0]], [t.float() for t in found[-1]])
    if differ > APART[precision]:
        raise SystemExit(f"{what}, {precision}: the sides differ by {differ:.2g} of the largest value")
    steps = {name: lambda side=side: step(side) for name, side in sides.items()}
    median_seconds(steps, 3)  # warm
    seconds = median_seconds(steps, repeat)
    first = next(iter(seconds.values()))
    return [
        {
            "what": what, "precision": precision, "side": name, "ms": 1e3 * seconds[name],
            "of its time": seconds[name] / first, "MFU": sizes.flops(what) / seconds[name] / ceiling, "apart": differ,
        }
        for name in sides
    ]  # fmt: skip


def step(side: Side) -> Tensor:
    """Forward, and the gradients of all parameters."""
    layer, run, wanted = side
    for tensor in (*layer.parameters(), *wanted):
        tensor.grad = None
    out = run()
    target = torch.linspace(-1, 1, out.shape[-1])  # not its square, which the last norm makes constant
    (out.float() * target).sum().backward()
    return out


def results(side: Side) -> list[Tensor]:
    """The output, and the gradients that both sides have."""
    out = step(side).detach()
    grads = [tensor.grad for tensor in side[2]]
    assert all(grad is not None for grad in grads)
    return [out, *(grad for grad in grads if grad is not None)]


def inputs(sizes: Sizes, precision: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Picture tokens; words, latents and where pictures stand: the first word, and evenly from there."""
    generator, dtype = torch.Generator().manual_seed(1), PRECISIONS[precision]

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, sizes.width, generator=generator).to(dtype)

    tokens, media = (drawn(sizes.texts, sizes.pictures, length) for length in (sizes.tokens, sizes.latents))
    words = drawn(sizes.texts, sizes.words)
    marks = torch.zeros(sizes.texts, sizes.words, dtype=torch.bool)
    marks[:, :: sizes.words // sizes.pictures] = True
    return tokens, words.requires_grad_(), media.requires_grad_(), marks


def own_layers(sizes: Sizes) -> tuple[Resampler, GatedCross]:
    """Ours, of random weights and no biases."""
    torch.manual_seed(0)
    resampler = Resampler(sizes.latents, sizes.width, sizes.heads, depth=sizes.depth)
    gated = GatedCross(sizes.width, sizes.heads, context_width=sizes.width)
    for layer in (resampler, gated):
        for module in layer.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.constant_(gated.gate_cross, GATE)
    nn.init.constant_(gated.gate_mlp, GATE)
    return resampler, gated


def own_sides(sizes: Sizes, precision: str) -> dict[str, Side]:
    """Our layers, run on the inputs."""
    resampler, gated = (layer.to(PRECISIONS[precision]) for layer in own_layers(sizes))
    tokens, words, media, marks = inputs(sizes, precision)
    keep = latest_picture(marks.cumsum(1), sizes.pictures, sizes.latents)
    shared = [resampler.latents, resampler.layers[0].read.key_value.weight, resampler.layers[0].mlp[0].weight]
    own = [words, media, gated.gate_cross, gated.attend.key_value.weight, gated.mlp[2].weight]
    return {
        "resampler": (resampler, lambda: resampler(tokens[:, :, None]), shared),
        "gated layer": (gated, lambda: gated(words, gated.project(media.flatten(1, 2)), keep), own),
    }


def peer_sides(sizes: Sizes, precision: str) -> dict[str, Side]:
    """Theirs with our weights, on the same inputs."""
    from flamingo_pytorch import GatedCrossAttentionBlock, PerceiverResampler  # pyright: ignore

    resampler = PerceiverResampler(
        dim=sizes.width, depth=sizes.depth, heads=sizes.heads, num_latents=sizes.latents,
        num_media_embeds=sizes.pictures,
    )  # fmt: skip
    gated = GatedCrossAttentionBlock(dim=sizes.width, heads=sizes.heads)
    copy_weights(resampler, gated, *own_layers(sizes))
    resampler, gated = resampler.to(PRECISIONS[precision]), gated.to(PRECISIONS[precision])
    tokens, words, media, marks = inputs(sizes, precision)
    attention, feed = resampler.layers[0]
    shared = [resampler.latents, attention.to_kv.weight, feed[1].weight]
    own = [words, media, gated.attn_gate, gated.attn.to_kv.weight, gated.ff[3].weight]
    return {
        "resampler": (resampler, lambda: resampler(tokens), shared),
        "gated layer": (gated, lambda: gated(words, media, media_locations=marks), own),
    }


@torch.no_grad()
def copy_weights(resampler: Any, gated: Any, own_resampler: Resampler, own_gated: GatedCross) -> None:
    """Ours into theirs."""
    resampler.latents.copy_(own_resampler.latents)
    resampler.media_pos_emb.copy_(own_resampler.times.expand_as(resampler.media_pos_emb))
    resampler.norm.load_state_dict(own_resampler.norm.state_dict())
    for (attention, feed), layer in zip(resampler.layers, own_resampler.layers, strict=True):
        attention.norm_media.load_state_dict(layer.norm_input.state_dict())
        attention.norm_latents.load_state_dict(layer.norm_latents.state_dict())
        copy_attention(attention, layer.read)
        copy_feed_forward(feed, layer)
    gated.attn.norm.load_state_dict(own_gated.norm_cross.state_dict())
    copy_attention(gated.attn, own_gated.attend)
    copy_feed_forward(gated.ff, own_gated)
    gated.attn_gate.fill_(GATE)
    gated.ff_gate.fill_(GATE)


def copy_attention(theirs: Any, ours: Attention) -> None:
    theirs.to_q.weight.copy_(ours.query.weight)
    theirs.to_kv.weight.copy_(ours.key_value.weight)
    theirs.to_out.weight.copy_(ours.out.weight)


def copy_feed_forward(theirs: Any, ours: Any) -> None:
    theirs[0].load_state_dict(ours.norm_mlp.state_dict())
    theirs[1].weight.copy_(ours.mlp[0].weight)
    theirs[3].weight.copy_(ours.mlp[2].weight)


def matmul_flops(side: int, precision: str) -> float:
    """The multiplications and additions per second of a square product of matrices: the ceiling."""
    a = torch.randn(side, side, dtype=PRECISIONS[precision])
    return 2 * side**3 / median_seconds({"matmul": lambda: a @ a}, 20)["matmul"]


if __name__ == "__main__":
    main()
