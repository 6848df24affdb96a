"""chiasm: train, compare, search and serve models that join pictures, text and sound, on your own data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from chiasm.index import Index
    from chiasm.predict import AnyPredictor, ClipPredictor

__version__ = "0.1.0"
__all__ = ["load", "open_index"]


def load(folder: str | Path) -> AnyPredictor:
    """The trained model in a run's or a bundle's folder, ready to be asked; UserError where there is none."""
    from chiasm import predict  # torch takes a second: it loads when a model does

    return predict.load(folder)


def open_index(uri: str | Path, embedder: ClipPredictor | None = None) -> Index:
    """The index that `chiasm index` made, ready to be searched; UserError where there is none."""
    from chiasm import index  # LanceDB loads when an index does

    return index.open_index(str(uri), embedder)
