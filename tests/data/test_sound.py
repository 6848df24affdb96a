"""Sounds of any format, rate and number of channels become one channel; broken ones are left out of batches."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch

from chiasm.data.cache import prepare_pictures
from chiasm.data.layouts import open_source
from chiasm.data.loader import Loader
from chiasm.data.sound import BrokenSound, SoundConfig, prepare_sounds, read_sound
from chiasm.data.transforms import NO_PICTURES, PreprocessConfig
from chiasm.errors import UserError
from chiasm.text import Tokenizer
from chiasm.types import Example
from layout_files import draw, png, write, write_tar

CONFIG = SoundConfig(rate_hertz=8000, seconds=0.5)


def tone(hertz, rate=8000, seconds=0.3):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def encoded(values, rate=8000, form="WAV", subtype=None):
    stream = io.BytesIO()
    soundfile.write(stream, values, rate, format=form, subtype=subtype)
    return stream.getvalue()


def loudest_hertz(values, rate):
    return np.abs(np.fft.rfft(values)).argmax() * rate / len(values)


@pytest.mark.parametrize(("form", "atol"), [("WAV", 1e-4), ("FLAC", 1e-4), ("OGG", 0.1)])
def test_formats_read_alike_from_bytes_and_files(tmp_path, form, atol):
    data = encoded(tone(440), form=form)
    path = tmp_path / f"a.{form.lower()}"
    path.write_bytes(data)
    for sound in (data, path):
        read = read_sound(sound, CONFIG)
        assert read.dtype == np.float32 and abs(len(read) - 2400) <= 1
        np.testing.assert_allclose(read[200:2000], tone(440)[200:2000], atol=atol)


@pytest.mark.parametrize("rate", [4000, 11025, 44100])
def test_other_rates_keep_pitch_and_length(rate):
    read = read_sound(encoded(tone(700, rate), rate), CONFIG)
    assert abs(len(read) - 2400) <= 1
    assert abs(loudest_hertz(read, 8000) - 700) < 5
    np.testing.assert_allclose(read[300:2000], tone(700)[300:2000], atol=0.02)


def test_channels_are_averaged_and_long_sounds_cut():
    stereo = np.stack([tone(300, seconds=2), np.zeros(16000, np.float32)], axis=1)
    read = read_sound(encoded(stereo, subtype="FLOAT"), CONFIG)
    assert len(read) == CONFIG.samples == 4000
    np.testing.assert_allclose(read, tone(300, seconds=2)[:4000] / 2, atol=1e-6)
    array = tone(300, seconds=2)
    np.testing.assert_array_equal(read_sound(array, CONFIG), array[:4000])


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (b"", "empty"),
        (b"no sound at all" * 50, "not recognised"),
        (encoded(np.zeros(0, np.float32)), "no samples"),
        (np.zeros((2, 3), np.float32), "2 axes"),
        (np.array([0.0, np.nan], np.float32), "no numbers"),
        (encoded(np.array([0.0, np.inf]), subtype="FLOAT"), "no numbers"),
        (Path("gone.wav"), "No such file"),
    ],
    ids=["empty", "noise", "no samples", "two axes", "array of no numbers", "file of no numbers", "missing"],
)
def test_what_cannot_be_read_says_why(sound, reason):
    with pytest.raises(BrokenSound) as caught:
        read_sound(sound, CONFIG)
    assert reason in caught.value.reason


def test_without_soundfile_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UserError, match=r"pip install 'chiasm\[sound\]'"):
        read_sound(encoded(tone(440)), CONFIG)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="not even one sample"):
        SoundConfig(seconds=0.0)


# In data sets


def save_tones(folder: Path, *names: str) -> None:
    for place, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(tone(200 + 100 * place), form=name.rsplit(".")[-1].upper()))


def sounds_of(source):
    return [
        (e.sound if isinstance(e.sound, bytes) else e.sound and e.sound.name, e.texts, e.label) for e in source.examples
    ]


@pytest.mark.parametrize("column", ["audio", "sound", "wav"])
def test_tables_name_sounds_with_or_without_pictures(tmp_path, column):
    save_tones(tmp_path, "x/a.wav", "x/b.wav")
    draw(tmp_path, "a.png")
    alone = write(tmp_path / "alone.csv", f"{column},label", "a.wav,high", "x/b.wav,low")
    assert sounds_of(open_source(alone, partial=True)) == [("a.wav", (), "high"), ("b.wav", (), "low")]
    with pytest.raises(UserError, match="which column holds the picture"):
        open_source(alone)
    both = write(tmp_path / "both.csv", f"image,{column},caption", "a.png,a.wav,a tone")
    (example,) = open_source(both).examples
    assert (example.image.name, example.sound.name, example.key) == ("a.png", "a.wav", "a.png")
    named = write(tmp_path / "named.csv", "image,noise,caption", "a.png,a.wav,a tone")
    assert open_source(named, sound_column="noise").examples[0].sound.name == "a.wav"
    with pytest.raises(UserError, match="no column 'nose'"):
        open_source(named, sound_column="nose")


def test_metadata_of_a_folder_of_sounds(tmp_path):
    save_tones(tmp_path, "a.wav", "b.flac")
    write(tmp_path / "metadata.csv", "file_name,text", "a.wav,one", "b.flac,two")
    assert sounds_of(open_source(tmp_path, partial=True)) == [("a.wav", ("one",), ""), ("b.flac", ("two",), "")]


def test_folders_of_classes_of_sounds_and_sounds_beside_pictures(tmp_path):
    save_tones(tmp_path / "heard", "dog/1.wav", "cat/2.flac")
    assert sounds_of(open_source(tmp_path / "heard", partial=True)) == [("2.flac", (), "cat"), ("1.wav", (), "dog")]
    save_tones(tmp_path / "seen", "dog/1.wav", "dog/9.wav")
    draw(tmp_path / "seen", "dog/1.png", "cat/2.png")
    found = {
        e.key: (e.image and e.image.name, e.sound and e.sound.name)
        for e in open_source(tmp_path / "seen", partial=True).examples
    }
    assert found == {"cat/2.png": ("2.png", None), "dog/1.png": ("1.png", "1.wav"), "dog/9.wav": (None, "9.wav")}
    assert len(open_source(tmp_path / "seen").examples) == 2


def test_sounds_inside_tables_and_archives(tmp_path):
    data = [encoded(tone(hertz)) for hertz in (300, 400)]
    table = datasets.Dataset.from_dict({"clip": [{"bytes": d, "path": "x.wav"} for d in data], "label": [0, 1]})
    table = table.cast_column("clip", datasets.Audio(decode=False))
    table.cast_column("label", datasets.ClassLabel(names=["low", "high"])).to_parquet(tmp_path / "t.parquet")
    expected = [(data[0], (), "low"), (data[1], (), "high")]
    assert sounds_of(open_source(tmp_path / "t.parquet", partial=True)) == expected
    write_tar(
        tmp_path / "t.tar", **{"1.wav": data[0], "1.cls": "low", "2.wav": data[1], "2.png": png(1), "2.cls": "high"}
    )
    source = open_source(tmp_path / "t.tar", partial=True)
    assert sounds_of(source) == expected and [e.image for e in source.examples] == [None, png(1)]


# In batches


@pytest.fixture
def make_loader(tmp_path):
    def make(examples, size=(8, 8), limit_bytes=10**9, **options):
        preprocess = PreprocessConfig(size=size)
        pictures = prepare_pictures(examples, preprocess, name="some", folder=tmp_path / "cache", max_broken_share=1.0)
        sounds = prepare_sounds(examples, CONFIG, name="some", limit_bytes=limit_bytes)
        tokenizer = Tokenizer.train(["a text", "one more text"])
        usual = {"augment": None, "batch_size": 2, "context": 8, "seed": 0, "sounds": sounds, "partial": True}
        return Loader(examples, pictures, tokenizer, preprocess=preprocess, **usual | options)

    return make


def example(key, *, image=None, sound=None, texts=(), label=""):
    return Example(image=image, sound=sound, texts=texts, key=key, label=label)


PICTURE = np.full((8, 8, 3), 200, np.uint8)


@pytest.mark.parametrize("limit_bytes", [10**9, 0])
def test_batches_hold_padded_sounds_and_say_which_samples_are_real(make_loader, limit_bytes):
    examples = [example(str(n), image=PICTURE, sound=encoded(tone(300, seconds=n / 10))) for n in (1, 3, 7, 2)]
    batch = next(make_loader(examples, limit_bytes=limit_bytes).in_order(4))
    assert batch.sounds.shape == batch.sound_keep.shape == (4, CONFIG.samples)
    assert batch.sound_keep.sum(1).tolist() == [800, 2400, 4000, 1600]
    assert not batch.sounds[~batch.sound_keep].any()
    for row, sound in enumerate(examples):
        expected = read_sound(sound.sound, CONFIG)
        assert torch.equal(batch.sounds[row, : len(expected)], torch.from_numpy(expected))
        assert batch.sound_keep[row, : len(expected)].all()
    assert batch.image_keep is None


def test_rows_that_lack_a_part_keep_nothing_of_it(make_loader):
    whole = {"image": PICTURE, "sound": tone(300), "texts": ("a text",)}
    examples = [
        example("whole", **whole),
        *(example(name, **whole | {name: () if name == "texts" else None}) for name in whole),
    ]
    batch = next(make_loader(examples).in_order(4))
    assert batch.keys == ("whole", "image", "sound", "texts")
    assert batch.image_keep.tolist() == [True, False, True, True]
    assert not batch.images[1].any() and batch.images[0].any() and torch.equal(batch.images[0], batch.images[2])
    assert batch.sound_keep.any(1).tolist() == [True, True, False, True]
    assert batch.keep.any(1).tolist() == [True, True, True, False]
    assert torch.equal(batch.ids[0], batch.ids[1])
    parts = list(batch.split(3))
    assert parts[0].image_keep.tolist() == [True, False, True] and parts[1].image_keep.tolist() == [True]
    no_texts = next(make_loader([example("a", image=PICTURE, sound=tone(300))]).in_order(1))
    assert no_texts.ids.shape == (1, 1) and not no_texts.keep.any()
    deaf = next(make_loader(examples, size=NO_PICTURES).in_order(4))
    assert deaf.image_keep is None and deaf.images.shape == (4, 3, 0, 0)


def test_whole_examples_are_asked_for_unless_parts_will_do(make_loader):
    sound = tone(300)
    good = example("good", image=PICTURE, sound=sound, texts=("a text",))
    with pytest.raises(UserError, match="blind has no picture"):
        make_loader([good, example("blind", sound=sound, texts=("a text",))], partial=False)
    with pytest.raises(UserError, match="mute has no text"):
        make_loader([good, example("mute", image=PICTURE, sound=sound)], partial=False)


def test_broken_sounds_and_broken_pictures_are_left_out(make_loader):
    examples = [
        example("good", image=PICTURE, sound=tone(300)),
        example("bad sound", image=PICTURE, sound=b"bad"),
        example("bad picture", image=b"bad", sound=tone(300)),
        example("good too", image=PICTURE, sound=tone(400)),
    ]
    loader = make_loader(examples)
    assert loader.keys == ["good", "good too"]
    assert [(broken.row, broken.key) for broken in loader.sounds.broken] == [(1, "bad sound")]
    batch = next(loader.in_order(2))
    assert torch.equal(batch.sounds[1], torch.from_numpy(tone(400)))


def test_data_without_a_sound_are_said():
    with pytest.raises(UserError, match="some has no sounds"):
        prepare_sounds([example("a", image=PICTURE)], CONFIG, name="some")
