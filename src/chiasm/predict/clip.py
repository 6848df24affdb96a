"""Asking a trained dual encoder: vectors, similarities, and which of some labels fits a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int

from chiasm.bundle import own_tensors
from chiasm.config import fingerprint
from chiasm.errors import UserError
from chiasm.metrics.calibration import Calibration
from chiasm.models import Clip, Coca
from chiasm.models.adapted import Adapted
from chiasm.models.clip import unit
from chiasm.predict.base import Pixels, Predictor
from chiasm.predict.cores import on_cores
from chiasm.predict.speed import DTYPES, ROWS, Precision, Speed, fastest
from chiasm.progress import track
from chiasm.types import Picture

READ_ROWS = 256
"""Pictures that are read before they are embedded."""
PARTS_PER_CORE, LEAST_ROWS = 4, 16
TYPICAL_TOKENS = 16
"""Of the texts with which speed is measured."""
Vectors = Float[np.ndarray, "b e"]


@dataclass(frozen=True)
class Guess:
    """One label for a picture: its share among the labels, its cosine, and the probability that it is true at all.

    `probability` is None for a model that was never calibrated on held-out pairs.
    """

    label: str
    share: float
    cosine: float
    probability: float | None


class ClipPredictor(Predictor):
    """A trained dual encoder that can be asked; vectors are of unit length.

    It computes in fp32; `in_precision` and `measured` return one that does the same faster.
    """

    model_class = Clip, Coca
    model: Clip | Coca
    precision: Precision = "fp32"
    rows: int = ROWS

    @property
    def _trained(self) -> Clip | Coca:
        """The model in fp32, whatever this predictor computes in."""
        return cast("Clip | Coca", self.bundle.model)

    @property
    def calibration(self) -> Calibration | None:
        """What held-out pairs said about cosines; None where there were none."""
        return self.bundle.calibration

    @property
    def embed_width(self) -> int:
        """Numbers per vector."""
        return self.model.config.embed_dim

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with weights, settings or preprocessing: vectors of equal ones compare."""
        sums = {n: hash_tensor(tensor) for n, tensor in own_tensors(self._trained).items()}
        return fingerprint([sums, fingerprint(self.model.config), fingerprint(self.preprocess)])

    def in_precision(self, precision: Precision, rows: int = ROWS) -> ClipPredictor:
        """One that computes so, with so many rows at once per core; bf16 holds a copy of the weights.

        Vectors of both precisions have cosines near 1 and can be compared with each other.
        """
        other = copy(self)
        other.precision, other.rows = precision, rows
        other.model = self._trained if precision == "fp32" else deepcopy(self._trained).to(DTYPES[precision])
        return other

    def measured(self, what: Literal["pictures", "texts"]) -> tuple[ClipPredictor, Speed]:
        """One in the precision, and with the batch, that are fastest on this machine, and what was measured.

        Takes about two seconds. A model with modules of the user's own stays in fp32.
        """
        own = any(isinstance(module, Adapted) for module in self.model.modules())
        precisions: tuple[Precision, ...] = ("fp32",) if own else tuple(DTYPES)
        sides: dict[Precision, ClipPredictor] = {p: self.in_precision(p) for p in precisions}
        runs: dict[Precision, Callable[[int], object]] = {p: partial(s._embed_some, what) for p, s in sides.items()}
        speed = fastest(runs)
        found = copy(sides[speed.precision])
        found.rows = speed.rows
        return found, speed

    def embed_images(self, pictures: Sequence[Picture | str]) -> Vectors:
        """Vectors of pictures (paths, bytes of files, or uint8 arrays); BrokenPicture where one cannot be read."""
        starts = range(0, len(pictures), READ_ROWS)
        several = track(starts, "Embedding pictures", len(starts)) if len(starts) > 1 else starts
        vectors = np.empty((len(pictures), self.embed_width), np.float32)
        for start in several:
            rows = slice(start, start + READ_ROWS)
            vectors[rows] = self.embed_pixels(self.read(pictures[rows]))
        return vectors

    def embed_pixels(self, pixels: Pixels) -> Vectors:
        """Vectors of pictures that `read` (or the cache) prepared."""
        if not len(pixels):
            return np.empty((0, self.embed_width), np.float32)
        return np.concatenate(on_cores(self._embed_pixels, self._parts(pixels)))

    def embed_texts(self, texts: Sequence[str], *, truncate: bool = False) -> Vectors:
        """Vectors of texts; UserError for an empty text, or one that is longer than the model's context.

        Short texts are run with short ones, so that little is computed for pads.
        """
        rules, lengths = self.model.config.rules, self.text_lengths(texts, truncate=truncate)
        order = np.argsort(lengths, kind="stable")[::-1]  # what takes longest begins first, so that all end together
        vectors = np.empty((len(texts), self.embed_width), np.float32)

        def embed(rows: np.ndarray) -> None:
            some = [texts[int(row)] for row in rows]
            vectors[rows] = self._embed_ids(self.tokenizer.encode(some, context=rules.context, truncate=True))

        on_cores(embed, self._parts(order), "Embedding texts")
        return vectors

    def _parts(self, items: np.ndarray) -> list[np.ndarray]:
        """Batches of like size: several for each core, so that all end together, unless they would become small."""
        shared = -(-len(items) // (PARTS_PER_CORE * torch.get_num_threads()))
        rows = min(self.rows, max(LEAST_ROWS, shared))
        return np.array_split(items, -(-len(items) // rows)) if len(items) else []

    @torch.inference_mode()
    def _embed_pixels(self, pixels: Pixels) -> Vectors:
        return self.model.embed_images(self.images(pixels).to(DTYPES[self.precision])).cpu().numpy()

    @torch.inference_mode()
    def _embed_ids(self, ids: Int[torch.Tensor, "b l"]) -> Vectors:
        return self.model.embed_texts(ids.to(self.device)).cpu().numpy()

    def _embed_some(self, what: Literal["pictures", "texts"], rows: int) -> Vectors:
        if what == "pictures":
            return self._embed_pixels(np.zeros((rows, *self.preprocess.size, 3), np.uint8))
        rules = self.model.config.rules
        return self._embed_ids(torch.full((rows, min(TYPICAL_TOKENS, rules.context)), rules.eot))

    def matches(self, cosine: float, candidates: int) -> bool | None:
        """Whether the best of so many candidates has a cosine that is no luck; None for an uncalibrated model."""
        return None if self.calibration is None else bool(self.calibration.matches(np.array([cosine]), candidates)[0])

    def similarity(
        self, pictures: Sequence[Picture | str], texts: Sequence[str], *, truncate: bool = False
    ) -> Float[np.ndarray, "b t"]:
        """The cosine of every picture with every text."""
        return self.embed_images(pictures) @ self.embed_texts(texts, truncate=truncate).T

    def embed_labels(
        self, labels: Sequence[str], templates: Sequence[str] = ("{}",), *, truncate: bool = False
    ) -> Vectors:
        """One vector per label: of each template's prompt, their mean at unit length (2103.00020, section 3.1.4)."""
        if not labels or len(set(labels)) < len(labels):
            raise UserError(f"There are {len(labels)} labels, {len(set(labels))} different ones", "Name each once.")
        alike = self.alike(labels)
        if alike is not None:
            raise UserError(
                f"The labels {alike[0]!r} and {alike[1]!r} are one to this model: the words that part them are unknown",
                "Use words of its training texts, or train with --set tokenizer.units=bpe, which knows every word.",
            )
        if not templates:
            raise UserError("There are no templates", 'One is "{}", the label itself.')
        for template in templates:
            if template.count("{}") != 1:
                raise UserError(
                    f"The template {template!r} needs one {{}}, where the label goes", 'As "a photo of a {}".'
                )
        prompts = [template.replace("{}", label) for label in labels for template in templates]
        vectors = torch.from_numpy(self.embed_texts(prompts, truncate=truncate)).view(len(labels), len(templates), -1)
        return unit(vectors.mean(1)).numpy()

    def alike(self, texts: Sequence[str]) -> tuple[str, str] | None:
        """The first two different texts that are the same tokens to the model, if there are any."""
        first: dict[tuple[int, ...], str] = {}
        rows = self.tokenizer.rows(texts, context=max(self.tokenizer.lengths(texts), default=2))
        for text, row in zip(texts, rows, strict=True):
            if first.setdefault(tuple(row), text) != text:
                return first[tuple(row)], text
        return None

    def classify(
        self,
        pictures: Sequence[Picture | str],
        labels: Sequence[str],
        templates: Sequence[str] = ("{}",),
        *,
        truncate: bool = False,
    ) -> list[list[Guess]]:
        """Each picture's labels, the best first."""
        return self.choose(self.embed_images(pictures), labels, self.embed_labels(labels, templates, truncate=truncate))

    def choose(
        self, vectors: Vectors, labels: Sequence[str], label_vectors: Float[np.ndarray, "t e"]
    ) -> list[list[Guess]]:
        """The same from vectors of pictures, and of labels by `embed_labels`."""
        cosines = vectors @ label_vectors.T
        logits = float(self._trained.log_scale.detach().exp()) * cosines
        shares = torch.from_numpy(logits).softmax(-1).numpy()
        known = None if self.calibration is None else self.calibration.probability(cosines)
        best = np.argsort(-cosines, axis=1, kind="stable")
        return [
            [
                Guess(
                    label=labels[int(i)],
                    share=float(shares[row, i]),
                    cosine=float(cosines[row, i]),
                    probability=None if known is None else float(known[row, i]),
                )
                for i in order
            ]
            for row, order in enumerate(best)
        ]


def hash_tensor(tensor: torch.Tensor) -> str:
    """A digest of a tensor's values."""
    import hashlib

    return hashlib.blake2b(tensor.detach().contiguous().cpu().numpy().tobytes(), digest_size=16).hexdigest()
