"""Losses and gradients of two real processes against one process that holds the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from chiasm.losses import info_nce, sigmoid_pairs
from chiasm.losses.ranks import gather, info_nce_across_ranks, sigmoid_across_ranks
from losses.rank_of_two import CASES, Dual, batch

PLAIN = {"info_nce": info_nce, "sigmoid": sigmoid_pairs}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes saw."""
    folder = tmp_path_factory.mktemp("ranks")
    worker = Path(__file__).with_name("rank_of_two.py")
    both = [
        subprocess.Popen(
            [sys.executable, "-W", "error", worker, str(rank), folder],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in both:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in both:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize(("name", "chunk"), CASES)
def test_two_processes_equal_one_with_the_whole_batch(ranks, name, chunk):
    model = Dual(PLAIN[name], name == "sigmoid")
    loss = model(*batch(), None)
    loss.backward()
    losses, gradients = zip(*(seen[name, chunk] for seen in ranks), strict=True)
    assert (sum(losses) / 2).item() == pytest.approx(loss.item(), rel=1e-5)
    assert losses[0] != losses[1]
    for parameter, *of_ranks in zip(model.parameters(), *gradients, strict=True):
        for gradient in of_ranks:
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-5, atol=1e-9)


def test_gather_passes_each_rank_the_gradients_of_all(ranks):
    """Rank r weights gathered row i by (r + 1) i, so that row i gets 3 i."""
    for rank, seen in enumerate(ranks):
        gathered, gradient = seen["gather"]
        assert gathered[:, 0].tolist() == [1, 1, 2, 2]
        assert gradient[:, 0].tolist() == [[0, 3], [6, 9]][rank]


def test_unequal_batches_are_refused_on_both(ranks):
    assert all("[7, 6] rows" in seen["unequal"] for seen in ranks)


def test_one_process_without_a_group_is_the_plain_loss():
    across = {"info_nce": info_nce_across_ranks, "sigmoid": sigmoid_across_ranks}
    for name, loss in PLAIN.items():
        alone, plain = Dual(across[name], name == "sigmoid"), Dual(loss, name == "sigmoid")
        assert alone(*batch(), None) == plain(*batch(), None)
    rows = torch.ones(2, 3)
    assert gather(rows) is rows
