"""Experiment trackers, which follow a run beside its own files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from chiasm.errors import UserError

TRACKERS = ("tensorboard", "wandb")


def loggers_of(trackers: tuple[str, ...], folder: Path) -> list[Any]:
    """Lightning's loggers for the experiment trackers that were asked for."""
    loggers: list[Any] = []
    for name in trackers:
        if name not in TRACKERS:
            raise UserError(f"There is no tracker {name!r}", f"Trackers: {', '.join(TRACKERS)}.")
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{name} is not installed", f"pip install 'chiasm[{name}]'")
        if name == "tensorboard":
            loggers.append(TensorBoardLogger(folder, name="", version="tensorboard"))
        else:
            loggers.append(WandbLogger(name=folder.name, save_dir=folder, project="chiasm"))
    return loggers


__all__ = ["TRACKERS", "loggers_of"]
