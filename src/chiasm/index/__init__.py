"""Search among pictures: their vectors in a LanceDB table, kept up to date, and asked with words or pictures."""

from chiasm.index.build import Built, build_index
from chiasm.index.search import Hit, Index, open_index
from chiasm.index.table import Embedder

__all__ = ["Built", "Embedder", "Hit", "Index", "build_index", "open_index"]
