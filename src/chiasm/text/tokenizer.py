"""The tokenizer: words or byte-level BPE, trained on the user's captions, with reserved ids of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, final

# Loaders fork after texts were encoded: threads started by then do not survive in the workers.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tokenizers
import torch
from jaxtyping import Int
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from chiasm.errors import UserError

PAD, BOS, EOT, UNK = 0, 1, 2, 3
SPECIALS = ("<pad>", "<bos>", "<eot>", "<unk>")
"""What stands at the ids PAD, BOS, EOT and UNK; the same characters in a text are ordinary characters."""
WORD = r" ?(?:\w+|[^\w\s])|\s"
"""A word or one mark with the space before it, or one white space: joining the pieces gives back any text."""
BYTES = 256


@final
class Tokenizer:
    """Texts to ids (BOS, the text, EOT, pads) and back; `train` or `load` makes one."""

    def __init__(self, inner: tokenizers.Tokenizer):
        found = [inner.token_to_id(token) for token in SPECIALS]
        if found != [PAD, BOS, EOT, UNK]:
            raise ValueError(f"{', '.join(SPECIALS)} must have the ids 0, 1, 2, 3, not {found}")
        inner.encode_special_tokens = True  # "<pad>" in a user's text is five characters
        self._inner = inner

    @classmethod
    def train(cls, texts: Iterable[str], *, kind: Literal["word", "bpe"] = "word", vocab_size: int = 8192) -> Tokenizer:
        """A tokenizer with the `vocab_size` (at most) commonest words, or byte-level BPE pieces, of the texts.

        Words decode to exactly their text except where a word is unknown; BPE (Sennrich et al., 1508.07909, on bytes)
        knows every text. The same texts give the same tokenizer. ValueError where `vocab_size` leaves no room.
        """
        least = len(SPECIALS) + (BYTES if kind == "bpe" else 1)
        if vocab_size < least:
            raise ValueError(f"vocab_size is {vocab_size}; kind {kind!r} needs at least {least}")
        inner, trainer = _words(vocab_size) if kind == "word" else _byte_pairs(vocab_size)
        inner.normalizer = normalizers.Prepend(" ")  # the first word is the same token as elsewhere
        inner.train_from_iterator(texts, trainer)
        return cls(inner)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read what `save` wrote; UserError where the file is missing, damaged, or some other kind of tokenizer."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read: {error}", "Check the path; the tokenizer is one file.") from error
        try:
            inner = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the Rust side raises nothing narrower
            raise UserError(f"{path} is damaged: {error}", "Restore tokenizer.json from a copy.") from error
        try:
            return cls(inner)
        except ValueError as error:
            raise UserError(f"{path} is not a tokenizer of chiasm: {error}", "Use one that chiasm trained.") from error

    def save(self, path: str | Path) -> None:
        """Write one `tokenizer.json`, which Hugging Face `tokenizers` reads too."""
        self._inner.save(str(path))

    @property
    def vocab_size(self) -> int:
        """How many ids there are, reserved ones included."""
        return self._inner.get_vocab_size()

    def encode(self, texts: Sequence[str], *, context: int, truncate: bool = False) -> Int[Tensor, "b l"]:
        """Ids of BOS, the text and EOT, with PAD up to the longest of the batch.

        A text of more than `context` ids (BOS and EOT included) raises ValueError; with `truncate` it loses its end
        and keeps its EOT.
        """
        if context < 2:
            raise ValueError(f"context is {context}; BOS and EOT alone need 2")
        rows = self._rows(texts)
        for row, text in zip(rows, texts, strict=True):
            if len(row) > context - 2 and not truncate:
                raise ValueError(f"A text has {len(row) + 2} tokens, the context is {context}: {text!r}")
        rows = [[BOS, *row[: context - 2], EOT] for row in rows]
        longest = max(map(len, rows), default=0)
        padded = [row + [PAD] * (longest - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.long).reshape(len(rows), longest)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many ids each text takes, BOS and EOT included."""
        return [len(row) + 2 for row in self._rows(texts)]

    def decode(self, ids: Sequence[int] | Int[Tensor, " l"]) -> str:
        """The text of the ids up to the first EOT; reserved ids leave no trace. ValueError where an id is not ours."""
        ids = [int(i) for i in ids]
        ids = ids[: ids.index(EOT)] if EOT in ids else ids
        self._check(ids)
        return self._inner.decode([i for i in ids if i >= len(SPECIALS)])

    def token(self, index: int) -> str:
        """One token as people read it, for labels in pictures: without the space before it."""
        self._check([index])
        return SPECIALS[index] if index < len(SPECIALS) else self._inner.decode([index]).strip()

    def _rows(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._inner.encode_batch(list(texts), add_special_tokens=False)]

    def _check(self, ids: Sequence[int]) -> None:
        for index in ids:
            if not 0 <= index < self.vocab_size:
                raise ValueError(f"There is no token {index}; ids go from 0 to {self.vocab_size - 1}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._inner.to_str(),)


def _restore(text: str) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(text))


def _words(vocab_size: int) -> tuple[tokenizers.Tokenizer, trainers.Trainer]:
    inner = tokenizers.Tokenizer(models.WordLevel(unk_token=SPECIALS[UNK]))
    inner.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(WORD), behavior="isolated")
    inner.decoder = decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return inner, trainers.WordLevelTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIALS), show_progress=False, min_frequency=0
    )


def _byte_pairs(vocab_size: int) -> tuple[tokenizers.Tokenizer, trainers.Trainer]:
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    return inner, trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
