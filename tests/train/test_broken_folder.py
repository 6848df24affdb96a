"""A folder in which some pictures are broken and some are odd: it trains, on exactly what can be read, read right."""

import json
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from chiasm import cli
from chiasm.data.layouts import open_source
from chiasm.data.picture import MAX_PIXELS
from chiasm.predict import CaptionPredictor
from chiasm.train.callbacks import read_metrics

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 30), "blue": (30, 30, 220)}
PICTURES, EACH = 2000, {"truncated": 7, "empty": 7, "text": 7, "bomb": 6, "cmyk": 7, "deep": 7, "animated": 7,
                        "turned": 6, "point": 6}  # fmt: skip
UNREADABLE = {"truncated": "truncated", "empty": "the file is empty", "text": "not a picture in a known format",
              "bomb": f"more than {MAX_PIXELS // 10**6} million pixels"}  # fmt: skip


def halves(colour, top=(255, 255, 255)):
    """A picture whose lower half has this colour."""
    pixels = np.full((20, 20, 3), top, dtype=np.uint8)
    pixels[10:] = colour
    return Image.fromarray(pixels)


def write_truncated(path, colour):
    halves(colour).resize((64, 64)).save(path.with_suffix(".png"))
    whole = path.with_suffix(".png").read_bytes()
    path.with_suffix(".png").unlink()
    path.write_bytes(whole[: len(whole) * 2 // 3])


def write_bomb(path, _):
    """A true one: a small file of very many black pixels."""
    side = 15_000

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    pixels = zlib.compress(bytes((side // 8 + 1) * side), 1)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def write_cmyk(path, colour):
    halves(colour).convert("CMYK").save(path, "JPEG", quality=95, subsampling=0)


def write_deep(path, _):
    grey = np.full((20, 20), 65535, dtype=np.uint16)
    grey[10:] = 128 * 257
    Image.fromarray(grey).save(path, "PNG")


def write_animated(path, colour):
    frames = [halves(colour, top=(0, 0, 0)) for _ in range(2)]
    halves(colour).save(path, "GIF", save_all=True, append_images=frames)


def write_turned(path, colour):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned right by 90 degrees
    halves(colour).transpose(Image.Transpose.ROTATE_90).save(path, "JPEG", exif=exif, quality=95, subsampling=0)


WRITE = {
    "truncated": write_truncated,
    "empty": lambda path, _: path.write_bytes(b""),
    "text": lambda path, _: path.write_text("this was meant to be a picture"),
    "bomb": write_bomb,
    "cmyk": write_cmyk,
    "deep": write_deep,
    "animated": write_animated,
    "turned": write_turned,
    "point": lambda path, colour: Image.new("RGB", (1, 1), colour).save(path, "PNG"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """2,000 pictures called .jpg, with sidecar captions; the 60 that are broken or odd are named for what they are."""
    folder = tmp_path_factory.mktemp("folder")
    kinds = [kind for kind, count in EACH.items() for _ in range(count)]
    places = np.random.default_rng(0).permutation(PICTURES)[: len(kinds)]
    special = dict(zip(places.tolist(), kinds, strict=True))
    written = {}  # a kind's file is made once for each colour, then copied
    for i in range(PICTURES):
        kind, colour = special.get(i, "good"), list(COLOURS)[i % 3]
        path = folder / f"{i:04}-{kind}.jpg"
        if (kind, colour) not in written:
            WRITE.get(kind, lambda path, colour: halves(colour).save(path, quality=95))(path, COLOURS[colour])
            written[kind, colour] = path.read_bytes()
        path.write_bytes(written[kind, colour])
        path.with_suffix(".txt").write_text(f"white above {'grey' if kind == 'deep' else colour}")
    return folder


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    sizes = ["model.vision.width=32", "model.vision.depth=1", "model.decoder.width=32", "model.decoder.depth=1"]
    command = ["train", "captioner", str(folder), "--out", str(run), "--preset", "tiny", "--epochs", "2"]
    more = ["train.batch_size=64", "train.precision=fp32", "train.ema_decay=0", "train.learning_rate=0.004"]
    assert cli.main([*command, "--augment", "none", "--set", *sizes, *more]) == 0
    return run


def test_exactly_the_unreadable_ones_are_quarantined_with_reasons(folder, run):
    lines = [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]
    reasons = {line["key"]: line["reason"] for line in lines}
    assert len(reasons) == len(lines)
    kinds = {key: key.rsplit("-")[-1].removesuffix(".jpg") for key in reasons}
    assert Counter(kinds.values()) == {kind: EACH[kind] for kind in UNREADABLE}
    for key, reason in reasons.items():
        assert UNREADABLE[kinds[key]] in reason, (key, reason)
    assert "27 broken left out" in (run / "card.md").read_text()


def test_the_others_are_trained_on(run):
    losses = [row["val_loss"] for row in read_metrics(run / "metrics.csv") if row["val_loss"] is not None]
    assert losses[-1] < 0.8 * losses[0]
    evaluation = json.loads((run / "evaluation.json").read_text())["test"]
    captions = [json.loads(line)["key"] for line in (run / "captions.jsonl").read_text().splitlines()]
    assert evaluation["pictures"] == len(captions) > 100
    assert not [key for key in captions if any(kind in key for kind in UNREADABLE)]


@pytest.mark.parametrize("kind", ["cmyk", "deep", "animated", "turned", "point"])
def test_the_odd_ones_are_read_right(kind, folder, run):
    reader = CaptionPredictor.load(run)
    paths = sorted(folder.glob(f"*-{kind}.jpg"))
    assert len(paths) == EACH[kind]
    for path, pixels in zip(paths, reader.read(paths), strict=True):
        colour = path.with_suffix(".txt").read_text().split()[-1]
        lower = (128, 128, 128) if colour == "grey" else COLOURS[colour]
        upper = lower if kind == "point" else (255, 255, 255)
        np.testing.assert_allclose(pixels[4:12].mean((0, 1)), upper, atol=12)
        np.testing.assert_allclose(pixels[20:28].mean((0, 1)), lower, atol=12)


def test_too_many_broken_stop_before_training(tmp_path, capsys):
    for i in range(40):
        halves(COLOURS["red"]).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("a caption")
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"")
    command = ["train", "captioner", str(tmp_path), "--preset", "tiny", "--epochs", "1", "--augment", "none"]
    settings = ["--set", "train.precision=fp32", "model.vision.depth=1", "model.decoder.depth=1"]
    assert cli.main([*command, "--out", str(tmp_path / "run"), *settings]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: 3 of the 40 pictures of ")
    assert "0.png: the file is empty" in told
    assert "--max-broken-share 0.08" in told
    assert "Traceback" not in told
    assert len((tmp_path / "run/quarantine.jsonl").read_text().splitlines()) == 3
    allowed = [["--max-broken-share", "0.08"], ["--set", "data.max_broken_share=0.08"]]
    for i, allow in enumerate(allowed):
        assert cli.main([*command, "--out", str(tmp_path / "run") + "x" * i, *settings, *allow]) == 0


def test_a_small_split_with_nothing_readable_is_no_reason_to_stop(tmp_path):
    for i in range(40):
        halves(COLOURS["red"]).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("a caption")
    source = open_source(str(tmp_path))
    tests = [source.examples[int(i)].image for i in source.splits["test"]]
    for path in tests:
        path.write_bytes(b"")
    command = ["train", "captioner", str(tmp_path), "--preset", "tiny", "--epochs", "1", "--augment", "none"]
    more = ["--set", "train.precision=fp32", "--max-broken-share", "0.5"]
    assert cli.main([*command, "--out", str(tmp_path / "run"), *more]) == 0
    assert list(json.loads((tmp_path / "run/evaluation.json").read_text())) == ["val"]
