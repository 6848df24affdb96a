"""A device that is not the CPU, for machines without one: tensors "there" are computed here, and may not meet others.

What would be an error on a GPU is one here: operators on tensors of both devices, and NumPy's view of one that is away.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import library
from torch.utils._pytree import tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretended"
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class There(torch.Tensor):
    """A tensor that says it is on the device, around one on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        shape = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, inner.size(), **shape, dtype=inner.dtype, device=NAME)

    def __init__(self, inner: torch.Tensor):
        self.inner = inner

    def tolist(self) -> Any:
        """Allowed on every device."""
        return self.inner.tolist()

    def new_tensor(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Where this one is."""
        return self.inner.new_tensor(*args, **kwargs).to(self.device)

    def __repr__(self):
        return f"There({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, *args, **(kwargs or {}))


def _run(func, *args, **kwargs):
    given: list[torch.Tensor] = []
    tree_map_only(torch.Tensor, given.append, (args, kwargs))
    places = {tensor.device.type for tensor in given if tensor.ndim}
    if len(places) > 1 and func not in COPIES:
        raise RuntimeError(f"{func} of tensors on {' and '.join(sorted(places))}")
    wanted = kwargs.get("device")
    away = any(isinstance(t, There) for t in given) if wanted is None else torch.device(wanted).type == NAME
    if wanted is not None:
        kwargs["device"] = torch.device("cpu")
    args, kwargs = tree_map_only(There, lambda tensor: tensor.inner, (args, kwargs))
    found = func(*args, **kwargs)
    if given and found is (given[0].inner if isinstance(given[0], There) else given[0]):
        return given[0]  # changed in place
    return tree_map_only(torch.Tensor, _there, found) if away else found


def _there(tensor: torch.Tensor) -> There:
    return tensor if isinstance(tensor, There) else There(tensor)


def stand_in(monkeypatch: Any) -> None:
    """Replace what of PyTorch does not know of devices that are made in Python, for a test."""
    mode = torch.inference_mode

    def made_here(make: Any) -> Any:
        return lambda *args, device=None, **kwargs: make(*args, **kwargs).to(device or "cpu")

    def enter(self: Any) -> None:
        self.before = torch.is_grad_enabled()
        torch.set_grad_enabled(False)

    def leave(self: Any, *error: Any) -> None:
        torch.set_grad_enabled(self.before)

    for name in ("tensor", "eye"):
        monkeypatch.setattr(torch, name, made_here(getattr(torch, name)))
    monkeypatch.setattr(mode, "__enter__", enter)
    monkeypatch.setattr(mode, "__exit__", leave)


@lru_cache
def device() -> torch.device:
    """The device; once it has been asked for, it is there in the whole process."""
    _setup_privateuseone_for_python_backend(NAME)
    kernels = library.Library("_", "IMPL", "PrivateUse1")
    kernels.fallback(_run)
    device.kernels = kernels  # they work as long as they live
    return torch.device(NAME)
