"""A contrastive batch larger than memory: gradients cached at the embeddings, then passed on by parts (2101.06983)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def cached_backward(parts: Sequence[Callable[[], tuple[Tensor, ...]]], loss: Callable[..., Tensor]) -> float:
    """Add to `.grad` the gradients of `loss` over all parts' embeddings, with the graph of one part at a time.

    A part embeds its rows: it returns, say, embeddings of pictures "b e" and of texts "b e". `loss` gets each
    concatenated over the parts and returns a scalar, which is returned; what else it reads (log-scale, bias) gets its
    gradients from it. Parts are called twice, with equal random numbers: dropout keeps its masks. Batch statistics
    would be those of a part, see `refuse_batch_norm`. Autocast, if wanted, is entered around the call. Raises
    ValueError where there are no parts.
    """
    if not parts:
        raise ValueError("there are no parts to embed")
    states, embedded = [], []
    with torch.no_grad():
        for part in parts:
            states.append(_random_state())
            embedded.append(part())
    torch.clear_autocast_cache()  # older versions of torch keep weights there that were cast without a graph
    sides = [torch.cat(side).requires_grad_() for side in zip(*embedded, strict=True)]
    value = loss(*sides)
    with torch.autocast(value.device.type, enabled=False):
        value.backward()
    gradients = zip(
        *(_as_parts(side, [len(part[n]) for part in embedded]) for n, side in enumerate(sides)), strict=True
    )
    for part, state, of_part in zip(parts, states, gradients, strict=True):
        _restore(state)
        again = part()
        reached = [(tensor, gradient) for tensor, gradient in zip(again, of_part, strict=True) if tensor.requires_grad]
        with torch.autocast(value.device.type, enabled=False):
            torch.autograd.backward([tensor for tensor, _ in reached], [gradient for _, gradient in reached])
    return value.item()


def refuse_batch_norm(model: nn.Module) -> None:
    """Raise ValueError naming the first module that normalises by the batch, of which a part knows only a piece.

    Batch norm in evaluation mode, as in a locked tower, reads its running statistics and is welcome.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(
                f"{name or 'the model'} is a {type(module).__name__}: its statistics would be those of a part of the "
                "batch; use group or layer norm, lock that tower, or train without cached parts"
            )


def _as_parts(side: Tensor, rows: list[int]) -> tuple[Tensor, ...]:
    """The cached gradients of one side, as the parts made it; zero where the loss does not read it."""
    return (torch.zeros_like(side) if side.grad is None else side.grad).split(rows)


def _random_state() -> tuple[Tensor, Tensor | None]:
    """The state of the generators of the CPU and, where it is in use, of the current CUDA device."""
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None


def _restore(state: tuple[Tensor, Tensor | None]) -> None:
    """Set the generators; after the last part they stand where one pass would have left them."""
    cpu, cuda = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda)


__all__ = ["cached_backward", "refuse_batch_norm"]
