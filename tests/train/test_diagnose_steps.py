"""What the coach reads from a log, on logs made by hand: both sides of every threshold."""

import pytest

from chiasm.objectives import Captioning, Classification, Contrastive
from chiasm.train import diagnose_steps as steps


def log(count=30, every=10, **columns):
    """Rows of metrics.csv, each column a value or a function of the row's number."""
    usual = {"loss": 1.0, "val_loss": None, "gradient_norm": 1.0, "largest_norm": 2.0, "clipped_share": 0.25}
    usual |= {"waiting_share": 0.0, "seconds": lambda i: 5.0 * i}  # half a second a step
    return [
        {"step": every * (i + 1.0)} | {n: v(i) if callable(v) else v for n, v in (usual | columns).items()}
        for i in range(count)
    ]


def validated(*losses):
    """Rows of which each second one, and the last, has a validation loss."""
    return log(2 * len(losses), val_loss=lambda i: losses[i // 2] if i % 2 else None)


@pytest.mark.parametrize("objective", [Contrastive(), Classification()])
def test_not_learning_looks_at_the_last_fifty_steps_by_the_objectives_measure(objective):
    def run(before, last, count=30):
        loss = lambda i: last if i >= count - 5 else before  # noqa: E731
        return log(count, loss=loss, class_loss=loss, chance=4.0, floor=0.0)

    found = steps.not_learning(objective, run(1.0, 3.93))
    assert found.text == objective.advice(run(1.0, 3.93)[-5:])
    assert found.evidence["chance"] == 4.0 and found.evidence["loss"] == pytest.approx(3.93)
    assert steps.not_learning(objective, run(5.0, 3.91)) is None  # 97.75 % of chance
    assert steps.not_learning(objective, run(3.93, 3.93, count=4)) is None  # 40 steps are too few to say
    assert steps.not_learning(objective, run(3.93, 3.93, count=5)) is not None
    assert steps.not_learning(objective, []) is None
    assert steps.not_learning(Captioning(), run(9.0, 9.0)) is None


def test_unigram_level():
    found = steps.unigram_level(log(token_loss=lambda i: 1.97 if i >= 25 else 0.1), 2.0)
    assert found.evidence == {"token_loss": pytest.approx(1.97), "unigram_loss": 2.0}
    assert "1.970" in found.text and "2.000" in found.text
    assert steps.unigram_level(log(token_loss=1.95), 2.0) is None
    assert steps.unigram_level(log(token_loss=1.97), None) is None
    assert steps.unigram_level(log(4, token_loss=1.97), 2.0) is None
    assert steps.unigram_level(log(token_loss=0.0), 0.0) is None  # texts of one token: nothing to be learnt


def test_scale_at_clamp():
    found = steps.scale_at_clamp(log(scale=lambda i: min(100.0, 50.0 + 5 * i)), 100.0)
    assert found.evidence == {"scale": 100.0, "limit": 100.0, "since": 110}
    assert steps.scale_at_clamp(log(scale=98.9), 100.0) is None
    assert steps.scale_at_clamp(log(scale=lambda i: 100.0 if i < 20 else 90.0), 100.0) is None  # it left it
    assert steps.scale_at_clamp(log(scale=100.0), 100.0) is None  # that of the model it started from
    assert steps.scale_at_clamp(log(scale=lambda i: 100.0 + i), None) is None
    assert steps.scale_at_clamp([], 100.0) is None


def test_long_warmup():
    assert steps.long_warmup(0.3, 1000, 1000) is None
    found = steps.long_warmup(0.31, 1000, 1000)
    assert "310 of 1,000 steps, 31 % of the run" in found.text and "patience" not in found.text
    found = steps.long_warmup(0.05, 1000, 160)
    assert "50 of 160 steps, 31 %" in found.text and "train.patience" in found.text
    assert found.evidence == {"warmup_steps": 50.0, "planned_steps": 1000, "taken_steps": 160}
    assert steps.long_warmup(0.05, 1000, 170) is None
    found = steps.long_warmup(0.5, 1000, 400)
    assert "ended at step 400, while the learning rate was still rising, to its peak at step 500" in found.text


def test_data_bound_says_how_many_workers_would_do():
    def bound(share, workers=0, cores=64, stored=True, **columns):
        return steps.data_bound(log(waiting_share=share, **columns), workers, cores, stored)

    assert bound(0.29) is None
    assert bound(0.3).evidence == {"waiting_share": 0.3, "step_seconds": 0.5, "workers": 0, "needed": 2, "cores": 64}
    assert "train.workers=2; it is 0" in bound(0.5).text
    # By hand: 3 workers make a batch a second, so each takes 3 seconds; steps compute for 0.25; 12 workers do that.
    assert bound(0.75, workers=3).evidence["needed"] == 12
    assert bound(0.9).evidence["needed"] == 10
    assert bound(1.0).evidence["needed"] == 100
    assert "workers=4" in bound(0.75, cores=4).text
    assert "workers" not in bound(0.75, cores=3).text and "3 cores" in bound(0.75, cores=3).text
    assert "read anew" in bound(0.5, stored=False).text and "read anew" not in bound(0.5).text
    assert bound(lambda i: 1.0 if i == 0 else 0.1) is None  # the first row has the loader's start
    assert bound(lambda i: 1.0 if i % 3 else 0.0) is not None  # the middle one counts, not the mean of all
    assert bound(0.5, seconds=lambda i: 0.19 * i) is None  # of steps of 19 ms, 9.5 ms
    assert bound(0.5, seconds=lambda i: 0.21 * i) is not None
    assert steps.data_bound(log(1, waiting_share=1.0), 0, 64, True) is None
    assert steps.data_bound([{"step": 10.0, "loss": 1.0}], 0, 64, True) is None  # a log of before there was the column


def test_validation_rising():
    found = steps.validation_rising(validated(3.0, 2.0, 1.0, 1.3, 1.25, 1.4), "best")
    assert found.evidence == {"best": 1.0, "best_step": 60, "rise": 0.25, "last": 1.4}
    assert "step 60" in found.text and "are the ones kept" in found.text and "train.steps=60" in found.text
    assert "train.keep=best" in steps.validation_rising(validated(3.0, 2.0, 1.0, 1.3, 1.3, 1.4), "last").text
    assert steps.validation_rising(validated(3.0, 2.0, 1.0, 1.3, 1.19, 1.4), "best") is None  # less than a tenth of 2.0
    assert steps.validation_rising(validated(3.0, 2.0, 1.0, 1.3, 1.4), "best") is None  # too soon to say
    assert steps.validation_rising(validated(1.0, 1.03, 1.03, 1.03), "best") is not None
    assert steps.validation_rising(validated(1.0, 1.01, 1.01, 1.01), "best") is None
    assert steps.validation_rising(validated(0.0, 0.0, 0.0, 0.0, 0.0), "best") is None
    assert steps.validation_rising(log(), "best") is None


def test_still_falling():
    falling = validated(3.0, 2.5, 2.0, 1.5, 1.2)  # the last two of 40, 60, ... are after 80 % of 100 steps
    found = steps.still_falling(falling, 100)
    assert found.evidence == {"fall": pytest.approx(0.3), "whole_fall": pytest.approx(1.8), "last": 1.2}
    assert steps.still_falling(validated(3.0, 2.0, 1.5, 1.08, 1.0), 100) is None  # 0.08 of 2.0
    assert steps.still_falling(validated(3.0, 2.0, 1.5, 1.12, 1.0), 100) is not None
    assert steps.still_falling(falling, 120) is None  # it was stopped
    assert steps.still_falling(validated(1.0, 1.0, 1.0, 1.0, 1.0), 100) is None
    assert steps.still_falling(validated(1.0, 1.1, 1.2, 1.3, 1.4), 100) is None
    assert steps.still_falling([], 100) is None


def test_gradients_exploding():
    def spiky(size, places, count=100, **columns):
        return log(count, largest_norm=lambda i: size if i in places else 2.0, **columns)

    found = steps.gradients_exploding(spiky(10.5, {20, 50}), 1.0)
    assert found.evidence == {"spikes": 2, "rows": 100, "largest": 10.5, "median": 1.0, "clipped_share": 0.25}
    assert "2 of the 100 rows" in found.text and "25 % of the steps" in found.text
    assert steps.gradients_exploding(spiky(9.5, {20, 50}), 1.0) is None
    assert steps.gradients_exploding(spiky(10.5, {20}), 1.0) is None  # one is clipped and forgotten
    assert steps.gradients_exploding(spiky(10.5, {20, 50}, count=150), 1.0) is None
    assert steps.gradients_exploding(spiky(10.5, {0, 1, 2}), 1.0) is None  # nothing to hold them against
    short = {"gradient_norm": 0.01, "largest_norm": lambda i: 0.9 if i in (20, 50) else 0.02}
    assert steps.gradients_exploding(log(100, **short), 1.0) is None  # too short to be clipped, or to do harm
    assert steps.gradients_exploding(log(100, **short), 0.5) is not None
    shrinking = {"gradient_norm": lambda i: 50 * 0.9**i, "largest_norm": lambda i: 100 * 0.9**i}
    assert steps.gradients_exploding(log(100, **shrinking), 1.0) is None  # long at the start is as it should be
    growing = {"gradient_norm": lambda i: 1.3**i, "largest_norm": lambda i: 2 * 1.3**i}
    assert steps.gradients_exploding(log(100, **growing), 1.0) is not None
    learnt = spiky(10.5, {20, 50}, loss=lambda i: 3.0 if i == 0 else 0.29)
    assert steps.gradients_exploding(learnt, 1.0) is None  # a single mistake stands out where hardly any is made
    assert steps.gradients_exploding(spiky(10.5, {20, 50}, loss=lambda i: 3.0 if i == 0 else 0.31), 1.0) is not None
    assert steps.gradients_exploding([], 1.0) is None
