"""Asking a trained Flamingo: captions and answers after examples in its prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.bundle import Bundle
from chiasm.data.tables import read_text
from chiasm.errors import UserError
from chiasm.generate import GenerateConfig, Written, generate
from chiasm.models import Flamingo
from chiasm.models.flamingo import FewShot
from chiasm.predict.base import Pixels, Predictor
from chiasm.predict.captioner import Caption, CaptionPredictor, caption_of
from chiasm.types import Picture


@dataclass(frozen=True)
class Shot:
    """An example in a prompt: a picture, and its caption, or a question with its answer behind it."""

    image: Picture | str
    text: str


@dataclass(frozen=True)
class Shots:
    """Examples as the model reads them: latents of their pictures, and their ids, `<image>` and EOT among them."""

    latents: Float[Tensor, "t m d"]
    ids: tuple[int, ...]


class FlamingoPredictor(Predictor):
    """A trained Flamingo that can be asked; without shots it is a captioner (`writer`)."""

    model_class = Flamingo
    model: Flamingo

    def __init__(self, bundle: Bundle):
        super().__init__(bundle)
        self.writer = CaptionPredictor(bundle)

    def caption(
        self, pictures: Sequence[Picture | str], shots: Sequence[Shot] = (), *, question: str = "", **settings: Any
    ) -> list[Caption]:
        """What it says of each picture after these shots: a caption, or the answer to the question.

        Settings are the fields of `GenerateConfig`. BrokenPicture, a UserError, where a picture cannot be read, and
        UserError where the shots leave no room in the model's context.
        """
        config = GenerateConfig(**settings)
        pixels = self.read([shot.image for shot in shots])
        shown = self.show(pixels, [shot.text for shot in shots])
        return self.caption_pixels(self.read(pictures), config, shown, question=question)

    @torch.no_grad()
    def show(self, pixels: Pixels, texts: Sequence[str], seen: Sequence[bool] | None = None) -> Shots:
        """Examples whose pictures `read` (or the cache) prepared, read once for all that will be asked after them.

        Of examples that are not `seen` there is the text alone.
        """
        seen = [True] * len(texts) if seen is None else seen
        ids: list[int] = []
        for text, has_picture in zip(texts, seen, strict=True):
            words = self._words(text)
            ids += [self.model.config.mark] * has_picture + words + [self.model.rules.eot] * bool(words)
        pixels = pixels[np.array(seen, dtype=bool)]
        if not len(pixels):
            size = self.model.config.latents, self.model.resampler.latents.shape[1]
            return Shots(torch.empty(0, *size, device=self.device), tuple(ids))
        return Shots(self.model.encode(self.images(pixels)[None, :, None])[0], tuple(ids))

    @torch.no_grad()
    def caption_pixels(
        self, pixels: Pixels, config: GenerateConfig, shots: Shots | None = None, *, question: str = ""
    ) -> list[Caption]:
        """The same of pictures that `read` (or the cache) prepared."""
        images = self.images(pixels)
        latents, prompt = self._prompt(images, shots or self.show(pixels[:0], ()), question)
        written = generate(FewShot(self.model, latents, prompt), images, config)
        return [self._caption(first, [self._caption(other) for other in rest]) for first, *rest in written]

    @torch.no_grad()
    def log_probs(
        self, pixels: Pixels, texts: Sequence[str], shots: Shots | None = None, *, question: str = ""
    ) -> Float[np.ndarray, "b texts"]:
        """How likely each text is, with its end, as what is said of each picture; in nats."""
        images = self.images(pixels)
        latents, prompt = self._prompt(images, shots or self.show(pixels[:0], ()), question)
        columns = []
        for text in texts:
            said = prompt.new_tensor([*self._words(text), self.model.rules.eot]).expand(len(prompt), -1)
            draft = self.model.start_prompted(latents, prompt[:, :0], beams=1)
            start = torch.full_like(prompt[:, :1], self.model.rules.start)
            logits = self.model.extend(torch.cat([start, prompt, said[:, :-1]], 1), draft)[:, prompt.shape[1] :]
            columns.append(logits.float().log_softmax(-1).gather(-1, said[..., None])[..., 0].sum(1))
        return torch.stack(columns, 1).double().cpu().numpy()

    def _prompt(
        self, images: Float[Tensor, "b c height width"], shots: Shots, question: str
    ) -> tuple[Float[Tensor, "b t m d"], Int[Tensor, "b p"]]:
        """Shots and query as pictures and ids, the same for every query but for its picture."""
        rows, context = len(images), self.model.config.rules.context
        ids = [*shots.ids, self.model.config.mark, *(self._words(question) if question else ())]
        if len(ids) + 3 > context:
            raise UserError(
                f"The shots and the question take {len(ids)} tokens, and the model's context holds {context}, the "
                "answer included",
                "Give fewer or shorter shots, or train with a longer context.",
            )
        queries = self.model.encode(images[:, None, None])
        latents = torch.cat([shots.latents.expand(rows, -1, -1, -1), queries], 1)
        return latents, torch.tensor(ids, device=self.device).expand(rows, -1)

    def _caption(self, written: Written, others: Sequence[Caption] = ()) -> Caption:
        return caption_of(written, self.tokenizer, text=self.tokenizer.decode(written.ids), others=others)

    def _words(self, text: str) -> list[int]:
        """The ids of a text without BOS and EOT."""
        return self.tokenizer.rows([text], context=max(self.tokenizer.lengths([text])))[0][1:-1]


def read_shots(path: Path) -> list[Shot]:
    """The lines of a JSON Lines file: {"image", "text"}, or {"image", "question", "answer"}.

    Paths are read from the file's folder. UserError names the row that is broken, or whose picture is missing.
    """
    if not path.is_file():
        raise UserError(f"There is no {path}", "Name a JSON Lines file of shots.")
    shots = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, row {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON ({error.msg})", "Mend or delete the row.") from error
        shots.append(_shot(row, where, path.parent))
    return shots


def _shot(row: Any, where: str, folder: Path) -> Shot:
    parts = ["text"] if isinstance(row, dict) and "text" in row else ["question", "answer"]
    if not isinstance(row, dict) or any(not isinstance(row.get(name), str) for name in ("image", *parts)):
        raise UserError(
            f"{where} is no shot", 'A row is {"image": ..., "text": ...} or {"image", "question", "answer"}, all texts.'
        )
    image = folder / row["image"]
    if not image.is_file():
        raise UserError(f"{where}: there is no picture {image}", "Paths are read from the file's folder.")
    return Shot(image, " ".join(row[name].strip() for name in parts))


__all__ = ["FlamingoPredictor", "Shot", "Shots", "read_shots"]
