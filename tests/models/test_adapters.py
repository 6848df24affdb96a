"""Adapters put every value in its place, beside the place's position, and leave no trace of what is masked."""

import math

import numpy as np
import pytest
import torch

from chiasm.models.adapters import Multimodal, build_adapter
from chiasm.models.inputs import (
    ConvInput,
    Given,
    Inputs,
    MelInput,
    PictureInput,
    Positions,
    TextInput,
    VideoInput,
    WaveInput,
)
from chiasm.models.language import TextRules
from chiasm.models.mel import LogMel, mel_filters

FEW = Positions(bands=3)
TEXT = TextInput(width=6, rules=TextRules(context=9), vocabulary=20)
PICTURE = PictureInput(size=(4, 6), positions=FEW)
WAVE = WaveInput(rate_hertz=100, seconds=0.5, patch_samples=8, positions=FEW)
MEL = MelInput(rate_hertz=1000, seconds=0.2, mels=5, window_seconds=0.02, hop_seconds=0.01, positions=FEW)
VIDEO = VideoInput(size=(4, 6), frames=4, patch_frames=2, patch_pixels=2, positions=FEW)


def test_pixels_stand_beside_the_features_of_their_place():
    images = torch.randn(2, 3, 4, 6)
    encoded = build_adapter(PICTURE)(images)
    assert encoded.tokens.shape == (2, 24, 3 + 2 * 7) and encoded.keep is None
    for row in range(4):
        for column in range(6):
            token = encoded.tokens[1, row * 6 + column]
            assert torch.equal(token[:3], images[1, :, row, column])
            features = []
            for place, side in ((row, 4), (column, 6)):
                x = -1 + 2 * place / (side - 1)
                bands = [1 + (side / 2 - 1) * i / 2 for i in range(3)]
                features += [x, *(f(math.pi * x * b) for f in (math.sin, math.cos) for b in bands)]
            torch.testing.assert_close(token[3:], torch.tensor(features), rtol=1e-4, atol=1e-5)


def test_patches_hold_the_values_of_their_square():
    images = torch.randn(2, 3, 4, 6)
    patches = build_adapter(PictureInput(size=(4, 6), patch_pixels=2, positions=FEW)).patches(images).tokens
    assert patches.shape == (2, 6, 12)
    for i in range(6):
        row, column = divmod(i, 3)
        square = images[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(patches[:, i], square.reshape(2, 12))


def test_video_patches_hold_the_values_of_their_block():
    videos = torch.randn(2, 4, 3, 4, 6)
    adapter = build_adapter(VIDEO)
    assert adapter.patches.grid == (2, 2, 3) and adapter.channels == 24 + 3 * 7
    patches = adapter.patches(videos).tokens
    for i, (time, row, column) in enumerate(np.ndindex(2, 2, 3)):
        block = videos[:, 2 * time : 2 * time + 2, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(patches[:, i], block.reshape(2, 24))


def test_learned_positions_and_projections_are_trained():
    config = PictureInput(size=(4, 6), patch_pixels=2, width=10, positions=Positions(learned=True, width=5))
    adapter = build_adapter(config)
    assert adapter.channels == 15
    adapter(torch.randn(2, 3, 4, 6)).tokens.square().sum().backward()
    assert {name for name, p in adapter.named_parameters() if p.grad.abs().min() > 0} == {
        "project.weight", "project.bias", "positions.table",
    }  # fmt: skip


@pytest.mark.parametrize(("size", "grid"), [((8, 9), (1, 2)), ((16, 24), (3, 5)), ((224, 224), (55, 55))])
def test_conv_features_are_a_quarter_of_the_size(size, grid):
    adapter = build_adapter(ConvInput(size=size, width=7, positions=FEW))
    encoded = adapter(torch.randn(1, 3, *size))
    assert len(adapter.positions(torch.device("cpu"))) == math.prod(grid)
    assert encoded.tokens.shape == (1, math.prod(grid), 7 + 14)
    assert encoded.tokens[..., :7].min() >= 0


@pytest.mark.parametrize("config", [WAVE, MEL], ids=["wave", "mel"])
def test_a_sound_is_the_same_whatever_it_is_padded_to(config):
    adapter, sound = build_adapter(config), torch.randn(1, 37)
    alone = adapter(sound)
    padded = torch.cat([sound, 9 * torch.randn(1, 13)], 1)
    keep = torch.arange(50)[None] < 37
    among = adapter(padded, keep)
    n = alone.tokens.shape[1]
    assert among.keep.tolist() == [[i < n for i in range(among.tokens.shape[1])]] and among.tokens.shape[1] > n
    torch.testing.assert_close(among.tokens[:, :n], alone.tokens)


def test_waves_are_cut_in_order():
    encoded = build_adapter(WAVE)(torch.arange(40.0)[None])
    assert torch.equal(encoded.tokens[0, :, :8].flatten(), torch.arange(40.0))


def test_the_spectrogram_is_that_of_a_plain_computation():
    sound = torch.randn(3, 230, dtype=torch.float64)
    mel = LogMel(MEL)
    frames = mel(sound)
    assert frames.shape == (3, 23, 5)
    for i in range(21):
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(20) / 20)
        piece = np.zeros(20)
        seen = sound[1, 10 * i : 10 * i + 20].numpy()
        piece[: len(seen)] = seen
        turns = np.exp(-2j * np.pi * np.outer(np.arange(11), np.arange(20)) / 20)
        power = np.abs(turns @ (piece * window)) ** 2
        expected = (np.log10(np.maximum(power @ mel_filters(5, 20, 1000), 1e-10)) + 4) / 4
        np.testing.assert_allclose(frames[1, i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mels", "window", "rate"), [(80, 400, 16_000), (64, 512, 22_050), (5, 20, 1000)])
@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_mel_filters_are_those_of_transformers(mels, window, rate):
    from transformers.audio_utils import mel_filter_bank

    theirs = mel_filter_bank(
        window // 2 + 1, mels, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney", triangularize_in_mel_space=False
    )
    np.testing.assert_allclose(mel_filters(mels, window, rate), theirs, rtol=1e-4, atol=1e-7)


def test_a_tone_is_loud_in_its_own_band():
    config = MelInput(rate_hertz=16_000, seconds=0.5, mels=40)
    seconds = torch.arange(8000) / 16_000
    frames = LogMel(config)(torch.stack([torch.sin(2 * torch.pi * hertz * seconds) for hertz in (300.0, 3000.0)]))
    low, high = frames[:, :45].mean(1).argmax(-1).tolist()
    filters = mel_filters(40, 400, 16_000)
    centres = (filters * np.linspace(0, 8000, 201)[:, None]).sum(0) / filters.sum(0)
    assert abs(centres[low] - 300) < 120 and abs(centres[high] - 3000) < 250


ALL = Inputs(picture=PICTURE, text=TEXT, sound=WAVE, video=VIDEO, modality_width=4)


def everything():
    torch.manual_seed(0)
    return {
        "picture": Given(torch.randn(2, 3, 4, 6)),
        "text": Given(torch.randint(3, 20, (2, 5)), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])),
        "sound": Given(torch.randn(2, 40), torch.arange(40)[None] < torch.tensor([[40], [17]])),
        "video": Given(torch.randn(2, 4, 3, 4, 6)),
    }


def test_modalities_are_padded_to_a_common_width_by_what_is_learned_for_each():
    joined = Multimodal(ALL)
    encoded = joined(everything())
    assert joined.width == 24 + 21 + 4
    assert encoded.tokens.shape == (2, 24 + 5 + 5 + 12, joined.width)
    start = 0
    for name, count in (("picture", 24), ("text", 5), ("sound", 5), ("video", 12)):
        pad = joined.modalities[name]
        own = joined.width - len(pad)
        here = encoded.tokens[:, start : start + count]
        assert own == joined.adapters[name].channels and (here[..., own:] == pad).all()
        torch.testing.assert_close(here[..., :own], joined.adapters[name](*everything()[name]).tokens)
        start += count
    assert encoded.keep.sum(1).tolist() == [46, 24 + 3 + 3 + 12]


def test_what_is_not_given_is_left_out_and_what_is_hidden_is_masked():
    joined, values = Multimodal(ALL), everything()
    del values["sound"]
    hidden = {"video": torch.ones(2, 12, dtype=torch.bool)}
    encoded = joined(values, hidden)
    assert encoded.tokens.shape[1] == 24 + 5 + 12
    assert encoded.keep[:, 29:].sum() == 0 and encoded.keep[0, :29].all()
    with pytest.raises(ValueError, match="none of picture, text, sound, video is given"):
        joined({})


def test_one_modality_alone_stays_as_it_is():
    joined = Multimodal(Inputs(picture=PICTURE))
    assert joined.width == 17 and not list(joined.parameters())
    assert joined({"picture": Given(torch.randn(2, 3, 4, 6))}).keep is None


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Inputs(), "name at least one of picture, text, sound, video"),
        (lambda: PictureInput(size=(9, 8), patch_pixels=4), "9 x 8 pixels is not a whole number"),
        (lambda: VideoInput(frames=5, patch_frames=2), "5 frames is not a whole number"),
        (lambda: ConvInput(size=(4, 64)), "at least 8 pixels"),
        (lambda: Positions(bands=0), "bands 0"),
        (lambda: build_adapter(PICTURE)(torch.zeros(1, 3, 5, 6)), r"pictures are of size \(5, 6\)"),
        (lambda: build_adapter(VIDEO)(torch.zeros(1, 3, 3, 4, 6)), r"videos are of size \(3, 4, 6\)"),
        (lambda: build_adapter(WAVE)(torch.zeros(1, 51)), "51 samples is longer than the model's 50"),
        (lambda: build_adapter(TEXT)(torch.zeros(1, 10, dtype=torch.long)), "does not fit a context of 9"),
        (lambda: LogMel(MelInput(window_seconds=0.001, hop_seconds=0.01)), "hop of 160 samples does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
