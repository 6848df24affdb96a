"""How much memory a training step takes, and the largest batch that fits: it is followed without being computed."""

from __future__ import annotations

import os
import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from chiasm.cost.batches import example_batch, training_objective
from chiasm.models import Model, ModelConfig, build_model
from chiasm.nn import OptimizerName, matrices_of

ALLOCATOR = 1.25
"""What the C library holds of a step's tensors, by what they are: freed room of one size is of little use to another.
Measured by `benchmarks/cost.py`."""
CODE_BYTES = 48 * 2**20
"""Of the code and the kernels that a training brings into memory, and what they keep for themselves."""
FIRST_ROWS, MOST_ROWS = 16, 2**20
NEAR = 1.02
"""A batch that would be larger by less than this is not worth another look."""
SPARE = 0.9
"""Of the free memory, what a batch may be planned to take."""
aten = torch.ops.aten
MASKED = aten.index, aten._unsafe_index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index_put


@dataclass(frozen=True)
class StepBytes:
    """What a process that trains holds at the peak of a step."""

    state: int
    """Weights, the optimizer's moments and the moving average: between steps too."""
    tensors: int
    """The step's own at the moment when they are most: the batch, activations, gradients, the update."""

    @property
    def peak(self) -> int:
        """Both, and what comes with them in a process: the allocator's gaps, and code."""
        return round(self.state + ALLOCATOR * self.tensors) + CODE_BYTES


def step_bytes(
    config: ModelConfig,
    *,
    batch_size: int,
    text_tokens: int,
    precision: str = "fp32",
    accumulate: int = 1,
    optimizer: OptimizerName = "adamw",
) -> StepBytes:
    """The memory of a step on a CPU, whose tensors are followed from birth to death while none of them has values.

    It is the training step itself that runs, forward and backward, with weights and activations that are shapes alone;
    which tokens are real, of which shapes follow, is known from the batch.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # what has values, as ids, may meet what has none
    with torch.device("meta"):
        model = build_model(config)
    _as_shapes(model, fake)
    objective = training_objective(config)
    batch = example_batch(
        config, batch_size, text_tokens, noise=lambda *size: _shape(torch.empty(size, device="meta"), fake)
    )
    with fake, _Lives(model) as lives, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        objective.backward(model, batch, min(accumulate, batch_size), lambda loss: loss.backward())
    held = (batch.images, batch.ids, batch.media, batch.sounds)
    inputs = sum(tensor.nbytes for tensor in held if tensor is not None)
    most = max(lives.peak, _update_bytes(model, optimizer))
    return StepBytes(state=state_bytes(model, optimizer), tensors=inputs + most)


def largest_batch(
    config: ModelConfig,
    *,
    text_tokens: int,
    memory_bytes: int,
    precision: str = "fp32",
    accumulate: int = 1,
    optimizer: OptimizerName = "adamw",
) -> int:
    """The most rows whose step peaks within nine tenths of the given memory, to about 2 %; 0 where not even one fits.

    With `accumulate` it is the whole batch that is run in parts.
    """

    def peak(rows: int) -> int:
        sizes = {"batch_size": rows, "text_tokens": text_tokens, "precision": precision}
        return step_bytes(config, accumulate=accumulate, optimizer=optimizer, **sizes).peak

    room = round(SPARE * memory_bytes)
    told: dict[int, int] = {}
    rows, fits, too_many = FIRST_ROWS, 0, MOST_ROWS
    while too_many - fits > 1:
        told[rows] = peak(rows)
        if told[rows] > room:
            too_many = rows
        else:
            fits = rows
        rows = _next_guess(told, room, fits, too_many)
        if rows < NEAR * fits:
            break
    return fits


def _next_guess(told: dict[int, int], room: int, fits: int, too_many: int) -> int:
    """Where the line through the two nearest peaks meets the room, or a little below: peaks are nearly straight."""
    nearest = sorted(told.items(), key=lambda pair: abs(pair[1] - room))[:2]
    (a, peak_a), (b, peak_b) = nearest[0], nearest[-1]
    most = 64 * max(told)  # the first peaks may be flat: of the gradients, whatever the batch
    guess = most if peak_a == peak_b else a + (room - peak_a) * (b - a) / (peak_b - peak_a)
    if too_many <= max(told):
        guess = guess if fits < guess < too_many else (fits + too_many) / 2
    return max(fits + 1, min(int(0.995 * guess), most, too_many - 1))


def state_bytes(model: Model, optimizer: OptimizerName = "adamw") -> int:
    """Bytes of the weights and, of those that learn, of their average and two moments; Muon has one of a matrix."""
    spared = sum(matrix.nbytes for matrix in matrices_of(model)) if optimizer == "muon" else 0
    return sum(p.nbytes * (4 if p.requires_grad else 1) for p in model.parameters()) - spared


def _update_bytes(model: Model, optimizer: OptimizerName) -> int:
    """Bytes at the peak of the update: the gradients, and what Muon makes of the matrices of one shape together."""
    gradients = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    if optimizer == "adamw":
        return gradients
    of_shape = Counter(tuple(matrix.shape) for matrix in matrices_of(model))
    rounds = (4 * count * min(shape) * (3 * max(shape) + 2 * min(shape)) for shape, count in of_shape.items())
    return gradients + max(rounds, default=0)


def free_bytes() -> int:
    """The memory that is free for processes now, as the kernel and, in a container, its limit have it."""
    told = Path("/proc/meminfo")
    if not told.exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    lines = dict(line.split(":", 1) for line in told.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - int(used))


def _shape(tensor: Tensor, fake: FakeTensorMode) -> FakeTensor:
    """A tensor of the meta device as one that claims to lie in a CPU's memory, so that the CPU's way is taken."""
    return FakeTensor(fake, tensor, torch.device("cpu"))


def _as_shapes(model: Model, fake: FakeTensorMode) -> None:
    """Make shapes of a meta model's parameters and buffers; what is tied stays so."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            shape = nn.Parameter(_shape(parameter.detach(), fake), requires_grad=parameter.requires_grad)
            setattr(module, name, made.setdefault(id(parameter), shape))
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            setattr(module, name, made.setdefault(id(buffer), _shape(buffer, fake)))


class _Lives(TorchDispatchMode):
    """Adds up the memory of all tensors that live at a time, but for those of the model.

    Tensors that have values, as ids and masks have, are computed; of the others only shapes. A mask with values
    chooses as many rows as are true in it; a number that would have to be read off a shape is 1.
    """

    def __init__(self, model: Model):
        super().__init__()
        self.now = self.peak = 0
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()
        for tensor in (*model.parameters(), *model.buffers()):
            self.seen.add(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let it run, and see what was born."""
        kwargs = kwargs or {}
        if not any(isinstance(value, FakeTensor) for value in tree_iter((args, kwargs))):
            with unset_fake_temporarily():
                out = func(*args, **kwargs)
        elif func is aten._local_scalar_dense.default:
            return 1.0
        elif func.overloadpacket in MASKED:
            out = func(args[0], _places(args[1]), *args[2:], **kwargs)
        else:
            out = func(*args, **kwargs)
        self._see(value for value in tree_iter(out) if isinstance(value, Tensor))
        return out

    def _see(self, tensors: Iterable[Tensor]) -> None:
        for storage in (tensor.untyped_storage() for tensor in tensors):
            if storage not in self.seen:
                self.seen.add(storage)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, size: int) -> None:
        self.now -= size


def _places(indices: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Masks as the places where they are true."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor):
            with unset_fake_temporarily():
                found += index.nonzero().unbind(1)
        else:
            found.append(index)
    return found


__all__ = ["StepBytes", "free_bytes", "largest_batch", "state_bytes", "step_bytes"]
