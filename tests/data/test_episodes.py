"""Episodes: what they promise about words, colours and pictures, so that only the shots can tell the word."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from chiasm.data.episodes import SHOTS, EpisodesConfig, episodes_source
from chiasm.data.shapes import COLOURS, ShapesConfig, draw_shapes

CONFIG = EpisodesConfig(episodes=400, pictures=1000)


@pytest.fixture(scope="module")
def source():
    return episodes_source(CONFIG)


@pytest.fixture(scope="module")
def colour_of():
    drawn = draw_shapes(ShapesConfig(samples=CONFIG.pictures))
    return {pixels.tobytes(): things[0].colour for pixels, things in zip(drawn.pixels, drawn.things, strict=True)}


def sequences(source, split):
    groups = defaultdict(list)
    for example in source.split(split):
        groups[example.group].append(example)
    return list(groups.values())


def test_each_word_means_one_colour_within_a_sequence_and_any_across(source, colour_of):
    across = defaultdict(set)
    for split in source.splits:
        for sequence in sequences(source, split):
            meant = {e.texts[0]: colour_of[e.image.tobytes()] for e in sequence}
            assert all(meant[e.texts[0]] == colour_of[e.image.tobytes()] for e in sequence)
            if not sequence[0].given:
                assert all(word == f"{colour} one" for word, colour in meant.items())
                continue
            assert len(set(meant.values())) == len(meant)
            for word, colour in meant.items():
                across[word].add(colour)
    assert np.mean([len(colours) for colours in across.values()]) > 2


def test_a_test_asks_one_of_the_shots_words_about_another_picture(source):
    asked = Counter()
    for sequence in sequences(source, "test"):
        *shots, query = sequence
        assert len(shots) == SHOTS and all(e.given for e in shots) and not query.given
        words = [e.texts[0] for e in shots]
        assert len(set(words)) == SHOTS and query.texts[0] in words
        asked[words.index(query.texts[0])] += 1
    assert min(asked.values()) > 2  # no place among the shots is the answer always


def test_words_and_pictures_of_tests_are_new_and_their_syllables_known(source):
    train, test = source.split("train"), source.split("test")
    words = [{e.texts[0] for e in part if "one" not in e.texts[0]} for part in (train, test)]
    assert words[0] and words[1] and not words[0] & words[1]
    syllables = [{s for word in part for s in word.split()} for part in words]
    assert syllables[1] <= syllables[0]
    assert not {e.image.tobytes() for e in train} & {e.image.tobytes() for e in test}


def test_training_has_named_colours_and_fewer_shots_too(source):
    train = sequences(source, "train")
    named = [s for s in train if s[0].texts[0].split()[0] in COLOURS]
    assert 0.15 < len(named) / len(train) < 0.35
    assert {sum(e.given for e in s) for s in train} == {0, 2, 3, 4}
    none = episodes_source(EpisodesConfig(episodes=40, pictures=1000, named_share=0.0))
    assert all(s[0].given for s in sequences(none, "train"))


def test_it_is_determined_by_its_settings(source):
    again = episodes_source(CONFIG)
    assert [e.texts for e in again.examples] == [e.texts for e in source.examples]
    assert again.fingerprint == source.fingerprint
    other = episodes_source(EpisodesConfig(episodes=400, pictures=1000, seed=1))
    assert other.fingerprint != source.fingerprint
    assert [e.texts for e in other.examples] != [e.texts for e in source.examples]


def test_settings_are_checked():
    with pytest.raises(ValueError, match="too few"):
        EpisodesConfig(episodes=5)
    with pytest.raises(ValueError, match="named_share is 2"):
        EpisodesConfig(named_share=2.0)
