"""Memory of the losses in chunks, as a process of its own holds it: linear in the batch."""

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, sys
from pathlib import Path
import torch
from torch.nn.functional import normalize
from chiasm.losses import info_nce

def status(name):
    return int(Path("/proc/self/status").read_text().partition(name + ":")[2].split()[0]) / 1024

def step(pairs):
    leaves = [leaf.requires_grad_() for leaf in (*sides[:, :pairs].unbind(), torch.tensor(2.66))]
    torch.autograd.grad(info_nce(*leaves, ids[:pairs], ids[:pairs], chunk=256), leaves)

torch.set_num_threads(1)
sides, ids = normalize(torch.randn(2, int(sys.argv[1]), 64), dim=-1), torch.arange(int(sys.argv[1]))
step(512)
ctypes.CDLL(None).malloc_trim(0)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
step(len(ids))
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_grows_by_the_embeddings_and_a_few_tiles():
    """8,192 pairs have a matrix of 256 MiB, and 4 MiB of gradients."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, "8192"], check=True, capture_output=True, text=True, timeout=120
    )
    assert float(run.stdout) < 32
