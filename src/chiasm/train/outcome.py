"""What a finished run leaves in its folder: the bundle, scores, a card, and pictures to look at."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

import chiasm
from chiasm import config as configs
from chiasm.bundle import Bundle
from chiasm.evaluate import SplitScores, scores_table
from chiasm.figures import curves_figure
from chiasm.machine import available_cores, trained_on
from chiasm.train.callbacks import read_metrics
from chiasm.train.coach import findings_after
from chiasm.train.findings import Finding, write_findings

if TYPE_CHECKING:
    from chiasm.train.run import Run


def describe_outcome(run: Run, bundle: Bundle, best_step: int) -> list[SplitScores]:
    """Score the model on every test split (on validation where there is none), and write all that describes it."""
    folder = run.folder
    rows = read_metrics(folder / "metrics.csv")
    ended = run.task.objective.ending(bundle.model, rows[-max(1, len(rows) // 10) :]) if rows else []
    curves_figure(rows, folder / "curves.png", run.task.objective.unit)
    readable = [name for name, pictures in run.pictures.items() if len(pictures.good)]
    tests = [name for name in readable if name in run.source.test_splits]
    bundle, results = run.task.evaluate(run, bundle, tests or [name for name in readable if name == "val"])
    findings = findings_after(run.facts, rows, results)
    write_findings(findings, folder)
    minutes = rows[-1]["seconds"] / 60 if rows else 0.0
    card = _card(run, results, best_step, minutes=minutes, ended=ended, findings=findings)
    (folder / "card.md").write_text(card, encoding="utf-8")
    replace(bundle, card=card).save(folder / "bundle")
    return results


def _card(
    run: Run,
    results: list[SplitScores],
    best_step: int,
    *,
    minutes: float,
    ended: list[str],
    findings: list[Finding],
) -> str:
    train = run.config.train
    sizes = {name: len(indices) for name, indices in run.source.splits.items()}
    parameters = sum(p.numel() for p in run.model.parameters())
    kept = f"the best by validation loss, of step {best_step}" if train.keep == "best" else "the last"
    threads = "one thread" if train.threads == 1 else f"{train.threads} threads"
    lines = [
        f"# {run.task.title} trained on {run.source.name}",
        "",
        f"- data: {run.source.understood} (fingerprint {run.source.fingerprint})",
        f"- splits: {', '.join(f'{n} {count:,}' for n, count in sizes.items())}; {len(run.broken)} broken left out",
        f"- model: {parameters:,} parameters; settings in config.json, fingerprint {configs.fingerprint(run.config)}",
        f"- training: {train.steps:,} steps of {train.batch_size}, {train.precision} on {threads}, "
        f"{minutes:.1f} minutes; weights kept: {kept}",
        *(f"- {finding}" for finding in ended),
        f"- chiasm {chiasm.__version__}, torch {torch.__version__}, {trained_on()}, {available_cores()} cores",
        "",
        "Scores with 95 % bootstrap intervals:",
        "",
        scores_table(results),
        "",
        run.task.explained,
        *(["", "What the coach found:", "", *(f"- {finding.text}" for finding in findings)] if findings else []),
    ]
    return "\n".join(lines) + "\n"


__all__ = ["describe_outcome"]
