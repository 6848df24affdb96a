"""The tokenizer: words or byte-level BPE, trained on the user's captions, or one that came with published weights."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, final

# Loaders fork after texts were encoded: threads started by then do not survive in the workers.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tokenizers
import torch
from jaxtyping import Int
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from chiasm.config import read_json
from chiasm.errors import UserError

PAD, BOS, EOT, UNK = 0, 1, 2, 3
SPECIALS = ("<pad>", "<bos>", "<eot>", "<unk>")
"""What stands at the ids PAD, BOS, EOT and UNK; the same characters in a text are ordinary characters."""
WORD = r" ?(?:\w+|[^\w\s])|\s"
"""A word or one mark with the space before it, or one white space: joining the pieces gives back any text."""
BYTES = 256


@final
class Tokenizer:
    """Texts to ids (BOS, the text, EOT, pads) and back; `train`, `load` or `adopt` makes one.

    `pad`, `bos`, `eot` and `unk` are its reserved ids: 0, 1, 2, 3 where it is ours. One from elsewhere may have no
    `bos` or `unk`, and may pad with its `eot`.
    """

    def __init__(self, inner: tokenizers.Tokenizer):
        inner.encode_special_tokens = True  # "<pad>" in a user's text is five characters
        # What is added around a text is said by tokenizer.json's own post-processor and padding; ours has neither.
        if inner.post_processor is None:
            found = [inner.token_to_id(token) for token in SPECIALS]
            if found != [PAD, BOS, EOT, UNK]:
                raise ValueError(f"{', '.join(SPECIALS)} must have the ids 0, 1, 2, 3, not {found}")
            self.bos, self.eot, self.pad, self.unk = BOS, EOT, PAD, UNK
        else:
            self.bos, self.eot = _ends(inner)
            self.pad = self.eot if inner.padding is None else int(inner.padding["pad_id"])
            self.unk = _unknown(inner, {self.pad, self.bos, self.eot})
        self._saved = inner.to_str()
        inner.no_padding()
        inner.no_truncation()
        self._inner = inner
        self._reserved = {self.pad, self.bos, self.eot, self.unk} - {None}
        self._size = max(inner.get_vocab().values()) + 1

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
    def adopt(cls, folder: str | Path) -> Tokenizer:
        """The tokenizer of published weights: a folder with Hugging Face's `tokenizer.json` and what names its pad.

        Lower case, white space and pieces are as the file says. Where it puts nothing around a text, as GPT-2's, that
        is its `bos_token` and `eos_token`. UserError where it is missing, damaged, or puts no one token after a text.
        """
        path = Path(folder) / "tokenizer.json"
        inner = _read(
            path, "Load the tokenizer with transformers' AutoTokenizer and save_pretrained it, which writes it."
        )
        names = _special_names(Path(folder))
        pad = inner.token_to_id(names.get("pad_token", ""))
        inner.no_padding()
        if not inner.encode("", add_special_tokens=True).ids:
            inner.post_processor = _around_texts(inner, names)
        if pad is not None:
            inner.enable_padding(pad_id=pad, pad_token=names["pad_token"])
        suffix = getattr(inner.model, "end_of_word_suffix", None)
        if suffix and isinstance(inner.decoder, decoders.ByteLevel):  # as CLIP's, whose pieces end words themselves
            last = decoders.Replace(tokenizers.Regex(re.escape(suffix) + "$"), "")
            inner.decoder = decoders.Sequence([decoders.ByteLevel(), last, decoders.Replace(suffix, " ")])
        try:
            return cls(inner)
        except ValueError as error:
            raise UserError(f"{path} cannot be used: {error}", "Take a tokenizer that ends texts.") from error

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read what `save` wrote; UserError where the file is missing, damaged, or some other kind of tokenizer."""
        inner = _read(Path(path), "Check the path; the tokenizer is one file.")
        try:
            return cls(inner)
        except ValueError as error:
            raise UserError(f"{path} is not a tokenizer of chiasm: {error}", "Use one that chiasm trained.") from error

    def save(self, path: str | Path) -> None:
        """Write one `tokenizer.json`, which Hugging Face `tokenizers` reads too."""
        Path(path).write_text(self._saved, encoding="utf-8")

    def published(self) -> tuple[Tokenizer, list[int]]:
        """This tokenizer as Hugging Face's tools want it, and for each of its ids the one that it was before.

        The file itself then says what is put around a text. Of ours, EOT changes places with the last token: its id 2
        is what transformers' CLIP takes for a mistake of old files, and answers by another rule.
        """
        order = list(range(self.vocab_size))
        if self._inner.post_processor is not None:
            return self, order
        data = json.loads(self._saved)
        vocabulary = data["model"]["vocab"]
        last, end = max(vocabulary, key=vocabulary.get), SPECIALS[EOT]
        order[EOT], order[-1] = order[-1], EOT
        vocabulary[last], vocabulary[end] = EOT, order.index(EOT)
        for token in data["added_tokens"]:
            token["id"] = vocabulary[token["content"]]
        inner = tokenizers.Tokenizer.from_str(json.dumps(data))
        inner.post_processor = processors.TemplateProcessing(
            single=f"{SPECIALS[BOS]} $A {end}", special_tokens=[(SPECIALS[BOS], BOS), (end, vocabulary[end])]
        )
        inner.enable_padding(pad_id=PAD, pad_token=SPECIALS[PAD])
        return Tokenizer(inner), order

    @property
    def vocab_size(self) -> int:
        """How many ids there are, reserved ones included."""
        return self._size

    def encode(self, texts: Sequence[str], *, context: int, truncate: bool = False) -> Int[Tensor, "b l"]:
        """Ids of BOS (where there is one), the text and EOT, with pads up to the longest of the batch.

        A text of more than `context` ids (BOS and EOT included) raises ValueError; with `truncate` it loses its end
        and keeps its EOT.
        """
        rows = self.rows(texts, context=context, truncate=truncate)
        longest = max(map(len, rows), default=0)
        padded = [row + [self.pad] * (longest - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.long).reshape(len(rows), longest)

    def rows(self, texts: Sequence[str], *, context: int, truncate: bool = False) -> list[list[int]]:
        """What `encode` returns, as lists without pads."""
        before = [] if self.bos is None else [self.bos]
        room = context - self._around
        if room < 0:
            raise ValueError(f"context is {context}; BOS and EOT alone need {self._around}")
        rows = self._pieces(texts)
        for row, text in zip(rows, texts, strict=True):
            if len(row) > room and not truncate:
                raise ValueError(f"A text has {len(row) + self._around} tokens, the context is {context}: {text!r}")
        return [[*before, *row[:room], self.eot] for row in rows]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many ids each text takes, BOS and EOT included."""
        return [len(row) + self._around for row in self._pieces(texts)]

    def decode(self, ids: Sequence[int] | Int[Tensor, " l"]) -> str:
        """The text of the ids up to the first EOT; reserved ids leave no trace. ValueError where an id is not ours."""
        ids = [int(i) for i in ids]
        if self.bos is not None and ids[:1] == [self.bos]:
            ids = ids[1:]  # which may be the same token as EOT
        ids = ids[: ids.index(self.eot)] if self.eot in ids else ids
        self._check(ids)
        return self._inner.decode([i for i in ids if i not in self._reserved])

    def token(self, index: int) -> str:
        """One token as people read it, for labels in pictures: without the space before it."""
        self._check([index])
        if index in self._reserved:
            return self._inner.id_to_token(index) or ""
        return self._inner.decode([index]).strip()

    @property
    def _around(self) -> int:
        """How many ids are added to a text."""
        return 1 if self.bos is None else 2

    def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._inner.encode_batch(list(texts), add_special_tokens=False)]

    def _check(self, ids: Sequence[int]) -> None:
        for index in ids:
            if not 0 <= index < self.vocab_size:
                raise ValueError(f"There is no token {index}; ids go from 0 to {self.vocab_size - 1}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self._saved == other._saved

    def __hash__(self) -> int:
        return hash(self._saved)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._saved,)


def _restore(text: str) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(text))


def _read(path: Path, hint: str) -> tokenizers.Tokenizer:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}", hint) from error
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the Rust side raises nothing narrower
        raise UserError(f"{path} is damaged: {error}", "Restore tokenizer.json from a copy.") from error


def _ends(inner: tokenizers.Tokenizer) -> tuple[int | None, int]:
    """The ids that the post-processor puts before and after a text."""
    empty = inner.encode("", add_special_tokens=True).ids
    if not 1 <= len(empty) <= 2:
        raise ValueError(f"it puts {len(empty)} tokens around a text, not EOT, or BOS and EOT")
    some = inner.encode("a", add_special_tokens=True)
    if not some.special_tokens_mask[-1]:
        raise ValueError("it puts no EOT after a text")
    return (empty[0] if len(empty) == 2 else None), empty[-1]


def _around_texts(inner: tokenizers.Tokenizer, names: dict[str, str]) -> processors.PostProcessor | None:
    """A post-processor that puts the tokens around a text which are named for it; None where there is no end."""
    before, after = names.get("bos_token", ""), names.get("eos_token", "")
    ids = [(token, inner.token_to_id(token)) for token in (before, after)]
    known = [(token, index) for token, index in ids if index is not None]
    if ids[1] not in known:
        return inner.post_processor
    start = f"{before} " if ids[0] in known else ""
    return processors.TemplateProcessing(single=f"{start}$A {after}", special_tokens=list(dict(known).items()))


def _unknown(inner: tokenizers.Tokenizer, others: set[int | None]) -> int | None:
    """The id of unknown words, where there are such and it is no other reserved one's."""
    model = json.loads(inner.to_str())["model"]
    found = model["unk_id"] if "unk_id" in model else inner.token_to_id(model.get("unk_token") or "")
    return None if found in others else found


def _special_names(folder: Path) -> dict[str, str]:
    """The reserved tokens by role (`pad_token`, ...), as Hugging Face's two files beside the tokenizer name them."""
    names: dict[str, str] = {}
    for path in (folder / "special_tokens_map.json", folder / "tokenizer_config.json"):
        if not path.exists():
            continue
        told = read_json(path)
        for role, token in told.items():
            content = token.get("content") if isinstance(token, dict) else token
            if role.endswith("_token") and isinstance(content, str):
                names[role] = content
    return names


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
