"""Captions written with a cache, against a ViT and a GPT-2 of transformers with the same weights.

Tokens per second of greedy writing, beam search and sampling, the picture's encoding counted. EOT is made hopeless on
both sides, so that both write as many tokens as they may; chiasm takes one step more, in which a text could still end.
Greedy and beam tokens must be equal; samples draw from the same 50 likeliest tokens. transformers runs as its
documentation has it, and under `inference_mode` with its plain attention, which is as fast as it gets here. With
--compile there is a further side, whose step torch.compile has made kernels of; "first s" is what its first texts took.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from _side_by_side import arguments, median_seconds, report
from torch import Tensor

from chiasm.generate import GenerateConfig, generate
from chiasm.models import Captioner, CaptionerConfig, Writer, build_model
from chiasm.models.decoder import DecoderConfig
from chiasm.models.graphed import Graphed
from chiasm.models.language import TextRules
from chiasm.models.vision import VitConfig
from chiasm.pretrained import filled
from chiasm.pretrained.encoder_decoder import captioner_rules, clean_captioner
from chiasm.pretrained.files import read_weights
from chiasm.progress import track

MODES = {
    "greedy": (GenerateConfig(), {}),
    "beam 4": (GenerateConfig(mode="beam", beams=4), {"num_beams": 4, "early_stopping": "never"}),
    "sample": (GenerateConfig(mode="sample", top_k=50), {"do_sample": True, "top_k": 50}),
}
SIZES = ((1, 20), (8, 64), (64, 64))
"""Pictures at once, and tokens of each."""
EOT = 0


def main() -> None:
    parser = arguments(__doc__, repeat=5, repeated="measurements of each side")
    parser.add_argument("--compile", action="store_true", help="chiasm's step compiled, too: some minutes more")
    args = parser.parse_args()
    width, depth, vocabulary, pixels = (32, 2, 128, 16) if args.toy else (256, 4, 8192, 64)
    peers = {kind: vision_encoder_decoder(width, depth, vocabulary, pixels, kind) for kind in ("sdpa", "eager")}
    ours = as_chiasm(peers["sdpa"], width, depth, vocabulary, pixels)
    writers = {"chiasm": ours} | ({"chiasm compiled": Graphed(ours, compile=True)} if args.compile else {})
    images = torch.randn(max(batch for batch, _ in SIZES), 3, pixels, pixels)
    peak = matmul_flops()
    sizes = ((1, 4), (4, 6)) if args.toy else SIZES
    jobs = [(mode, batch, tokens) for mode in MODES for batch, tokens in sizes]
    rows = []
    for mode, batch, tokens in track(jobs, "writing", total=len(jobs)):
        repeat = args.repeat * (1 if args.toy or batch > 1 else 7)
        rows.append(compare(writers, peers, images[:batch], mode, tokens, repeat, peak))
    report("Tokens per second, transformers and chiasm, fp32", rows, args.out)


def compare(
    writers: dict[str, Writer], peers: dict, images: Tensor, mode: str, tokens: int, repeat: int, peak: float
) -> dict[str, object]:
    """Check that all write the same tokens, then time them."""
    sides = writing(writers, peers, images, mode, tokens)
    written, first = {}, {}
    for name, side in sides.items():
        began = time.perf_counter()
        with torch.random.fork_rng():
            written[name] = side()
        first[name] = time.perf_counter() - began
    for name, ids in written.items():
        if ids.shape != (len(images), tokens) or (ids == EOT).any():
            raise SystemExit(f"{name} stopped early ({mode}, batch {len(images)})")
        if mode != "sample" and not torch.equal(ids, written["chiasm"]):
            different = int((ids != written["chiasm"]).any(1).sum())
            raise SystemExit(f"{different} of {len(images)} texts of {name} differ ({mode}, {tokens} tokens)")
    seconds = median_seconds(sides, repeat)
    best = min(seconds["transformers"], seconds["transformers best"])
    beams = MODES[mode][0].beams if mode.startswith("beam") else 1
    decoder = writers["chiasm"].decoder
    weights = sum(p.numel() for name, p in decoder.named_parameters() if "embed.positions" not in name)
    flops = 2 * weights * len(images) * beams * (tokens + 1)
    speeds = {f"{name}/s": len(images) * tokens / spent for name, spent in seconds.items()}
    return {"mode": mode, "batch": len(images), "tokens": tokens, **speeds,
            "ratio": seconds["transformers"] / seconds["chiasm"], "ratio to best": best / seconds["chiasm"],
            "MFU": flops / seconds["chiasm"] / peak,
            **({"first s": first["chiasm compiled"]} if "chiasm compiled" in first else {})}  # fmt: skip


def writing(
    writers: dict[str, Writer], peers: dict, images: Tensor, mode: str, tokens: int
) -> dict[str, Callable[[], Tensor]]:
    """Each side as a function that returns the tokens it wrote."""
    config, settings = MODES[mode]
    settings = {"do_sample": False, "max_new_tokens": tokens, "pad_token_id": EOT, **settings}

    def chiasm(writer: Writer) -> Tensor:
        written = generate(writer, images, GenerateConfig(**{**vars(config), "max_tokens": tokens}))
        return torch.tensor([several[0].ids for several in written])

    def best() -> Tensor:
        with torch.inference_mode():
            return peers["eager"].generate(pixel_values=images, **settings)[:, 1:]

    return {
        "transformers": lambda: peers["sdpa"].generate(pixel_values=images, **settings)[:, 1:],
        "transformers best": best,
        **{name: partial(chiasm, writer) for name, writer in writers.items()},
    }


def vision_encoder_decoder(width: int, depth: int, vocabulary: int, pixels: int, attention: str):
    """transformers' model, with weights so large that pictures and words matter, and an EOT that nothing leads to."""
    from transformers import GPT2Config, GPT2LMHeadModel, VisionEncoderDecoderModel, ViTConfig, ViTModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    shared = {"attn_implementation": attention}
    heads = max(2, width // 64)
    vision = ViTConfig(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, image_size=pixels,
                       intermediate_size=4 * width, patch_size=8, hidden_act="gelu", **shared)  # fmt: skip
    text = GPT2Config(n_embd=width, n_layer=depth, n_head=heads, vocab_size=vocabulary, n_positions=66,
                      activation_function="gelu", add_cross_attention=True, bos_token_id=EOT, eos_token_id=EOT,
                      **shared)  # fmt: skip
    torch.manual_seed(0)
    encoder, decoder = ViTModel(vision, add_pooling_layer=False), GPT2LMHeadModel(text)
    model = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder).eval()
    model.config.decoder_start_token_id = model.config.eos_token_id = model.config.pad_token_id = EOT
    model.generation_config.decoder_start_token_id = model.generation_config.eos_token_id = EOT
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            parameter.data.mul_(3 if "wte" not in name else 10)
    inner = model.decoder.transformer
    inner.ln_f.weight.data[0], inner.ln_f.bias.data[0] = 0.0, 5.0  # a constant in every last hidden state,
    inner.wte.weight.data[EOT, 0] = -20.0  # against which EOT stands
    return model


def as_chiasm(model, width: int, depth: int, vocabulary: int, pixels: int) -> Captioner:
    """Ours with its weights."""
    heads = max(2, width // 64)
    rules = TextRules(pad=EOT, bos=EOT, eot=EOT, context=66)
    vision = VitConfig(size=(pixels, pixels), patch_pixels=8, width=width, depth=depth, heads=heads, pool="cls",
                       norm_eps=1e-12)  # fmt: skip
    decoder = DecoderConfig(width=width, depth=depth, heads=heads, rules=rules, vocabulary=vocabulary)
    config = CaptionerConfig(vision=vision, decoder=decoder)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors = clean_captioner(read_weights(Path(folder), "model"))
        captioner = filled(lambda: build_model(config), captioner_rules(config), tensors, Path(folder))
    assert isinstance(captioner, Captioner)
    return captioner


def matmul_flops() -> float:
    """What a large fp32 product reaches, per second."""
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / median_seconds({"product": lambda: a @ a}, 15)["product"]


if __name__ == "__main__":
    main()
