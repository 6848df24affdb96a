"""Cold start: `import chiasm`, `chiasm --help` and a caption for one picture, beside `import open_clip`.

Every measurement is a process of its own, the commands in turn; files are in the page cache. The captioner is tiny and
its weights are random: what is measured is what comes before the arithmetic. The peer lives in an environment of its
own, made at first use.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _peers import enter_peers
from _side_by_side import arguments, median_seconds, report


def main() -> None:
    parser = arguments(__doc__, repeat=5, repeated="times that each command runs, in turn")
    args = parser.parse_args()
    if not args.toy:
        enter_peers()
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(Path(folder), args.repeat, with_peer=not args.toy)
    report("Cold start, seconds of a whole process", rows, args.out)


def compare(place: Path, repeat: int, *, with_peer: bool) -> list[dict[str, Any]]:
    """The seconds of each command, and what it may take."""
    write_bundle(place)
    cli = "-c", "import sys; from chiasm.cli import main; sys.exit(main())"
    commands = {
        "import torch": ("-c", "import torch"),
        "import chiasm": ("-c", "import chiasm"),
        "chiasm --help": (*cli, "--help"),
        "chiasm caption, one picture": (*cli, "caption", str(place / "bundle"), str(place / "picture.jpg")),
    }
    if with_peer:
        commands["import open_clip"] = ("-c", "import open_clip")
    for words in commands.values():
        run(words)  # into the page cache
    seconds = median_seconds({name: lambda words=words: run(words) for name, words in commands.items()}, repeat)
    most = {
        "import chiasm": 0.3,
        "chiasm --help": 0.5,
        "chiasm caption, one picture": 1.2 * (seconds["import torch"] + 1),
    }
    return [{"what": name, "seconds": taken, "at most": most.get(name, "")} for name, taken in seconds.items()]


def run(words: tuple[str, ...]) -> None:
    """A Python of its own with these arguments."""
    told = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=dict(os.environ))
    if told.returncode:
        raise SystemExit(told.stderr)


def write_bundle(place: Path) -> None:
    """A tiny captioner and a picture; the caption is as long as the model allows."""
    import numpy as np
    from PIL import Image

    from chiasm.bundle import Bundle
    from chiasm.data.transforms import PreprocessConfig
    from chiasm.models import CaptionerConfig, build_model
    from chiasm.models.decoder import DecoderConfig
    from chiasm.models.language import TextRules
    from chiasm.text import Tokenizer

    tokenizer = Tokenizer.train(["a red dog and a blue cat"])
    decoder = DecoderConfig(rules=TextRules.of(tokenizer, 32), vocabulary=tokenizer.vocab_size)
    model = build_model(CaptionerConfig(decoder=decoder))
    preprocess = PreprocessConfig(size=model.config.size)
    Bundle(model=model, tokenizer=tokenizer, preprocess=preprocess).save(place / "bundle")
    noise = np.random.default_rng(0).integers(256, size=(375, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(place / "picture.jpg")


if __name__ == "__main__":
    main()
