"""Which way is the fastest: the choice follows the clock, and ends in time, on one core too."""

import time

import pytest
import torch

from chiasm.predict.speed import FEW_ROWS, MOST_ROWS, ROWS, fastest


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the functions move: `costs(fixed, per_row)` is one that takes so many seconds."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def costs(fixed, per_row):
        def run(rows):
            assert torch.get_num_threads() == 1
            now[0] += fixed + per_row * rows

        return run

    return now, costs


def test_the_faster_precision_wins_and_its_batch_grows_while_that_pays(clock):
    now, costs = clock
    speed = fastest({"fp32": costs(0, 0.02), "bf16": costs(0.001, 0.0005)})
    assert speed.precision == "bf16" and speed.rows == 32  # of 64, a row would take 0.971 of the time
    assert speed.rows_per_second["fp32"] == pytest.approx(50)
    assert speed.rows_per_second["bf16"] == pytest.approx(32 / 0.017)
    assert now[0] < 2


@pytest.mark.parametrize(("fixed", "rows"), [(0.0, FEW_ROWS), (0.004, MOST_ROWS)])
def test_batches_are_as_large_as_pays(clock, fixed, rows):
    assert fastest({"fp32": clock[1](fixed, 1e-5)}).rows == rows


def test_without_hardware_for_bf16_it_is_fp32_and_measuring_ends_in_time(clock):
    now, costs = clock
    before = torch.get_num_threads()
    speed = fastest({"fp32": costs(0.1, 0.02), "bf16": costs(0.1, 0.05)})
    assert speed.precision == "fp32" and speed.rows == ROWS and now[0] < 2
    assert torch.get_num_threads() == before
