"""From JPEG files in folders to normalised batches: chiasm against ImageFolder, `datasets` and open_clip's CSV.

Every side reads the same files, resizes with an antialiased bicubic filter and hands out fp32 batches NCHW; peers have
two worker processes, chiasm two threads or processes. A peer's first epoch starts its workers; chiasm's fills the cache
of pixels and tokenises the texts; data sets are opened beforehand. The pictures are smooth random fields with noise, so
that JPEG has something to do.
"""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _peers import enter_peers
from _side_by_side import arguments, report
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from chiasm.data.cache import prepare_pictures
from chiasm.data.layouts import open_source
from chiasm.data.loader import Loader
from chiasm.data.transforms import PreprocessConfig
from chiasm.text.tokenizer import Tokenizer

WORKERS = 2
CLASSES = 10
LATER_EPOCHS = 3
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
TOLERANCE_SHADES = 1.01
"""Of 255: how far a side's pixels may be from Pillow's. No side decodes these pictures at a reduced scale."""
SIDES = {"thumbnails": (10_000, 32, 32, 128), "photos": (1_000, 500, 224, 64)}
"""Pictures, their side in pixels, what they become, and the batch."""
TOY = {"thumbnails": (64, 32, 32, 16), "photos": (24, 100, 48, 8)}

Epoch = Callable[[], Iterable[Tensor]]


def main() -> None:
    parser = arguments(__doc__, repeat=3, repeated="first epochs of every side")
    args = parser.parse_args()
    if not args.toy:
        enter_peers()
    rows: list[dict[str, Any]] = []
    for name, (count, full, side, batch) in (TOY if args.toy else SIDES).items():
        with tempfile.TemporaryDirectory() as scratch:
            write_pictures(Path(scratch, "pictures"), count, full)
            starts = sides(Path(scratch), side, batch)
            check(starts, side)
            rows += measure(f"{count:,} {name}, {full} to {side} px", starts, count, args.repeat)
    report(f"Loading, {WORKERS} workers, images/s, median of {args.repeat}", rows, args.out)


def measure(what: str, starts: dict[str, Callable[[], Epoch]], count: int, repeat: int) -> list[dict[str, Any]]:
    """The speed of every side's first and later epochs, taken in turn, and its share of the best other side's."""
    speeds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in starts}
    for _ in range(repeat):
        for name, start in starts.items():
            epochs = 1 + (LATER_EPOCHS if name.startswith("chiasm") else 1)
            began = time.perf_counter()
            epoch = start()
            for number in range(epochs):
                seen = sum(len(images) for images in epoch())
                now = time.perf_counter()
                speeds[name][number > 0].append(seen / (now - began))
                assert 0.8 * count < seen <= count, (name, seen)  # a last partial batch may be left out
                began = now
    medians = {name: tuple(statistics.median(values) for values in both) for name, both in speeds.items()}
    best = [
        max((both[i] for name, both in medians.items() if not name.startswith("chiasm")), default=0) for i in (0, 1)
    ]
    return [
        {
            "pictures": what,
            "side": name,
            "first epoch": first,
            "of the best peer": first / best[0] if best[0] else 0.0,
            "later epochs": later,
            "of the best peer, later": later / best[1] if best[1] else 0.0,
        }
        for name, (first, later) in medians.items()
    ]


def sides(scratch: Path, side: int, batch: int) -> dict[str, Callable[[], Epoch]]:
    """Of each side a function that starts afresh, and returns one that makes an epoch's batches of pictures."""
    folder = scratch / "pictures"
    starts: dict[str, Callable[[], Epoch]] = {}
    if importlib.util.find_spec("torchvision"):
        from torchvision.datasets import ImageFolder
        from torchvision.io import decode_image
        from torchvision.transforms import v2

        pillow, tensors = torchvision_transforms(side), [v2.Resize((side, side), v2.InterpolationMode.BICUBIC)]
        tensors += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        starts["torchvision ImageFolder"] = peer(ImageFolder(folder, pillow), batch)
        quick = ImageFolder(folder, v2.Compose(tensors), loader=partial(decode_image, mode="RGB"))
        starts["torchvision, tensors, workers stay"] = peer(quick, batch, persistent_workers=True)
        starts["datasets imagefolder"] = peer(imagefolder(scratch).with_transform(partial(apply, pillow)), batch)
    together = imagefolder(scratch).with_transform(partial(at_once, side))
    starts["datasets, batched, workers stay"] = peer(together, batch, persistent_workers=True)
    if importlib.util.find_spec("open_clip"):
        import open_clip

        transform = open_clip.image_transform(side, is_train=False, mean=MEAN, std=STD)
        starts["open_clip CSV"] = peer(CsvDataset(folder, transform, open_clip.get_tokenizer("ViT-B-32")), batch)
    starts["chiasm"] = chiasm(scratch, side, batch)
    return starts


def peer(dataset: Any, batch: int, **options: Any) -> Callable[[], Epoch]:
    """A DataLoader's epochs."""

    def start() -> Epoch:
        loader = DataLoader(dataset, batch, shuffle=True, num_workers=WORKERS, **options)
        return lambda: (part["pixel_values"] if isinstance(part, dict) else part[0] for part in loader)

    start.dataset = dataset  # type: ignore[attr-defined]  # for the check
    return start


def chiasm(scratch: Path, side: int, batch: int) -> Callable[[], Epoch]:
    """What `chiasm train` does: fill the cache of pixels, then make batches ahead of the step."""
    source = open_source(scratch / "pictures")
    examples = source.examples
    preprocess = PreprocessConfig(size=(side, side), mean=MEAN, std=STD)
    tokenizer = Tokenizer.train(text for example in examples for text in example.texts)

    def start() -> Epoch:
        shutil.rmtree(scratch / "cache", ignore_errors=True)
        pictures = prepare_pictures(examples, preprocess, name=source.name, folder=scratch / "cache")
        loader = Loader(examples, pictures, tokenizer, preprocess=preprocess, augment=None, batch_size=batch,
                        context=32, seed=0)  # fmt: skip
        epochs = iter(range(1 + LATER_EPOCHS))

        def epoch() -> Iterator[Tensor]:
            first = next(epochs) * loader.steps_per_epoch
            return (made.images for made in loader.stream(first, first + loader.steps_per_epoch))

        start.loader = loader  # type: ignore[attr-defined]  # for the check
        return epoch

    return start


def check(starts: dict[str, Callable[[], Epoch]], side: int) -> None:
    """Exit unless every side makes the same of the same files as Pillow, within a shade."""
    starts["chiasm"]()
    loader = starts["chiasm"].loader  # type: ignore[attr-defined]
    files = [example.image for example in loader.pictures.examples]
    places = {path.as_posix(): place for place, path in enumerate(files)}
    ordered = [places[path.as_posix()] for path in sorted(files)]  # as peers number them
    for name, start in starts.items():
        for place in (0, len(files) // 2, len(files) - 1):
            path = sorted(files)[place]
            exact = np.asarray(Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
            if name == "chiasm":
                got = loader.of(np.array([ordered[place]])).images[0]
            else:
                item = start.dataset[place]  # type: ignore[attr-defined]
                got = item["pixel_values"] if isinstance(item, dict) else item[0]
            shades = 255 * (got.permute(1, 2, 0) * torch.tensor(STD) + torch.tensor(MEAN))
            apart = (shades - torch.from_numpy(exact.astype(np.float32))).abs().max().item()
            if apart > TOLERANCE_SHADES:
                sys.exit(f"{name} is {apart:.2f} shades from Pillow's resize of {path}")


def torchvision_transforms(side: int) -> Any:
    """As torchvision's and transformers' examples have it."""
    from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor

    return Compose([Resize((side, side), InterpolationMode.BICUBIC), ToTensor(), Normalize(MEAN, STD)])


def imagefolder(scratch: Path) -> Any:
    """The folder as `datasets` reads it."""
    import datasets

    datasets.disable_progress_bars()
    folder, cache = str(scratch / "pictures"), str(scratch / "datasets")
    return datasets.load_dataset("imagefolder", data_dir=folder, split="train", cache_dir=cache)


def apply(transform: Any, rows: dict[str, list[Any]]) -> dict[str, Any]:
    """As the documentation of `datasets` has it: every picture by itself."""
    return {"pixel_values": [transform(image.convert("RGB")) for image in rows["image"]], "label": rows["label"]}


def at_once(side: int, rows: dict[str, list[Any]]) -> dict[str, Any]:
    """Resized by Pillow, normalised as one array."""
    resized = [image.resize((side, side), Image.Resampling.BICUBIC) for image in rows["image"]]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in resized])).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return {"pixel_values": pixels.div_(255).sub_(mean).div_(std), "label": rows["label"]}


class CsvDataset(Dataset):
    """The items of open_clip_train.data.CsvDataset, which cannot be imported without webdataset."""

    def __init__(self, folder: Path, transform: Any, tokenize: Any):
        self.images = [str(path) for path in sorted(folder.rglob("*.jpg"))]
        self.transform = transform
        self.tokenize = tokenize

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.transform(Image.open(self.images[index]))
        return image, self.tokenize([Path(self.images[index]).parent.name])[0]


def write_pictures(folder: Path, count: int, side: int) -> None:
    """JPEGs in folders of classes: fields of three scales and a grain, at quality 90."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class {number % CLASSES}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = 128 + rng.normal(0, 6, (side, side, 3)).astype(np.float32)
        for cells, contrast in ((4, 60), (12, 30), (48, 20)):
            field = rng.normal(0, contrast, (3, 1, min(cells, side), min(cells, side))).astype(np.float32)
            smooth = torch.nn.functional.interpolate(torch.from_numpy(field), (side, side), mode="bicubic")
            values += smooth[:, 0].permute(1, 2, 0).numpy()
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(path, quality=90)


if __name__ == "__main__":
    main()
