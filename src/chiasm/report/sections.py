"""The parts of a run's page: tables, galleries and facts, as the template wants them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from chiasm.cost import Cost, model_cost, step_bytes
from chiasm.errors import UserError
from chiasm.evaluate import Estimate
from chiasm.report.album import Album, pixels_uri
from chiasm.report.grading import KIND, Graded, Grades
from chiasm.report.page import Table, duration, number, percent, short
from chiasm.report.recorded import Recorded, SplitRecord
from chiasm.report.verdict import NAMES
from chiasm.text import Tokenizer

LESSER = frozenset((
    "bleu_1", "bleu_2", "bleu_3", "token_loss", "image_to_text_r10", "text_to_image_r10", "image_to_text_mrr",
    "text_to_image_mrr", "image_to_text_median_rank", "text_to_image_median_rank", "label_top5",
    "label_mean_per_class", "accuracy_per_class",
))  # fmt: skip
"""Scores that are folded away."""
BEST, WORST, RANDOM = 5, 10, 10
SAMPLED, MOMENTS = 3, 5
"""How many validation examples are followed through the training, and at how many steps."""
MOST_CLASSES, MOST_MIXED = 12, 12
"""Above so many classes the confusion is a list of what is mixed up most often."""
COUNTED = 1000
"""Lines whose texts say how many tokens a text has."""
EMBEDDED_PIXELS = 1100
"""Drawings that lie in the folder are shown at most this wide."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One answer with its picture."""

    answer: Graded
    picture: str | None


@dataclass(frozen=True, kw_only=True)
class Group:
    """Answers that are shown together."""

    title: str
    note: str
    items: tuple[Shown, ...]


@dataclass(frozen=True, kw_only=True)
class Followed:
    """What was said of one validation example as the training went on."""

    text: str
    picture: str | None
    moments: tuple[tuple[int, str, bool], ...]
    """Step, what was said, and whether that was right."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Right answers (rows) and what was said (columns), as counts; or only what is mixed up most."""

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    mixed: tuple[tuple[str, str, int, int], ...]
    """The right answer, what was said instead, how often, of how many."""


def score_tables(splits: Sequence[SplitRecord]) -> tuple[Table, Table | None]:
    """What matters of every split, and the rest; a row per score, a column per split."""
    names = list(dict.fromkeys(name for split in splits for name in split.scores))
    names.sort(key=lambda name: list(NAMES).index(name) if name in NAMES else len(NAMES))
    lesser = [name for name in names if name in LESSER or (name.startswith(KIND) and name not in NAMES)]
    main = [name for name in names if name not in lesser]
    return _scores(splits, main), _scores(splits, lesser) if lesser else None


def galleries(grades: Grades, split: str, album: Album) -> list[Group]:
    """The best answers, the worst, and some at random; a picture is in one of them only, and best and worst differ."""
    seen: set[str] = set()

    def take(answers: Iterable[Graded], most: int, varied: bool = True) -> tuple[Shown, ...]:
        taken: list[Shown] = []
        said: set[tuple[str, ...]] = set()
        for answer in answers:
            same = (answer.asked, answer.said, *(answer.truths if is_class(answer) else ()))
            if len(taken) == most or answer.group in seen or (varied and same in said):
                continue
            seen.add(answer.group)
            said.add(same)
            taken.append(Shown(answer=answer, picture=album.picture(split, answer.key)))
        return tuple(taken)

    def surest(answer: Graded) -> float:
        return -(answer.sure or 0.0)

    best = sorted(grades.answers, key=lambda answer: (-answer.grade, surest(answer)))
    worst = sorted(grades.answers, key=lambda answer: (answer.grade, surest(answer)))
    if grades.shares:
        best, worst = [a for a in best if a.right], [a for a in worst if not a.right]
    order = np.random.default_rng(0).permutation(len(grades.answers))
    told = grades.sure if grades.shares else ""
    groups = [
        Group(title=grades.best, note=f"Right, with the highest {told}." if told else "", items=take(best, BEST)),
        Group(title=grades.worst, note=f"Wrong, with the highest {told}." if told else "", items=take(worst, WORST)),
        Group(
            title="Typical",
            note="Drawn at random.",
            items=take((grades.answers[place] for place in order), RANDOM, varied=False),
        ),
    ]
    return [group for group in groups if group.items]


def is_class(answer: Graded) -> bool:
    """Whether it is one of a classifier's classes."""
    return answer.truths == (answer.label,) and bool(answer.label)


def confusion(grades: Grades) -> Confusion | None:
    """Of a classifier's answers; None where they are no classes, or all are right."""
    if not all(map(is_class, grades.answers)):
        return None
    pairs = Counter((answer.label, answer.said) for answer in grades.answers)
    totals = Counter(answer.label for answer in grades.answers)
    wrong = [(truth, said, count) for (truth, said), count in pairs.most_common() if truth != said]
    if not wrong:
        return None
    names = tuple(sorted(set(totals) | {said for _, said in pairs}))
    if len(names) > MOST_CLASSES:
        names = ()
    return Confusion(
        names=names,
        counts=tuple(tuple(pairs[truth, said] for said in names) for truth in names),
        mixed=tuple((*row, totals[row[0]]) for row in wrong[:MOST_MIXED]),
    )


def followed(run: Recorded, album: Album) -> list[Followed]:
    """A few validation examples through the training; where the same was said for long, its first step only."""
    spoken: dict[str, list[tuple[int, str]]] = defaultdict(list)
    texts: dict[str, str] = {}
    for sample in run.samples:
        spoken[sample["key"]].append((sample["step"], sample["said"]))
        texts[sample["key"]] = sample["text"]
    found = []
    for key, moments in list(spoken.items())[:SAMPLED]:
        news = [at for place, at in enumerate(moments) if not place or at[1] != moments[place - 1][1]]
        chosen = sorted({round(place) for place in np.linspace(0, len(news) - 1, min(MOMENTS, len(news)))})
        text = texts[key]
        right = tuple((*news[at], news[at][1] == text or text.endswith(f" ({news[at][1]})")) for at in chosen)
        found.append(Followed(text=text, picture=album.picture("val", key), moments=right))
    return found


def cost_of(run: Recorded) -> tuple[Cost, int]:
    """Of a training step, counted, and the tokens of a text that it was counted with."""
    model, tokens = run.config.model, 0
    if model.rules is not None:
        texts = [text for split in run.splits[:1] for row in split.told[:COUNTED] for text in _texts(row)]
        lengths = Tokenizer.load(run.folder / "bundle" / "tokenizer.json").lengths(texts) if texts else [12]
        tokens = min(max(2, round(sum(lengths) / len(lengths))), model.rules.context)
    return model_cost(model, batch_size=run.config.train.batch_size, text_tokens=tokens, measure=False), tokens


def cost_facts(run: Recorded, cost: Cost, tokens: int) -> list[tuple[str, str]]:
    """What the training cost, by name."""
    train, last = run.config.train, run.rows[-1] if run.rows else {}
    steps, seconds, batch = int(last.get("step") or 0), last.get("seconds") or 0.0, train.batch_size
    speed = f", {steps * batch / seconds:,.0f} examples per second" if seconds else ""
    rate = f", {short(cost.step_flops * steps / seconds, 'FLOP')} per second" if seconds else ""
    sizes = {"batch_size": batch, "text_tokens": tokens, "accumulate": train.accumulate}
    held = step_bytes(run.config.model, precision=train.precision, optimizer=train.optimizer, **sizes)
    return [
        ("parameters", f"{cost.parameters:,}"),
        ("examples seen", f"{steps * batch:,} ({steps:,} steps of {batch:,}, {last.get('epoch') or 0:.1f} epochs)"),
        ("time", f"{duration(seconds)}{speed}"),
        ("a training step", short(cost.step_flops, "FLOP") + (f", with texts of {tokens} tokens" if tokens else "")),
        ("the training", f"{short(cost.step_flops * steps, 'FLOP')}{rate}"),
        ("one answer", f"{short(cost.forward_flops / batch, 'FLOP')} forward"),
        ("memory", f"about {short(held.peak, 'B')} at the peak of a step, by calculation"),
    ]


def data_facts(run: Recorded, album: Album) -> list[tuple[str, str]]:
    """What the run was trained and tested on, by name."""
    facts = [("data", run.card.get("data", run.config.data.path)), ("splits", run.card.get("splits", ""))]
    texts = album.text_facts(run.splits[0].name)
    if texts is not None:
        words = f"{texts.least_words} to {texts.most_words} words, {texts.mean_words:.1f} on average"
        facts.append(("training texts", f"{texts.texts:,}, {texts.different:,} of them different; {words}"))
        if texts.known_share is not None:
            facts.append(
                ("test texts", f"{percent(texts.known_share)} of those of {run.splits[0].name} are training texts too")
            )
        if texts.labels:
            shown = [f"{label} {count:,}" for label, count in list(texts.labels.items())[:MOST_CLASSES]]
            more = len(texts.labels) - len(shown)
            facts.append(("training labels", ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")))
    facts.append(("left out", f"{len(run.quarantine):,} that cannot be read" if run.quarantine else "nothing"))
    return facts


def drawings(folder: Path, pattern: str, most: int = 1) -> list[tuple[str, str]]:
    """Drawings that lie in the folder: what they are of, and their address."""
    return [(path.stem, uri) for path in sorted(folder.glob(pattern))[:most] if (uri := _drawing(path)) is not None]


def _drawing(path: Path) -> str | None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image = image.convert("RGB")
            if image.width > EMBEDDED_PIXELS:
                image = image.resize((EMBEDDED_PIXELS, round(image.height * EMBEDDED_PIXELS / image.width)))
            return pixels_uri(np.array(image))
    except OSError as error:
        raise UserError(f"{path} is no picture that can be read", "Restore it from a copy, or remove it.") from error


def _scores(splits: Sequence[SplitRecord], names: Sequence[str]) -> Table:
    heads = ["score", *(f"{split.name} ({split.pictures:,})" for split in splits)]
    rows = [
        [NAMES.get(name, name.replace("_", " ")), *(_cell(split.scores.get(name)) for split in splits)]
        for name in names
    ]
    return Table(heads, rows)


def _cell(score: Estimate | None) -> Markup | str:
    if score is None:
        return ""
    told = number(score.value), number(score.low), number(score.high)
    return Markup('<span class="est"><b>{}</b> <span>{} to {}</span></span>').format(*told)


def _texts(row: dict) -> list[str]:
    """The texts of a line that the model has read or was to write."""
    own = row.get("texts") or row.get("text") or ()
    return [own] if isinstance(own, str) else list(own)


__all__ = [
    "Confusion",
    "Followed",
    "Group",
    "Shown",
    "confusion",
    "cost_facts",
    "cost_of",
    "data_facts",
    "drawings",
    "followed",
    "galleries",
    "is_class",
    "score_tables",
]
