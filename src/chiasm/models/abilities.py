"""What a model can do, as abstract classes named by ability; everything that implements one is final."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from chiasm.models.language import TextRules
from chiasm.types import Batch


@runtime_checkable
class Selectable(Protocol):
    """Texts being written, as a writer remembers them."""

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep the given rows, in the given order, whole pictures together."""


D = TypeVar("D", bound=Selectable)


class Writer(ABC, Generic[D]):
    """Writes text about pictures, one token at a time; all that generation knows of a model."""

    @property
    @abstractmethod
    def rules(self) -> TextRules:
        """The ids and the length that texts keep to."""

    @abstractmethod
    def start(self, images: Float[Tensor, "b c height width"], beams: int = 1) -> D:
        """A draft with `beams` rows for each picture, the rows of a picture side by side; nothing written yet."""

    @abstractmethod
    def step(self, ids: Int[Tensor, " r"], draft: D) -> Float[Tensor, "r v"]:
        """Append one token to every row of the draft (which remembers them); returns the next token's logits, which
        are the caller's to change."""

    def reorder(self, draft: D, rows: Int[Tensor, " r"]) -> None:
        """Keep the given rows of the draft, in the given order, whole pictures together."""
        draft.select(rows)


class Classifier(ABC):
    """Gives every example one of some classes; all that its loss, evaluation and applications know of a model."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Their names."""

    @abstractmethod
    def classify(self, batch: Batch) -> Float[Tensor, "b classes"]:
        """The logit of each class; `labels` are not read."""


class Embedder(ABC):
    """Puts pictures and texts into one space; all that contrastive losses, search and classification know of a model.

    Vectors are of unit length and fp32. `log_scale` is the logarithm of what a cosine is multiplied by to become a
    logit, `bias` what is then added.
    """

    log_scale: Tensor
    bias: Tensor | None

    @abstractmethod
    def embed_images(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b e"]:
        """One vector per picture."""

    @abstractmethod
    def embed_texts(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b e"]:
        """One vector per text, which ends at its first EOT."""
