"""Training Perceivers without labels: to fill the gaps of texts, and to give back what is hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from chiasm.bundle import Bundle
from chiasm.evaluate import TOLD, SplitScores, write_results
from chiasm.evaluate.perceiver import evaluate_masked, evaluate_reconstruction
from chiasm.models import PerceiverAutoencoder
from chiasm.objectives import MaskedText, Reconstruction
from chiasm.objectives.masked import keyed_generator
from chiasm.predict import MaskedPredictor, ReconstructionPredictor
from chiasm.predict.perceiver import GAP
from chiasm.train.task import SAMPLES, Task

if TYPE_CHECKING:
    from chiasm.train.run import Run


class MaskedTask(Task):
    """Which tokens stand in the gaps of texts."""

    title = "Masked language model"
    explained = (
        "gap_accuracy: share of masked tokens that are guessed right; gap_loss: their loss in nats; baseline: share "
        "of the commonest token among them."
    )
    objective = MaskedText()

    def samples(self, run: Run) -> list[dict[str, str]]:
        """Texts without one of their words, and the likeliest word."""
        predictor = MaskedPredictor(run.bundle(run.model))
        found = []
        for example in run.source.split("val")[:SAMPLES]:
            words = example.texts[0].split()
            place = len(words) // 2
            gapped = " ".join([*words[:place], GAP, *words[place + 1 :]])
            said = predictor.fill(gapped, 1)[0][0].token
            found.append({"key": example.key, "text": f"{gapped} ({words[place]})", "said": said})
        return found

    def evaluate(self, run: Run, bundle: Bundle, splits: list[str]) -> tuple[Bundle, list[SplitScores]]:
        """Gaps of every text."""
        results = evaluate_masked(MaskedPredictor(bundle), run.source, splits, max_broken_share=1.0)
        write_results(results, run.folder, TOLD[MaskedPredictor])
        return bundle, results


class ReconstructionTask(Task):
    """What was hidden of pictures, sounds and texts."""

    title = "Autoencoder"
    explained = (
        "picture_explained and the like: with half of the places hidden, the share of the variance of hidden values "
        "that is given back (1 is all, 0 is no better than the mean), of texts the share of hidden tokens that are "
        "right. picture_from_others: the same with that modality hidden altogether."
    )
    objective = Reconstruction()

    def samples(self, run: Run) -> list[dict[str, str]]:
        """The error of each modality of what is hidden of a few examples."""
        assert run.val_loader is not None
        model, objective, found = cast(PerceiverAutoencoder, run.model), Reconstruction(), []
        for row in next(run.val_loader.in_order(SAMPLES)).split(1):
            hidden = objective.hidden(model, row, keyed_generator(row))
            with torch.no_grad():
                errors = objective(model, row, hidden)
            said = ", ".join(f"{n} {float(e) / max(1, int(hidden[n].sum())):.4f}" for n, e in errors.items())
            found.append({"key": row.keys[0], "text": "errors of what is hidden", "said": said})
        return found

    def evaluate(self, run: Run, bundle: Bundle, splits: list[str]) -> tuple[Bundle, list[SplitScores]]:
        """How well each modality is given back."""
        results = evaluate_reconstruction(ReconstructionPredictor(bundle), run.source, splits, max_broken_share=1.0)
        write_results(results, run.folder, TOLD[ReconstructionPredictor])
        return bundle, results


__all__ = ["MaskedTask", "ReconstructionTask"]
