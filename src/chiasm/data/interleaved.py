"""Pictures and texts by turns: sequences out of JSON Lines, or packed from any captioned pictures, as batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from chiasm.data.loader import ORDER, Loader, ahead
from chiasm.data.lookup import PictureLookup
from chiasm.data.source import Source, split_by_hash
from chiasm.data.tables import read_text
from chiasm.errors import UserError
from chiasm.text import Tokenizer
from chiasm.types import Batch, Example

MOST_PACKED = 5
"""Captioned pictures of one sequence, unless said otherwise or the context holds fewer."""
KNOWN = 'A line is [{"image": "a.jpg"}, {"text": "..."}, ...] or {"images": [...], "texts": [...]}.'


def is_interleaved(path: Path) -> bool:
    """Whether the first line of a JSON Lines file is a sequence of pictures and texts."""
    if path.suffix.lower() not in {".jsonl", ".ndjson"} or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    try:
        record = json.loads(first)
    except json.JSONDecodeError:
        return False
    return isinstance(record, list) or (isinstance(record, dict) and {"images", "texts"} <= record.keys())


def interleaved_source(path: Path) -> Source:
    """The sequences of a JSON Lines file, one a line: a list of {"image"} and {"text"}, or two lists side by side.

    Of two lists, "images" and "texts", the n-th of both stand at the n-th place, null where it is of the other kind; an
    image is shown before the text of its place. A part is an Example: a picture and the text up to the next one, or the
    text before the first. Pictures are looked for beside the file and below. UserError names the row that is broken.
    """
    lookup, examples = PictureLookup(path.parent), []
    lines = [(n, line) for n, line in enumerate(read_text(path).split("\n"), start=1) if line.strip()]
    for number, line in lines:
        where = f"{path}, row {number}"
        try:
            pieces = _pieces(json.loads(line), where)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON ({error.msg})", "Mend or delete the row.") from error
        group = f"{path.name}:{number}"
        examples += [
            Example(
                image=None if image is None else lookup.find(image, ""), texts=(text,), key=f"{group}#{n}", group=group
            )
            for n, (image, text) in enumerate(_parts(pieces), start=1)
        ]
    splits = split_by_hash([example.group for example in examples])
    counts = {name: len({examples[i].group for i in rows}) for name, rows in splits.items()}
    pictures = sum(example.image is not None for example in examples)
    digest = hashlib.sha256("\n".join(line for _, line in lines).encode("utf-8", "surrogatepass"))
    return Source(
        name=str(path),
        examples=examples,
        splits=splits,
        understood=f"interleaved {path.name}: {len(lines):,} sequences, {pictures:,} pictures; "
        f"{', '.join(f'{name} {count:,}' for name, count in counts.items())} (by hash of the row)",
        fingerprint=digest.hexdigest()[:16],
        interleaved=True,
    )


def _pieces(record: Any, where: str) -> list[tuple[str, str]]:
    """What stands in a row, in order, as ("image", path) or ("text", words)."""
    if isinstance(record, dict) and {"images", "texts"} <= record.keys():
        images, texts = record["images"], record["texts"]
        if not isinstance(images, list) or not isinstance(texts, list) or len(images) != len(texts):
            raise UserError(f"{where}: images and texts are not two lists of one length", "Fill them up with null.")
        found = [pair for image, text in zip(images, texts, strict=True) for pair in (("image", image), ("text", text))]
        pieces = [(kind, value) for kind, value in found if value is not None]
    elif isinstance(record, list) and all(isinstance(p, dict) and p.keys() & {"image", "text"} for p in record):
        pieces = [(kind, piece[kind]) for piece in record for kind in ("image", "text") if piece.get(kind) is not None]
    else:
        raise UserError(f"{where} is no sequence of pictures and texts", KNOWN)
    for kind, value in pieces:
        if not isinstance(value, str) or (kind == "image" and not value.strip()):
            raise UserError(f"{where}: {kind} is {value!r}", f"It must be {'a path' if kind == 'image' else 'a text'}.")
    if not any(kind == "image" for kind, _ in pieces):
        raise UserError(f"{where} has no picture", "Train a language model on text alone.")
    return pieces


def _parts(pieces: Sequence[tuple[str, str]]) -> list[tuple[str | None, str]]:
    """Each picture with the text up to the next, behind the text before the first where there is one."""
    parts: list[tuple[str | None, list[str]]] = [(None, [])]
    for kind, value in pieces:
        if kind == "image":
            parts.append((value.strip(), []))
        elif value.strip():
            parts[-1][1].append(value.strip())
    return [(image, " ".join(words)) for image, words in parts if image is not None or words]


class InterleavedLoader:
    """Sequences of pictures, each followed by its text, as batches; what is random is a function of seed and step.

    They are the groups of a source that is interleaved; of another, its pictures by turns, packed anew in every epoch.
    A batch has `media` and no `images`; its ids are BOS, then `<image>` (the id `mark`), a text and EOT by turns.
    """

    def __init__(
        self,
        loader: Loader,
        examples: Sequence[Example],
        tokenizer: Tokenizer,
        *,
        mark: int,
        context: int,
        grouped: bool,
        packed: int | None = None,
    ):
        """`examples` are those of the loader; UserError where a sequence may not fit `context` ids.

        `packed` captioned pictures make a sequence; None: as many as surely fit, up to five.
        """
        self.loader = loader
        self.mark = mark
        self.pad = tokenizer.pad
        chosen = [examples[int(row)] for row in loader.rows]
        self.shown = np.array([example.image is not None for example in chosen])
        self.given = np.array([example.given for example in chosen])
        lengths = _lengths(chosen, tokenizer)
        if grouped:
            self.packed, self.groups = 0, _groups(chosen)
        else:
            fitting = max(1, min(MOST_PACKED, (context - 1) // int(lengths.max())))
            self.packed, self.groups = packed or fitting, []
        self._check_lengths(chosen, lengths, context)

    def _check_lengths(self, examples: Sequence[Example], lengths: np.ndarray, context: int) -> None:
        if self.packed:
            longest = 1 + self.packed * int(lengths.max())
            told = f"{self.packed} pictures with texts"
        else:
            totals = [1 + int(lengths[rows].sum()) for rows in self.groups]
            longest, place = max(totals), int(np.argmax(totals))
            told = f"The sequence {examples[int(self.groups[place][0])].group}"
        if longest > context:
            raise UserError(
                f"{told} may take {longest} tokens, more than the model's context of {context}",
                "Fewer pictures per sequence (data.pictures_per_sequence), shorter texts, or a longer context.",
            )

    def __len__(self) -> int:
        """How many sequences there are."""
        return -(-len(self.loader) // self.packed) if self.packed else len(self.groups)

    @property
    def steps_per_epoch(self) -> int:
        """Batches that visit every sequence once, but for a last partial one."""
        return max(1, len(self) // self.loader.batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of one step: the same for the same seed and step, whatever was asked for before."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.loader.seed, ORDER, epoch)).permutation(
            len(self.loader) if self.packed else len(self.groups)
        )
        size = self.loader.batch_size
        return self._made(self._sequences(order, place * size, (place + 1) * size), step)

    def stream(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """The batches of the steps from `start_step` to before `stop_step`, made ahead of time."""
        steps = range(start_step, stop_step)
        if self.loader.workers == 0:
            return ahead(self.batch, steps)
        workers, own = self.loader.workers, torch.Generator()
        return iter(DataLoader(_Steps(self), batch_size=None, sampler=steps, num_workers=workers, generator=own))

    def in_order(self, rows: int) -> Iterator[Batch]:
        """Every sequence once, in order, without random changes, of at most about `rows` pictures at a time."""
        largest = self.packed or max(map(len, self.groups))
        each, order = max(1, rows // largest), np.arange(len(self.loader) if self.packed else len(self.groups))
        parts = (self._sequences(order, start, start + each) for start in range(0, len(self), each))
        return ahead(self._made, parts)

    def _sequences(self, order: np.ndarray, start: int, stop: int) -> list[np.ndarray]:
        """The places of the pictures of some sequences."""
        if not self.packed:
            return [self.groups[int(group)] for group in order[start:stop]]
        chosen = order[start * self.packed : stop * self.packed]
        return np.split(chosen, range(self.packed, len(chosen), self.packed))

    def _made(self, sequences: Sequence[np.ndarray], step: int | None = None) -> Batch:
        rows = np.concatenate(sequences)
        flat, sizes = self.loader.of(rows, step), [len(sequence) for sequence in sequences]
        return interleave(flat, sizes, self.shown[rows], self.given[rows], mark=self.mark, pad=self.pad)


def interleave(
    flat: Batch,
    sizes: Sequence[int],
    shown: Bool[np.ndarray, " n"],
    given: Bool[np.ndarray, " n"],
    *,
    mark: int,
    pad: int,
) -> Batch:
    """Sequences of so many rows of a batch each, of those that are not `shown` the text alone.

    `keep` is True at what is to be predicted: not at `<image>`, nor at texts that are `given`.
    """
    rows = zip(flat.ids.tolist(), flat.keep.sum(1).tolist(), shown.tolist(), given.tolist(), strict=True)
    ids, keep = [], []
    for size in sizes:
        own, wanted = [int(flat.ids[0, 0])], [True]
        for text, length, has_picture, known in islice(rows, size):
            said = text[1:length] if length > 2 else []  # a text of no words has no end either
            own += [mark] * has_picture + said
            wanted += [False] * has_picture + [not known] * len(said)
        ids.append(torch.tensor(own))
        keep.append(torch.tensor(wanted))
    bounds = np.cumsum([0, *sizes])
    pictures = [flat.images[a:b][torch.from_numpy(shown[a:b])] for a, b in pairwise(bounds)]
    names = torch.arange(len(sizes))
    return Batch(
        images=flat.images.new_empty(len(sizes), flat.images.shape[1], 0, 0),
        media=pad_sequence(pictures, batch_first=True)[:, :, None],
        ids=pad_sequence(ids, batch_first=True, padding_value=pad),
        keep=pad_sequence(keep, batch_first=True, padding_value=False),
        image_ids=names,
        text_ids=names,
        keys=tuple(flat.keys[start] for start in bounds[:-1]),
    )


class _Steps(Dataset[Batch]):
    def __init__(self, loader: InterleavedLoader):
        self.loader = loader

    def __getitem__(self, step: int) -> Batch:
        return self.loader.batch(step)


def _groups(examples: Sequence[Example]) -> list[np.ndarray]:
    """The places of each group's examples."""
    groups: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        groups.setdefault(example.group, []).append(place)
    return [np.array(places) for places in groups.values()]


def _lengths(examples: Sequence[Example], tokenizer: Tokenizer) -> np.ndarray:
    """The most ids that each example takes in a sequence: `<image>`, its longest text, and EOT."""
    texts = list(dict.fromkeys(text for example in examples for text in example.texts))
    known = dict(zip(texts, tokenizer.lengths(texts), strict=True))
    return np.array([max(known[text] for text in example.texts) for example in examples])


__all__ = ["InterleavedLoader", "interleave", "interleaved_source", "is_interleaved"]
