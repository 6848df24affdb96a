"""The other side of the benchmarks: the captioner of a well-known lesson, its flaws of quality mended, not of speed.

Mended: patches are cut by a strided convolution, pictures have the background that their captions name, pads are left
out of the loss, the tested pictures were not trained on. Kept: the drawing pixel by pixel, the loop, the `generate`.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from chiasm.data.shapes import BACKGROUNDS, COLOURS, Thing

SIDE, PATCH, WIDTH, LAYERS, HEADS, TOKENS = 32, 8, 128, 2, 4, 12
PAD, BOS, EOT = 0, 1, 2


class PatchEncoder(nn.Module):
    """Patches, learned positions, transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.positions = nn.Parameter(torch.randn((SIDE // PATCH) ** 2, WIDTH) * 0.02)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(WIDTH)
        self.layers = nn.TransformerEncoder(layer, LAYERS, norm, enable_nested_tensor=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """A vector per patch."""
        return self.layers(self.patches(images).flatten(2).transpose(1, 2) + self.positions)


class LessonCaptioner(nn.Module):
    """Patch encoder and causal decoder with cross-attention, of PyTorch's own layers."""

    def __init__(self, vocabulary: int, context: int):
        super().__init__()
        self.encoder = PatchEncoder()
        self.tokens = nn.Embedding(vocabulary, WIDTH)
        self.positions = nn.Parameter(torch.randn(context, WIDTH) * 0.02)
        layer = nn.TransformerDecoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, LAYERS, nn.LayerNorm(WIDTH))
        self.head = nn.Linear(WIDTH, vocabulary, bias=False)

    def decode(self, ids: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """Logits after every one of `ids`."""
        length = ids.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        x = self.tokens(ids) + self.positions[:length]
        return self.head(self.layers(x, memory, tgt_mask=mask, tgt_is_causal=True))

    def forward(self, images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Logits after every one of `ids`."""
        return self.decode(ids, self.encoder(images))

    @torch.no_grad()
    def generate(self, images: torch.Tensor, max_tokens: int, banned: tuple[int, ...] = ()) -> torch.Tensor:
        """`max_tokens` tokens for each picture, whatever they are; every step runs the whole text once more."""
        memory = self.encoder(images)
        ids = torch.full((len(images), 1), BOS)
        for _ in range(max_tokens):
            logits = self.decode(ids, memory)[:, -1]
            if banned:
                logits[:, list(banned)] = -math.inf
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
        return ids[:, 1:]


class Drawn(Dataset):
    """Pictures drawn pixel by pixel, once, and their captions as ids."""

    def __init__(self, things: list[Thing], captions: list[str], words: dict[str, int]):
        self.images = [draw(thing, caption.split()[-2]) for thing, caption in zip(things, captions, strict=True)]
        self.ids = [encode(caption, words) for caption in captions]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images[index], self.ids[index]


def draw(thing: Thing, background: str) -> torch.Tensor:
    """A circle or a square with smooth edges, values in [-1, 1]."""
    ground, colour = BACKGROUNDS[background], COLOURS[thing.colour]
    rows = []
    for row in range(SIDE):
        line = []
        for column in range(SIDE):
            x, y = column + 0.5 - thing.x_pixels, row + 0.5 - thing.y_pixels
            far = math.hypot(x, y) if thing.shape == "circle" else max(abs(x), abs(y))
            covered = min(1.0, max(0.0, 0.5 - far + thing.radius_pixels))
            line.append([int(g + covered * (c - g) + 0.5) for g, c in zip(ground, colour, strict=True)])
        rows.append(line)
    return torch.tensor(rows).permute(2, 0, 1) / 127.5 - 1


def vocabulary(captions: list[str]) -> dict[str, int]:
    """A number for each word, behind pad, BOS and EOT."""
    return {word: number for number, word in enumerate(sorted({w for c in captions for w in c.split()}), start=3)}


def encode(caption: str, words: dict[str, int]) -> torch.Tensor:
    """BOS, the caption, EOT, pads."""
    ids = [BOS, *(words[word] for word in caption.split()), EOT]
    return torch.tensor(ids + [PAD] * (TOKENS - len(ids)))


def decode(ids: torch.Tensor, words: dict[str, int]) -> str:
    """The caption before its EOT."""
    names = {number: word for word, number in words.items()}
    listed = ids.tolist()
    end = listed.index(EOT) if EOT in listed else len(listed)
    return " ".join(names.get(number, "?") for number in listed[:end])


def train(things: list[Thing], captions: list[str], epochs: int, seed: int) -> tuple[LessonCaptioner, dict[str, int]]:
    """The lesson's loop: draw, then Adam on batches of 32 for a number of epochs."""
    torch.manual_seed(seed)
    words = vocabulary(captions)
    loader = DataLoader(Drawn(things, captions, words), batch_size=32, shuffle=True)
    model = LessonCaptioner(len(words) + 3, TOKENS)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    criterion = nn.CrossEntropyLoss(ignore_index=PAD)
    for _ in range(epochs):
        for images, ids in loader:
            logits = model(images, ids[:, :-1])
            loss = criterion(logits.flatten(0, 1), ids[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval(), words
