"""Encoders brought in from `transformers`, as towers of ours; and what `hf:` and `py:` mean.

Letters: b batch · n tokens · l text length · d width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chiasm.config import read_json
from chiasm.errors import UserError
from chiasm.hub import find
from chiasm.models.adapted import ModuleVisionConfig, as_tokens, make_module, pool_tokens, text_keep
from chiasm.models.language import TextRules
from chiasm.text import Tokenizer
from chiasm.types import Encoded

UNTOLD = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "id2label", "label2id")
"""What a model's own configuration says of other things than its shape."""
CONTEXT = 64
"""The most tokens of a text at first: encoders of documents take 512, and captions are short."""


@dataclass(frozen=True, kw_only=True)
class HfVisionConfig:
    """A picture encoder of `transformers`; it is rebuilt from `config`, its own configuration, without `source`."""

    source: str
    """The folder or Hub id that a new run takes the weights from."""
    config: dict[str, Any]
    width: int
    size: tuple[int, int] = (224, 224)
    pool: Literal["own", "cls", "mean"] = "own"
    """The model's own pooled output, its first token, or the mean over all."""
    tune: bool = False
    """Otherwise it is locked, as in LiT (2111.07991): no gradient, always in evaluation mode."""


@dataclass(frozen=True, kw_only=True)
class HfTextConfig:
    """A text encoder of `transformers`; `rules` and `vocabulary` are those of its own tokenizer."""

    source: str
    """The folder or Hub id that a new run takes the weights and the tokenizer from."""
    config: dict[str, Any]
    width: int
    rules: TextRules = field(default_factory=TextRules)
    vocabulary: int = 0
    pool: Literal["own", "cls", "mean"] = "mean"
    """The model's own pooled output, its first token, or the mean over real tokens."""
    tune: bool = False
    """Otherwise it is locked, as in LiT (2111.07991): no gradient, always in evaluation mode."""

    def __post_init__(self) -> None:
        table, places = self.config.get("vocab_size"), self.config.get("max_position_embeddings")
        if table is not None and self.vocabulary > table:
            raise ValueError(f"the tokenizer has {self.vocabulary} tokens, the encoder {table}: they are of two models")
        if places is not None and self.rules.context > places:
            raise ValueError(f"context {self.rules.context} is longer than the encoder's {places} positions")


class HfVision(nn.Module):
    """A vision model of `transformers`, grid or tokens, as a picture encoder."""

    def __init__(self, config: HfVisionConfig):
        super().__init__()
        self.config = config
        self.width = config.width
        self.model = _from_config(config.config).requires_grad_(config.tune)

    def train(self, mode: bool = True) -> HfVision:
        """A locked tower stays in evaluation mode."""
        return super().train(mode and self.config.tune)

    def forward(self, images: Float[Tensor, "b c height width"]) -> Encoded:
        """`tokens` as the model has them (without the first, where that is `pooled`)."""
        with torch.set_grad_enabled(self.config.tune and torch.is_grad_enabled()):
            told = self.model(pixel_values=images)
            return pool_tokens(as_tokens(told.last_hidden_state), self.config.pool, own=told.get("pooler_output"))


class HfText(nn.Module):
    """A text model of `transformers` as a text encoder."""

    def __init__(self, config: HfTextConfig):
        super().__init__()
        self.config = config
        self.width = config.width
        self.model = _from_config(config.config).requires_grad_(config.tune)

    def train(self, mode: bool = True) -> HfText:
        """A locked tower stays in evaluation mode."""
        return super().train(mode and self.config.tune)

    def forward(self, ids: Int[Tensor, "b l"]) -> Encoded:
        """Tokens and the pooled vector; what stands right of the first EOT leaves no trace in it."""
        keep = text_keep(ids, self.config.rules.eot)
        with torch.set_grad_enabled(self.config.tune and torch.is_grad_enabled()):
            told = self.model(input_ids=ids, attention_mask=keep.long())
            return pool_tokens(told.last_hidden_state, self.config.pool, own=told.get("pooler_output"), keep=keep)


def bring_vision(word: str) -> HfVisionConfig | ModuleVisionConfig:
    """The picture encoder that `hf:FOLDER_OR_ID` or `py:package.module:function` names, locked.

    Pictures have the size that it was trained with, where it says so, else 224 pixels. UserError where it is none.
    """
    kind, source = _kind(word)
    if kind == "py":
        out = _tried(word, make_module(source).eval(), torch.zeros(1, 3, 224, 224))
        return ModuleVisionConfig(factory=source, width=as_tokens(out).shape[-1])
    model, config, missing = _from_source(source, "vision_config")
    size = _trained_size(find(source), config)
    told = _tried(word, model, pixel_values=torch.zeros(1, 3, *size))
    pool = "mean" if told.last_hidden_state.ndim == 4 else "cls"
    if told.get("pooler_output") is not None and not missing:
        pool = "own"
    width = as_tokens(told.last_hidden_state).shape[-1]
    return HfVisionConfig(source=source, config=config, width=width, size=size, pool=pool)


def bring_text(word: str) -> HfTextConfig:
    """The text encoder that `hf:FOLDER_OR_ID` names, locked; `tokenizer_of` gives its tokenizer.

    Pooling is what the folder's `1_Pooling` says (as sentence encoders have it), the model's own where it is a CLIP,
    else the mean. UserError where it is no text encoder.
    """
    kind, source = _kind(word)
    if kind == "py":
        raise UserError(f"{word!r} is no text encoder from transformers", "Write hf:FOLDER_OR_ID; a module of your own "
                        "goes in from Python, by Clip.from_parts.")  # fmt: skip
    folder = find(source)
    tokenizer = Tokenizer.adopt(folder)
    model, config, missing = _from_source(source, "text_config")
    ids = torch.tensor([[tokenizer.eot]])
    told = _tried(word, model, input_ids=ids, attention_mask=torch.ones_like(ids))
    published_pair = "text_config" in read_json(folder / "config.json")
    pool = "own" if published_pair and not missing else _sentence_pool(folder)
    rules = TextRules.of(tokenizer, min(config.get("max_position_embeddings", CONTEXT), CONTEXT))
    return HfTextConfig(
        source=source,
        config=config,
        width=told.last_hidden_state.shape[-1],
        rules=rules,
        vocabulary=tokenizer.vocab_size,
        pool=pool,
    )


def tokenizer_of(config: HfTextConfig) -> Tokenizer:
    """The tokenizer that the encoder was trained with, from its source."""
    return Tokenizer.adopt(find(config.source))


def load_sources(model: nn.Module) -> None:
    """Fill every tower of `transformers` in a new model with the weights of its source; UserError where they differ."""
    for tower in model.modules():
        if isinstance(tower, (HfVision, HfText)):
            part = "vision_config" if isinstance(tower, HfVision) else "text_config"
            found, config, missing = _from_source(tower.config.source, part)
            if config != tower.config.config:
                raise UserError(
                    f"{tower.config.source} is another model than config.json describes", "Start a new run."
                )
            if missing and tower.config.pool == "own":
                raise UserError(f"{tower.config.source} lacks the tensors {', '.join(missing)}", "Pool by cls or mean.")
            tower.model.load_state_dict(found.state_dict())


def _kind(word: str) -> tuple[str, str]:
    kind, colon, source = word.partition(":")
    if not colon or kind not in ("hf", "py") or not source:
        raise UserError(f"{word!r} names no encoder", "Write hf:FOLDER_OR_ID or py:package.module:function.")
    return kind, source


def _from_source(source: str, part: str) -> tuple[nn.Module, dict[str, Any], list[str]]:
    """The model in a folder (its `part`, where it is a pair), its configuration, and the tensors its pooler lacks."""
    folder = find(source)
    with _transformers() as transformers:
        try:
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
            config = getattr(config, part, config)
            model, info = transformers.AutoModel.from_pretrained(
                folder, config=config, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
        except Exception as error:  # OSError, ValueError, RuntimeError, SafetensorError, by what is wrong
            raise UserError(f"{source} cannot be loaded as a model of transformers: {_first_line(error)}",
                            "It needs config.json and weights as safetensors that fit it.") from error  # fmt: skip
    missing = sorted(info["missing_keys"])
    if any(not name.startswith("pooler.") for name in missing):
        raise UserError(f"{source} lacks the tensors {', '.join(missing[:5])}", "Restore the folder from a copy.")
    told = {name: value for name, value in config.to_diff_dict().items() if name not in UNTOLD}
    return model.float().eval(), json.loads(json.dumps(told)), missing


def _from_config(config: dict[str, Any]) -> nn.Module:
    with _transformers() as transformers:
        try:
            return transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**config)).float()
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"transformers cannot build the encoder: {_first_line(error)}",
                            "The bundle may need another version of transformers.") from error  # fmt: skip


@contextmanager
def _transformers() -> Iterator[Any]:
    """The library, without its reports and progress bars; UserError where it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise UserError("transformers is not installed", "pip install 'chiasm[pretrained]'") from error
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield transformers
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _tried(word: str, module: nn.Module, *inputs: Tensor, **named: Tensor) -> Any:
    """The output for one try; UserError where it is not an encoder's."""
    try:
        with torch.no_grad():
            out = module(*inputs, **named)
        as_tokens(out if isinstance(out, Tensor) else out.last_hidden_state)
    except Exception as error:  # whatever a foreign module may raise
        raise UserError(f"{word} does not work as an encoder here: {_first_line(error)}",
                        "It must map one batch of pictures, or of ids, to vectors.") from error  # fmt: skip
    return out


def _trained_size(folder: Path, config: dict[str, Any]) -> tuple[int, int]:
    """The pictures' height and width: of the model, or else of its preprocessing, or else 224 pixels."""
    size, file = config.get("image_size"), folder / "preprocessor_config.json"
    if size is None and file.exists():
        processor = read_json(file)
        size = processor.get("crop_size") or processor.get("size")
    if isinstance(size, dict):
        size = [size["height"], size["width"]] if "height" in size else size.get("shortest_edge")
    return (int(size[0]), int(size[1])) if isinstance(size, (list, tuple)) else (size or 224, size or 224)


def _sentence_pool(folder: Path) -> Literal["cls", "mean"]:
    file = folder / "1_Pooling" / "config.json"
    return "cls" if file.exists() and read_json(file).get("pooling_mode_cls_token") else "mean"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


__all__ = [
    "HfText",
    "HfTextConfig",
    "HfVision",
    "HfVisionConfig",
    "bring_text",
    "bring_vision",
    "load_sources",
    "tokenizer_of",
]
