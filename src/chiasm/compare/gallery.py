"""A gallery of test items on which the arms of a comparison disagree: what each said, and where it came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from chiasm.compare.results import Answer, Shown
from chiasm.data.cache import Pictures, prepare_pictures
from chiasm.data.picture import picture_of, read_picture
from chiasm.data.source import Source
from chiasm.data.transforms import NO_PICTURES, PreprocessConfig, preprocess
from chiasm.evaluate.common import Items
from chiasm.evaluate.things import things
from chiasm.figures import occlusion_figure
from chiasm.generate import GenerateConfig
from chiasm.predict import AnyPredictor, CaptionPredictor, ClassifierPredictor, ClipPredictor
from chiasm.predict.loading import loader_of
from chiasm.predict.occlusion import (
    LogProbability,
    answer_log_probability,
    caption_log_probability,
    occlusion_map,
    text_log_probability,
)
from chiasm.progress import track
from chiasm.types import Example

FOLDER = "gallery"
SIDE_PIXELS = 192
"""About how long the longer side of a picture is in the gallery."""
FAINT_NATS = 0.1
"""Where no covered place costs any arm so much, the strongest colour stands for this."""
CLEAR_SHARE = 0.25
"""Of the items on which arms disagree, those with the largest spread of scores; they are shown before others."""
NOISE = 1e-6
"""Scores that differ by no more are the same."""

Pixel = UInt8[np.ndarray, "height width 3"]


def gallery(
    folder: Path,
    predictors: Mapping[str, AnyPredictor],
    items: Mapping[str, Items],
    source: Source,
    split: str,
    metric: str,
    *,
    higher_is_better: bool = True,
    most: int = 12,
) -> tuple[Shown, ...]:
    """Test items on which arms disagree, with every arm's answer and an occlusion map of where it comes from.

    `items` holds each arm's scores on the split, of the same training as its predictor. Pictures and maps become PNGs
    in `folder`/gallery (what was there goes); the maps of one item have one scale. Captions are written greedily, a
    dual encoder's answer is the text of the split that is nearest to the picture. ValueError for arms without scores by
    the metric, and for models of other kinds than captioners, classifiers and dual encoders.
    """
    for old in (folder / FOLDER).glob("*.png"):
        old.unlink()
    if set(predictors) != set(items):
        raise ValueError(f"there are predictors of {', '.join(predictors)}, and scores of {', '.join(items)}")
    examples = source.split(split)
    rows = {e.key: (row, e.label or "".join(e.texts[:1])) for row, e in enumerate(examples) if e.image is not None}
    labels = {key: label for key, (_, label) in rows.items()}
    chosen = disagreements(items, labels, metric, higher_is_better=higher_is_better, most=most)
    places = [rows[disputed.key][0] for disputed in chosen]
    if not places:
        return ()
    said = {arm: _said(predictor, places, examples, source.name) for arm, predictor in predictors.items()}
    truths = _truths(next(iter(predictors.values())), places, examples)
    reads = any(isinstance(p, ClassifierPredictor) and p.reads_texts for p in predictors.values())
    shown = []
    for number, place in enumerate(track(places, "Drawing where arms disagree", len(places))):
        example, own = examples[place], {arm: answers[number] for arm, answers in said.items()}
        picture, maps = _draw(folder, f"{FOLDER}/{number + 1:02}", example, own)
        answers = _judged(own, truths[number], maps)
        right = [answer.said.strip() for answer in answers.values() if answer.right]
        shown.append(
            Shown(
                key=example.key,
                split=split,
                picture=picture,
                asked=example.texts[0] if reads and example.texts else "",
                truth=" / ".join(dict.fromkeys([truths[number][0], *right])),
                answers=answers,
            )
        )
    return tuple(shown)


@dataclass(frozen=True)
class Disputed:
    """An item on which arms disagree; its winners are the arms nearer to its best score than to its worst."""

    key: str
    group: str
    kind: str
    label: str
    winners: tuple[str, ...]
    spread: float
    """Of its scores, from the worst to the best."""


def disagreements(
    items: Mapping[str, Items], labels: Mapping[str, str], metric: str, *, higher_is_better: bool = True, most: int = 12
) -> list[Disputed]:
    """The items on which arms disagree most tellingly, of those of which `labels` knows the right answer.

    One after the other: first an item that an arm wins of which no win has been shown; then one of clear disagreement
    (CLEAR_SHARE); of these the one whose set of winners, then whose least shown winner, kind of question and label have
    been shown least; then that of the largest spread. Of a group one item is shown. ValueError for arms without scores
    by the metric.
    """
    left = _disputed(items, labels, metric, 1 if higher_is_better else -1)
    clear = float(np.quantile([d.spread for d in left], 1 - CLEAR_SHARE)) if left else 0.0
    told: Counter[object] = Counter()

    def familiar(d: Disputed) -> tuple[int, ...]:
        wins = min(told[arm] for arm in d.winners)
        return wins > 0, d.spread < clear - NOISE, told[d.winners], wins, told["kind", d.kind], told["label", d.label]

    chosen: list[Disputed] = []
    while left and len(chosen) < most:
        best = min(left, key=lambda d: (familiar(d), -d.spread))
        told.update([*best.winners, best.winners, ("kind", best.kind), ("label", best.label)])
        chosen.append(best)
        left = [d for d in left if d.group != best.group]
    return chosen


def _disputed(items: Mapping[str, Items], labels: Mapping[str, str], metric: str, sign: int) -> list[Disputed]:
    """All items on which arms disagree, in an order without rhythm."""
    scores: dict[str, dict[str, float]] = {}
    for arm, own in items.items():
        if metric not in own.values:
            raise ValueError(f"the items of {arm} have no score {metric!r}, but {', '.join(own.values)}")
        scores[arm] = dict(zip(own.keys, (sign * own.values[metric]).tolist(), strict=True))
    first = next(iter(items.values()))
    found = []
    for row in np.random.default_rng(0).permutation(len(first.keys)).tolist():
        key, kind = first.keys[row], first.kinds[row]
        if key not in labels or not all(key in own for own in scores.values()):
            continue
        of_arm = {arm: own[key] for arm, own in scores.items()}
        low, high = min(of_arm.values()), max(of_arm.values())
        winners = tuple(arm for arm, score in of_arm.items() if score > (low + high) / 2)
        if high - low > NOISE:
            found.append(Disputed(key, first.groups[row], kind, labels[key], winners, high - low))
    return found


@dataclass(frozen=True)
class _Said:
    """What an arm said of an item, how sure it is, the picture as it saw it (empty: not at all), and by what rules."""

    text: str
    probability: float | None
    pixel: Pixel
    log_probability: LogProbability
    """Of what it said, for other pictures."""
    preprocess: PreprocessConfig


def _said(predictor: AnyPredictor, places: Sequence[int], examples: Sequence[Example], name: str) -> list[_Said]:
    """What an arm says of the examples in these places of a split."""
    asked, rules = [examples[place] for place in places], predictor.preprocess
    pictures = prepare_pictures(asked, rules, name=f"{name} gallery")
    pixels = pictures.pixels_of(np.arange(len(asked)))
    match predictor:
        case CaptionPredictor():
            captions = predictor.caption_pixels(pixels, GenerateConfig())
            return [
                _Said(c.text, c.confidence, pixel, caption_log_probability(predictor, c), rules)
                for c, pixel in zip(captions, pixels, strict=True)
            ]
        case ClassifierPredictor():
            return _answered(predictor, asked, pictures, name)
        case ClipPredictor():
            texts = list(dict.fromkeys(text for example in examples for text in example.texts))
            vectors = predictor.embed_texts(texts, truncate=True)
            cosines = predictor.embed_pixels(pixels) @ vectors.T
            nearest, known = cosines.argmax(1).tolist(), predictor.calibration
            sure = [None] * len(asked) if known is None else known.probability(cosines.max(1)).tolist()
            return [
                _Said(texts[place], share, pixel, text_log_probability(predictor, vectors, place), rules)
                for place, share, pixel in zip(nearest, sure, pixels, strict=True)
            ]
        case _:
            raise ValueError(f"a {type(predictor.model).__name__} is no arm of a comparison")


def _answered(predictor: ClassifierPredictor, asked: Sequence[Example], pictures: Pictures, name: str) -> list[_Said]:
    loader = loader_of(predictor.bundle, asked, pictures, name)
    said = []
    for row in range(len(asked)):
        example, pixel = loader.of(np.array([row])), pictures.pixels_of(np.array([row]))[0]
        shares = predictor.probabilities_of(example)[0]
        answer = predictor.classes[int(shares.argmax())]
        ask = answer_log_probability(predictor, example, answer)
        said.append(_Said(answer, float(shares.max()), pixel, ask, predictor.preprocess))
    return said


def _truths(predictor: AnyPredictor, places: Sequence[int], examples: Sequence[Example]) -> list[tuple[str, ...]]:
    """For each of the places all that is right there, the preferred first."""
    if isinstance(predictor, ClassifierPredictor):
        return [(examples[place].label.strip(),) for place in places]
    own = [tuple(text.strip() for text in examples[place].texts) for place in places]
    if isinstance(predictor, CaptionPredictor):
        return own
    same = things(examples)
    others = [[text.strip() for row in np.flatnonzero(same == same[place]) for text in examples[int(row)].texts]
              for place in places]  # fmt: skip
    return [(*texts, *more) for texts, more in zip(own, others, strict=True)]


def _judged(said: Mapping[str, _Said], truths: Sequence[str], maps: Mapping[str, str]) -> dict[str, Answer]:
    return {
        arm: Answer(said=s.text, right=s.text.strip() in truths, probability=s.probability, attention=maps.get(arm))
        for arm, s in said.items()
    }


def _draw(folder: Path, name: str, example: Example, said: Mapping[str, _Said]) -> tuple[str | None, dict[str, str]]:
    """Draw an item's picture and each arm's map; their paths below the folder, none of what sees no pictures."""
    seeing = {arm: s for arm, s in said.items() if s.preprocess.size != NO_PICTURES}
    if not seeing:
        return None, {}
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    pixels = {arm: _enlarged(example, s.preprocess) for arm, s in seeing.items()}
    Image.fromarray(next(iter(pixels.values()))).save(folder / f"{name}.png")
    maps = {arm: occlusion_map(s.pixel, s.log_probability) for arm, s in seeing.items()}
    strongest = max(FAINT_NATS, *(fall.max() for fall in maps.values()))
    for arm, fall in maps.items():
        occlusion_figure(pixels[arm], fall, folder / f"{name}-{arm}.png", strongest=strongest)
    return f"{name}.png", {arm: f"{name}-{arm}.png" for arm in maps}


def _enlarged(example: Example, rules: PreprocessConfig) -> Pixel:
    """A picture as a model sees it, larger: sharper where the file has more to show, and else pixel by pixel."""
    pixels, scale = read_picture(picture_of(example)), SIDE_PIXELS / max(rules.size)
    if max(pixels.shape[:2]) >= SIDE_PIXELS:
        height, width = (max(1, round(side * scale)) for side in rules.size)
        return preprocess(pixels, replace(rules, size=(height, width)))
    times = max(1, round(scale))
    return preprocess(pixels, rules).repeat(times, 0).repeat(times, 1)


__all__ = ["Disputed", "disagreements", "gallery"]
