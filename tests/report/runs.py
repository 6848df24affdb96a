"""Real trainings of a second each, of every kind of model, whose pages are looked at."""

import csv
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from PIL import Image

from chiasm import cli

FEW = ["train.batch_size=8", "train.precision=fp32", "train.keep=last", "train.ema_decay=0"]
SHAPES = ["shapes", "--difficulty", "lesson", "--samples", "60"]
SHORT = ["--set", "model.decoder.rules.context=10"]
"""What has not learnt to end writes as long as it can, and a drawing of attention has a picture for each word."""
NASTY = '<script>document.title="owned"</script>', "<b>bold</b> & {{ 7 * 7 }}"
"""Captions as nobody should write them."""
COMMANDS = {
    "captioner": ["captioner", *SHAPES, *SHORT],
    "clip": ["clip", *SHAPES],
    "coca": ["coca", *SHAPES, *SHORT],
    "answer": ["fusion", *SHAPES, "--task", "answer"],
    "label": ["vit", "CLASSES"],
    "perceiver": ["perceiver", "CLASSES"],
    "mask": ["perceiver", *SHAPES, "--task", "mask", "--inputs", "text"],
    "rebuild": ["perceiver", *SHAPES, "--task", "reconstruct", "--inputs", "picture,text"],
    "lm": ["lm", *SHAPES],
    "flamingo": ["flamingo", *SHAPES, "--lm", "LM"],
    "nasty": ["captioner", "NASTY", "--fusion", "late"],
}


@cache
def trained(name, steps=4):
    """The folder of a finished run; equal arguments are trained once."""
    known = {"CLASSES": lambda: pictures("classes"), "NASTY": lambda: pictures("nasty"), "LM": lambda: trained("lm")}
    folder = Path(mkdtemp()) / name
    words = [str(known[word]()) if word in known else word for word in COMMANDS[name]]
    settings = [f"train.steps={steps}", *FEW]
    if "--set" not in words:
        words.append("--set")
    assert cli.main(["train", *words, *settings, "--preset", "tiny", "--augment", "none", "--out", str(folder)]) == 0
    return folder


@cache
def pictures(kind):
    """A table of 40 pictures of noise: with classes, or with captions that are HTML; two files are broken."""
    folder, random = Path(mkdtemp()), np.random.default_rng(0)
    rows = []
    for place in range(40):
        name = f"{place}.png"
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / name)
        split = ("train", "train", "val", "test")[place % 4]
        text = NASTY[place % 2] if kind == "nasty" else ("cat", "dog", "<i>emu</i>")[place % 3]
        rows.append((name, text, split))
    if kind == "nasty":
        (folder / "5.png").write_bytes(b"no picture")
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "text" if kind == "nasty" else "label", "split"), *rows])
    return folder / "table.csv"
