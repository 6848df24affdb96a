"""A trained model as a folder: configuration, weights, tokenizer and card, all that is needed to use it elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chiasm import config as configs
from chiasm.data.task import TaskConfig
from chiasm.data.transforms import PreprocessConfig
from chiasm.errors import UserError
from chiasm.metrics.calibration import Calibration
from chiasm.models import Model, ModelConfig, build_model
from chiasm.models.adapted import Adapted
from chiasm.text import Tokenizer

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    """What `config.json` says: the model's sizes, and how the pictures were prepared that it has seen."""

    format: int = FORMAT
    model: ModelConfig
    preprocess: PreprocessConfig
    calibration: Calibration | None = None
    task: TaskConfig | None = None

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format is {self.format}, this version reads {FORMAT}")
        if self.preprocess.size != self.model.size:
            raise ValueError(f"pictures of {self.preprocess.size} pixels do not fit a model of {self.model.size}")


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A model and its world: the tokenizer and the preprocessing that it was trained with."""

    model: Model
    tokenizer: Tokenizer | None
    """None for a model that reads no texts."""
    preprocess: PreprocessConfig
    calibration: Calibration | None = None
    """What held-out pairs said about the cosines of a dual encoder."""
    task: TaskConfig | None = None
    """What a classifier was trained to tell."""
    card: str = field(default="", repr=False)

    def save(self, folder: Path) -> None:
        """Write the folder, whole or not at all; ValueError where a module of the user's own has no `factory`."""
        if any(isinstance(module, Adapted) and not module.config.factory for module in self.model.modules()):
            raise ValueError("a module that lives in this process alone cannot be saved: name its factory")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".bundle-") as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            tensors = {name: tensor.contiguous() for name, tensor in own_tensors(self.model).items()}
            save_file(tensors, new / "model.safetensors")
            world = BundleConfig(
                model=self.model.config, preprocess=self.preprocess, calibration=self.calibration, task=self.task
            )
            configs.save(world, new / "config.json")
            if self.tokenizer is not None:
                self.tokenizer.save(new / "tokenizer.json")
            (new / "card.md").write_text(self.card, encoding="utf-8")
            if folder.exists():
                folder.rename(Path(scratch) / "old")
            new.rename(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Bundle:
        """Read a bundle's folder, or a run's folder that holds one; UserError says what is missing or does not fit."""
        folder = find_bundle(Path(folder))
        config = configs.load(BundleConfig, folder / "config.json")
        vocabulary = config.model.vocabulary
        tokenizer = Tokenizer.load(folder / "tokenizer.json") if config.model.rules else None
        if tokenizer is not None and tokenizer.vocab_size != vocabulary:
            raise UserError(
                f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model {vocabulary}",
                "The files are of different runs; restore the bundle from a copy.",
            )
        model = build_model(config.model)
        load_tensors(model, folder / "model.safetensors")
        card = folder / "card.md"
        text = card.read_text(encoding="utf-8") if card.exists() else ""
        return cls(
            model=model.eval(),
            tokenizer=tokenizer,
            preprocess=config.preprocess,
            calibration=config.calibration,
            task=config.task,
            card=text,
        )


def find_bundle(folder: Path) -> Path:
    """The bundle in this folder: the folder itself, or its `bundle/`."""
    for candidate in (folder / "bundle", folder):
        if (candidate / "model.safetensors").exists():
            return candidate
    if not folder.exists():
        raise UserError(f"There is no {folder}", "Check the path; `chiasm train` makes such a folder.")
    raise UserError(f"{folder} holds no trained model", "Name the folder of a run that has finished, or of a bundle.")


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors by name, a tied one once, under its first name."""
    seen: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        seen.setdefault(id(tensor), name)
    return {name: tensor for name, tensor in model.state_dict().items() if name in seen.values()}


def load_tensors(model: nn.Module, path: Path) -> None:
    """Fill a model from a safetensors file; UserError lists the tensors that are missing, left over, or misshapen."""
    fill(model, read_tensors(path), path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}", "It may be cut off; restore it from a copy.") from error


def fill(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Give a model exactly its tensors, read from `path`; UserError lists those that do not fit."""
    wanted = {name: tensor.shape for name, tensor in own_tensors(model).items()}
    misshapen = {n for n in wanted.keys() & tensors.keys() if wanted[n] != tensors[n].shape}
    check_fit(path, wanted.keys() - tensors.keys(), tensors.keys() - wanted.keys(), misshapen)
    model.load_state_dict(tensors, strict=False)


def check_fit(path: Path, missing: Set[str], extra: Set[str], misshapen: Set[str] = frozenset()) -> None:
    """UserError with the names of the tensors in these sets, where there are any."""
    problems = [
        ("missing", sorted(missing)),
        ("not of this model", sorted(extra)),
        ("of another shape", sorted(misshapen)),
    ]
    told = [
        f"{len(names)} {what} ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})"
        for what, names in problems
        if names
    ]
    if told:
        raise UserError(
            f"{path} does not fit config.json: tensors {'; '.join(told)}", "The files are of different models."
        )
