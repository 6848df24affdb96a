"""`report.html` of a single training: how good the model is, where it fails, how it was trained, what it cost."""

from __future__ import annotations

import platform
import shlex
from pathlib import Path
from typing import Any

from chiasm import config as configs
from chiasm.bundle import BundleConfig
from chiasm.errors import UserError
from chiasm.machine import available_cores, processor
from chiasm.progress import waiting
from chiasm.report.album import Album
from chiasm.report.curves import cosines_picture, loss_picture, rate_pictures, reliability_picture
from chiasm.report.grading import Grades, grade, slices
from chiasm.report.page import Table, duration, number, percent, render, short
from chiasm.report.recorded import Recorded, model_name, read_run
from chiasm.report.sections import (
    confusion,
    cost_facts,
    cost_of,
    data_facts,
    drawings,
    followed,
    galleries,
    score_tables,
)
from chiasm.report.verdict import headline, verdict

WEAKEST = 12
"""Slices that are shown before one asks for the rest."""
SHOWN_BROKEN = 20


def write_training(run: Path, out: Path | None = None) -> Path:
    """Write the page of a finished run into its folder, or to `out`; returns where.

    UserError where the folder is no run, has not finished, or holds a damaged file. Where the data is gone the page is
    without its pictures, and says so.
    """
    recorded, path = read_run(run), out or run / "report.html"
    with waiting("writing the page"):
        page = training_page(recorded)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}", "Name another file with --out.") from error
    return path


def training_page(run: Recorded) -> str:
    """The page of a run."""
    from chiasm.train.tasks import task_of

    first, album, task = run.splits[0], Album(run), task_of(run.config)
    grades, (cost, tokens) = grade(first), cost_of(run)
    found = slices(first, grades) if grades else ()
    return render(
        "training.html.j2",
        run=run,
        first=first,
        verdict=verdict(run, grades, found),
        keys=_keys(run, cost.parameters),
        explained=task.explained,
        scores=score_tables(run.splits),
        missing=_missing(album, grades),
        grades=grades,
        galleries=galleries(grades, first.name, album) if grades else [],
        attention=drawings(run.folder, f"attention-{first.name}/*.png", 2),
        retrieval=drawings(run.folder, f"retrieval-{first.name}.png"),
        confusions=drawings(run.folder, f"confusion-{first.name}.png"),
        confusion=confusion(grades) if grades else None,
        slices=found,
        weakest=WEAKEST,
        reliability=_reliability(grades),
        cosines=_cosines(run),
        loss=loss_picture(run.rows, task.objective.unit, _kept_step(run)) if run.rows else None,
        rates=rate_pictures(run.rows),
        followed=followed(run, album),
        costs=cost_facts(run, cost, tokens),
        data=data_facts(run, album),
        quarantine=Table(("left out", "why"), [(row["key"], row["reason"]) for row in run.quarantine[:SHOWN_BROKEN]]),
        settings=configs.to_dict(run.config),
        again=_again(run),
        made=_made(run),
    )


def _keys(run: Recorded, parameters: int) -> list[tuple[str, str, str]]:
    """The numbers on top: value, what it is, small print."""
    first, said = run.splits[0], headline(run.config.model, run.splits[0])
    show = percent if said.is_share else number
    own = first.scores[said.score]
    keys = [(show(own.value), said.means, f"{show(own.low)} to {show(own.high)}, {first.name}")]
    if "baseline" in first.scores:
        keys.append((percent(first.scores["baseline"].value), "without looking", "the baseline"))
    if "shuffled_rise" in first.scores:
        rise = first.scores["shuffled_rise"]
        keys.append(
            (number(rise.value), "nats more loss under wrong pictures", f"{number(rise.low)} to {number(rise.high)}")
        )
    if "shuffled_drop" in first.scores:
        left = first.scores["accuracy"].value - first.scores["shuffled_drop"].value
        keys.append((percent(left), "with wrong pictures", f"with its own: {percent(first.scores['accuracy'].value)}"))
    seconds = run.rows[-1]["seconds"] if run.rows else None
    keys.append((short(parameters), "parameters", ""))
    if seconds is not None:
        keys.append((duration(seconds), "of training", f"{run.config.train.steps or 0:,} steps"))
    return keys


def _missing(album: Album, grades: Grades | None) -> list[str]:
    """What the page has to do without."""
    told = "The file of what the model said of every example is gone, so answers and slices are not shown."
    return [text for text in (album.missing, "" if grades else told) if text]


def _reliability(grades: Grades | None) -> Any:
    """For answers that are right or wrong, each with a probability."""
    if grades is None or not grades.shares or grades.sure not in ("confidence", "probability"):
        return None
    return reliability_picture(grades.answers, grades.sure)


def _cosines(run: Recorded) -> Any:
    world = configs.load(BundleConfig, run.folder / "bundle" / "config.json")
    return None if world.calibration is None else cosines_picture(world.calibration)


def _kept_step(run: Recorded) -> int | None:
    """Whose weights were kept; None where those of the last step were."""
    validated = [(row["val_loss"], row["step"]) for row in run.rows if row.get("val_loss") is not None]
    if run.config.train.keep == "last" or not validated:
        return None
    return int(min(validated)[1] or 0)


def _again(run: Recorded) -> str:
    words = [
        "chiasm",
        "train",
        model_name(run.config.model),
        "--config",
        str(run.folder / "config.json"),
        "--out",
        "NEW",
    ]
    return shlex.join(words)


def _made(run: Recorded) -> list[tuple[str, str]]:
    """With what the model and this page were made."""
    from chiasm.compare.outcome import versions

    here = ", ".join(f"{name} {version}" for name, version in versions().items())
    machine = f"{processor()}, {available_cores()} cores, {platform.system()}"
    return [("trained with", run.versions or "not written down"), ("this page", f"{here}; {machine}")]


__all__ = ["training_page", "write_training"]
