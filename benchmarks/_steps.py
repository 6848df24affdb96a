"""The training steps of `step.py`: chiasm's, open_clip's and transformers', from the same weights on the same batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from chiasm.cost import Trainee
from chiasm.models import ClipConfig, CocaConfig, build_model
from chiasm.models.decoder import DecoderConfig
from chiasm.models.language import TextConfig, TextRules
from chiasm.models.vision import VitConfig
from chiasm.pretrained.huggingface import clip_rules, describe
from chiasm.pretrained.openclip import openclip_rules
from chiasm.pretrained.rules import Rule, to_theirs
from chiasm.types import Batch

SHORTEST, LONGEST = 8, 20
"""Tokens of a text, BOS and EOT counted."""
HEAD_WIDTH = 64
FEW = 4
"""Rows for which the loss is compared and the FLOPs are counted, which are the same for every row."""


@dataclass(frozen=True)
class Sizes:
    """Of a CLIP, or with `latents` of a CoCa, and of a batch."""

    name: str
    pixels: int
    patch: int
    width: int
    depth: int
    text_width: int
    text_depth: int
    vocabulary: int
    context: int
    batch: int
    latents: int = 0

    @property
    def rules(self) -> TextRules:
        """EOT is the last id, for which open_clip looks."""
        return TextRules(pad=0, bos=1, eot=self.vocabulary - 1, context=self.context)

    @property
    def vision(self) -> VitConfig:
        return VitConfig(
            size=(self.pixels, self.pixels), patch_pixels=self.patch, width=self.width, depth=self.depth,
            heads=self.width // HEAD_WIDTH, pool="none" if self.latents else "cls", norm_first=True,
        )  # fmt: skip

    def config(self) -> ClipConfig | CocaConfig:
        """Ours."""
        text: dict[str, Any] = {"width": self.text_width, "heads": self.text_width // HEAD_WIDTH, "rules": self.rules,
                                "vocabulary": self.vocabulary}  # fmt: skip
        if not self.latents:
            return ClipConfig(
                vision=self.vision, text=TextConfig(**text, depth=self.text_depth), embed_dim=self.text_width
            )
        decoder = DecoderConfig(**text, depth=2 * self.text_depth, unimodal_depth=self.text_depth)
        return CocaConfig(vision=self.vision, latents=self.latents, decoder=decoder, embed_dim=self.text_width)

    @cache  # noqa: B019 - there is one of it in a process
    def drawn(self, rows: int) -> tuple[Tensor, list[Tensor]]:
        """Pictures, and texts without pads."""
        g = torch.Generator().manual_seed(0)
        lengths = torch.randint(SHORTEST, LONGEST + 1, (rows,), generator=g)
        lengths[0] = LONGEST
        images = torch.randn(rows, 3, self.pixels, self.pixels, generator=g)
        ids = [torch.randint(2, self.vocabulary - 1, (int(n),), generator=g) for n in lengths]
        for text in ids:
            text[0], text[-1] = 1, self.vocabulary - 1
        return images, ids


class OwnStep:
    """chiasm's, as `chiasm train` takes it."""

    def __init__(self, _: str, sizes: Sizes, precision: str, **settings: Any):
        torch.manual_seed(0)
        self.sizes, self.precision = sizes, precision
        self.trainee, self.settings = Trainee(sizes.config(), **settings), settings
        self.parameters = sum(p.numel() for p in self.trainee.model.parameters())

    def __call__(self, rows: int | None = None) -> None:
        self.trainee.step(self.batch(rows or self.sizes.batch), self.precision)

    @torch.no_grad()
    def loss(self) -> float:
        """Of a few rows before any step, in fp32."""
        return self.trainee.objective.validate(self.trainee.model, self.batch(FEW))[0] / FEW

    def flops(self) -> int:
        """Of forward and backward; what checkpointing computes again is no progress."""
        if self.settings:
            return OwnStep("chiasm", self.sizes, self.precision).flops()
        model, batch = self.trainee.model, self.batch(FEW)
        flops = counted(lambda: self.trainee.objective.backward(model, batch, 1, lambda loss: loss.backward()), model)
        return flops * self.sizes.batch // FEW

    def batch(self, rows: int) -> Batch:
        """Texts padded to the longest of the batch, as `chiasm.data.loader` makes them."""
        images, texts = self.sizes.drawn(rows)
        ids = nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=0)
        places = torch.arange(rows)
        return Batch(images=images, ids=ids, keep=ids != 0, image_ids=places, text_ids=places,
                     keys=tuple(map(str, range(rows))))  # fmt: skip


class PeerStep:
    """A peer's: loss, backward, clipping and AdamW, as its own training script or documentation has it."""

    def __init__(
        self, library: str, sizes: Sizes, precision: str, *, eager: bool = False, fused: bool = False,
        longest: bool = False,
    ):  # fmt: skip
        self.sizes, self.precision, self.longest = sizes, precision, longest
        torch.manual_seed(0)
        config = sizes.config()
        if isinstance(config, CocaConfig):
            self.model, self.of_batch = open_coca(sizes), self._coca
        elif library == "open_clip":
            self.model, self.of_batch = open_clip_of(sizes, config), self._open_clip
        else:
            self.model, self.of_batch = transformers_of(config, eager), self._transformers
        self.model.train()
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05, fused=fused or None
        )

    def __call__(self, rows: int | None = None) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self.of_batch(rows or self.sizes.batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def loss(self) -> float:
        """Of a few rows before any step, in fp32."""
        return float(self.of_batch(FEW))

    def flops(self) -> int:
        """Of forward and backward."""
        return counted(lambda: self.of_batch(FEW).backward(), self.model) * self.sizes.batch // FEW

    def texts(self, rows: int) -> tuple[Tensor, Tensor]:
        """Pictures, and texts padded to the context, or to the longest of the batch."""
        images, texts = self.sizes.drawn(rows)
        ids = nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=0)
        return images, ids if self.longest else nn.functional.pad(ids, (0, self.sizes.context - ids.shape[1]))

    def _open_clip(self, rows: int) -> Tensor:
        from open_clip.loss import ClipLoss

        images, ids = self.texts(rows)
        return ClipLoss()(*self.model(images, ids)[:3])

    def _transformers(self, rows: int) -> Tensor:
        images, ids = self.texts(rows)
        return self.model(input_ids=ids, attention_mask=(ids != 0).long(), pixel_values=images, return_loss=True).loss

    def _coca(self, rows: int) -> Tensor:
        from open_clip.loss import CoCaLoss

        images, ids = self.texts(rows)
        out = self.model(images, ids)
        losses = CoCaLoss(2.0, 1.0)(out["image_features"], out["text_features"], out["logits"], out["labels"],
                                    out["logit_scale"])  # fmt: skip
        return losses[0] + losses[1]


def started(config: ClipConfig) -> dict[str, Tensor]:
    """The weights that `OwnStep` starts with."""
    torch.manual_seed(0)
    return build_model(config).state_dict()


def open_clip_of(sizes: Sizes, config: ClipConfig) -> nn.Module:
    """open_clip's model with the weights that ours starts with."""
    from open_clip import CLIP

    model = CLIP(embed_dim=config.embed_dim, vision_cfg=open_clip_vision(sizes), text_cfg=open_clip_text(sizes))
    ours = started(config)
    theirs: dict[str, Tensor] = {}
    for rule in openclip_rules(config):
        theirs |= zip(rule.theirs, _back(rule, [ours[name] for name in rule.ours]), strict=True)
    model.load_state_dict(theirs)
    return model


def _back(rule: Rule, ours: list[Tensor]) -> tuple[Tensor, ...]:
    """The tensors of open_clip's layout, which chiasm only reads."""
    if rule.split is not None:
        return rule.split(*ours)
    if len(ours) == 1:
        return (ours[0].t(),)
    query, query_bias, key_value, out, out_bias = ours
    return torch.cat([query, key_value]), nn.functional.pad(query_bias, (0, len(key_value))), out, out_bias


def transformers_of(config: ClipConfig, eager: bool) -> nn.Module:
    """transformers' model with the weights that ours starts with."""
    from transformers import CLIPConfig, CLIPModel

    model = CLIPModel._from_config(CLIPConfig(**describe(config)), attn_implementation="eager" if eager else "sdpa")
    model.load_state_dict(to_theirs(clip_rules(config), started(config)), strict=False)
    return model


def open_coca(sizes: Sizes) -> nn.Module:
    """open_clip's CoCa of these sizes."""
    from open_clip.coca_model import CoCa

    text = open_clip_text(sizes)
    vision = open_clip_vision(sizes) | {
        "attentional_pool": True, "attn_pooler_queries": sizes.latents, "attn_pooler_heads": text["heads"],
        "output_tokens": True,
    }  # fmt: skip
    return CoCa(embed_dim=sizes.text_width, vision_cfg=vision, multimodal_cfg=text,
                text_cfg=text | {"embed_cls": True, "output_tokens": True})  # fmt: skip


def open_clip_vision(sizes: Sizes) -> dict[str, Any]:
    return {"image_size": sizes.pixels, "patch_size": sizes.patch, "width": sizes.width, "layers": sizes.depth,
            "head_width": HEAD_WIDTH}  # fmt: skip


def open_clip_text(sizes: Sizes) -> dict[str, Any]:
    return {"context_length": sizes.context, "vocab_size": sizes.vocabulary, "width": sizes.text_width,
            "layers": sizes.text_depth, "heads": sizes.text_width // HEAD_WIDTH}  # fmt: skip


def counted(step: Any, model: nn.Module) -> int:
    """FLOPs of a forward and backward pass: products of matrices."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops()
