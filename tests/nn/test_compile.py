"""Compiled blocks compute what blocks compute, forward and backward, and their weights keep their names."""

import copy
import subprocess
import sys

import torch
from torch import nn

from chiasm.nn import Block, checkpoint_blocks, compile_blocks


def test_compiled_blocks_give_the_same_values_and_gradients():
    """In a process of its own: no compiler can trace the tests' checks of shapes."""
    ran = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=300, check=False)
    assert (ran.returncode, ran.stdout.split()) == (0, ["equal"] * 2), ran.stderr


def compare() -> None:
    """With the tracing of torch.compile alone: its code generator would take a minute."""
    compiler = nn.Module.compile
    nn.Module.compile = lambda module: compiler(module, backend="aot_eager")
    torch.manual_seed(0)
    plain = nn.Sequential(Block(32, 2), Block(32, 2))
    compiled, recomputing = copy.deepcopy(plain), copy.deepcopy(plain)
    checkpoint_blocks(recomputing)
    x = torch.randn(3, 7, 32)
    wanted = of(plain, x)
    for model in (compiled, recomputing):
        compile_blocks(model)
        assert model.state_dict().keys() == plain.state_dict().keys()
        assert all(block._compiled_call_impl is not None for block in model)
        for mine, its in zip(wanted, of(model, x), strict=True):
            torch.testing.assert_close(its, mine, atol=1e-5, rtol=1e-4)
        print("equal")


def of(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The output and all gradients of a function of it."""
    x = x.clone().requires_grad_()
    out = model(x)
    out.square().sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in model.parameters())]


if __name__ == "__main__":
    compare()
