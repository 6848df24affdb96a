"""The page of a comparison: `report.html`, and the same in short as `report.md` and `results.csv`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from chiasm.compare import results
from chiasm.compare.results import Comparison, Interval, Shown
from chiasm.progress import waiting
from chiasm.report import plots, tables
from chiasm.report.page import Table, data_uri, duration, number, probability, render, short, signed
from chiasm.report.svg import MARKERS

PAGE, SHORT, FIGURES = "report.html", "report.md", "results.csv"
QUESTIONS = {
    "caption": "Which architecture captions these pictures best?",
    "match": "Which architecture tells best whether words fit a picture?",
    "answer": "Which architecture answers questions about these pictures best?",
    "retrieve": "Which architecture finds pictures and texts best?",
    "classify": "Which architecture classifies these pictures best?",
}
PICTURE_PIXELS = 256
GALLERY_BYTES = 3_000_000
"""Of pictures; a page is read on phones, too."""
FOREST_PIXELS = 150


@dataclass(frozen=True, kw_only=True)
class Item:
    """An item of the gallery with its pictures inside the page."""

    shown: Shown
    picture: str | None
    attention: dict[str, str]
    """By arm."""


def write_comparison(folder: Path) -> Path:
    """Write the three files beside `results.json`; the page's path. UserError where results are missing or damaged."""
    found = results.load(folder)
    tables.write_csv(found, folder / FIGURES)
    (folder / SHORT).write_text(_short_page(found), encoding="utf-8")
    page = folder / PAGE
    with waiting("drawing the page"):
        page.write_text(_page(found, folder), encoding="utf-8")
    return page


def _page(found: Comparison, folder: Path) -> str:
    gallery = _gallery(found, folder)
    splits = tables.splits(found)
    return render(
        "comparison.html.j2",
        found=found,
        question=QUESTIONS.get(found.task, "Which architecture is best?"),
        keys=_keys(found),
        failures=tables.failures(found),
        names={arm.name: Markup(_swatch(found, arm.name)) for arm in found.arms},
        pareto=plots.pareto(found),
        scores={split: _with_forest(found, split) for split in splits},
        costs=_with_about(found, tables.costs_table(found)),
        floors=plots.floors(found),
        floors_table=tables.floors_table(found),
        curves=plots.curves(found),
        slices={split: (plots.slices(found, split), tables.slices_table(found, split)) for split in splits},
        seeds=plots.seeds(found),
        scaling=[(measured, plots.scaling(found, measured)) for measured in found.scaling],
        rates=plots.rates(found),
        gallery=gallery,
        left_out=len(found.gallery) - len(gallery),
        facts=_facts(found),
        data=_data(found),
    )


def _short_page(found: Comparison) -> str:
    return render(
        "comparison.md.j2",
        found=found,
        question=QUESTIONS.get(found.task, "Which architecture is best?"),
        failures=tables.failures(found),
        scores={split: tables.scores_table(found, split) for split in tables.splits(found)},
        costs=tables.costs_table(found),
        floors=tables.floors_table(found),
        facts=_facts(found),
        data=_data(found),
        plain=tables.plain,
        markdown=tables.markdown,
    )


def _keys(found: Comparison) -> list[tuple[str, str, str]]:
    """The numbers that a reader would want to take away."""
    ranked = plots.ranked(found, found.split)
    if not ranked:
        return []
    best = ranked[0]
    value, interval = tables.estimate(best.scores[found.split])
    keys = [(value, f"{found.metric.words} of {best.name}", interval)]
    if len(ranked) > 1 and (gap := tables.difference(found, ranked[1].name, found.split)):
        ahead = _reversed(gap.difference)
        keys.append(
            (
                signed(ahead.value),
                f"against {ranked[1].name}, the second",
                f"{signed(ahead.low)} to {signed(ahead.high)}",
            )
        )
    if found.split in best.probability_best:
        keys.append((probability(best.probability_best[found.split]), "probability of being best", best.name))
    keys.append((duration(best.costs.seconds), f"training of {best.name}", f"{short(best.costs.flops, 'FLOP')}"))
    return keys


def _reversed(gap: Interval) -> Interval:
    return Interval(value=-gap.value, low=-gap.high, high=-gap.low)


def _named(found: Comparison, table: Table) -> Table:
    """The table with each arm's mark before its name."""
    return replace(table, rows=[[_swatch(found, row[0]), *row[1:]] for row in table.rows])


def _with_about(found: Comparison, table: Table) -> Table:
    """The same, and below each name what the arm is."""
    about = {arm.name: arm.about for arm in found.arms}
    return replace(table, rows=[[(_swatch(found, row[0]), about[row[0]]), *row[1:]] for row in table.rows])


def _with_forest(found: Comparison, split: str) -> Table:
    """The table of scores with the intervals drawn beside them, all on one scale."""
    table, order = tables.scores_table(found, split), tables.in_order(found, split)
    scores = [arm.scores[split] for arm in order if split in arm.scores]
    if not scores:
        return _named(found, table)
    low, high = min(score.low for score in scores), max(score.high for score in scores)

    def place(value: float) -> float:
        return 6 + (FOREST_PIXELS - 12) * (value - low) / ((high - low) or 1.0)

    drawn = [
        _forest(found, arm.name, place, arm.scores[split], scores[0].value) if split in arm.scores else ""
        for arm in order
    ]
    named = _named(found, table)
    rows = [[*row[:2], picture, *row[2:]] for row, picture in zip(named.rows, drawn, strict=True)]
    return Table([*table.heads[:2], "95 % interval", *table.heads[2:]], rows)


def _forest(found: Comparison, arm: str, place: Callable[[float], float], score: Interval, best: float) -> Markup:
    return Markup(
        render(
            "forest.svg.j2",
            width=FOREST_PIXELS,
            low=place(score.low),
            high=place(score.high),
            at=place(score.value),
            best=place(best),
            colour=_colour(found, arm),
            marker=_marker(found, arm),
            alt=f"{number(score.low)} to {number(score.high)}",
        )
    )


def _swatch(found: Comparison, arm: str) -> Markup:
    """An arm's mark and its name."""
    return Markup(render("swatch.svg.j2", name=arm, colour=_colour(found, arm), marker=_marker(found, arm)))


def _place(found: Comparison, arm: str) -> int:
    return [one.name for one in found.arms].index(arm)


def _colour(found: Comparison, arm: str) -> str:
    return f"var(--arm-{_place(found, arm) % len(MARKERS) + 1})"


def _marker(found: Comparison, arm: str) -> str:
    return MARKERS[_place(found, arm) % len(MARKERS)]


def _gallery(found: Comparison, folder: Path) -> list[Item]:
    """Items as long as their pictures fit a page."""
    items, bytes_used = [], 0
    for shown in found.gallery:
        named = {arm: answer.attention for arm, answer in shown.answers.items() if answer.attention}
        looked = {arm: data_uri(folder / name, PICTURE_PIXELS) for arm, name in named.items()}
        item = Item(
            shown=shown,
            picture=data_uri(folder / shown.picture, PICTURE_PIXELS) if shown.picture else None,
            attention={arm: uri for arm, uri in looked.items() if uri},
        )
        bytes_used += len(item.picture or "") + sum(len(uri) for uri in item.attention.values())
        if bytes_used > GALLERY_BYTES:
            break
        items.append(item)
    return items


def _facts(found: Comparison) -> list[tuple[str, str]]:
    """What a person would need to do it again."""
    parts = {
        "floors": found.floors,
        "scaling with data": found.scaling,
        "learning rates": any(a.tried for a in found.arms),
    }
    left_out = [part for part, there in parts.items() if not there]
    return [
        *found.versions.items(),
        ("machine", found.machine),
        ("time", f"{duration(60 * found.minutes)} of training in all"),
        *([("not tried", ", ".join(left_out))] if left_out else []),
    ]


def _data(found: Comparison) -> list[tuple[str, str]]:
    card = found.data
    return [
        ("name", card.name),
        ("read as", card.understood),
        *((split, f"{count:,}") for split, count in card.splits.items()),
        *([("broken files", f"{card.broken:,}")] if card.broken else []),
        ("fingerprint", card.fingerprint),
    ]


__all__ = ["write_comparison"]
