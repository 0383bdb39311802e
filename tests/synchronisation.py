"""Counts what makes a host wait for a GPU, on a machine that has none."""

from collections import Counter
from contextlib import ExitStack
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

#: Operators whose result, or its shape, has to be known on the host.
WAITING = {
    "aten::_local_scalar_dense",  # item(), bool(), int(), float()
    "aten::nonzero",
    "aten::masked_select",
    "aten::bincount",
    "aten::_unique",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::equal",
    "aten::is_nonzero",
    "aten::repeat_interleave",
    "torchvision::nms",
}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
#: Copies between host and device, which no operator shows where both are one.
COPIES = {
    torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.__array__,
    torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.new_tensor,
}  # fmt: skip


class SynchronisationCounter:
    """Counts the operators of a ``with`` block that would make the host wait, by name."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.paused = False

    @property
    def total(self) -> int:
        """Number of synchronisations."""
        return sum(self.counts.values())

    def add(self, name: str) -> None:
        """Count one."""
        if not self.paused:
            self.counts[name] += 1

    def __enter__(self) -> "SynchronisationCounter":
        self._modes = ExitStack()
        self._modes.enter_context(_Operators(self))
        self._modes.enter_context(_Functions(self))
        return self

    def __exit__(self, *error: object) -> None:
        self._modes.__exit__(*error)


class _Operators(TorchDispatchMode):
    def __init__(self, counter: SynchronisationCounter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        name = func._schema.name
        if name in WAITING or (name in INDEXING and _waits(args)):
            self.counter.add(name)
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    def __init__(self, counter: SynchronisationCounter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        if func in COPIES and not (func is torch.as_tensor and isinstance(args[0], torch.Tensor)):
            self.counter.add(func.__name__)
        if func is F.one_hot or getattr(func, "__name__", "") == "one_hot":
            return self._unseen(func, args, kwargs)
        return func(*args, **kwargs)

    def _unseen(self, func, args, kwargs) -> Any:
        """Given the number of classes, it looks at its values on the CPU only."""
        paused, self.counter.paused = self.counter.paused, True
        try:
            return func(*args, **kwargs)
        finally:
            self.counter.paused = paused


def _waits(args: tuple) -> bool:
    """Whether indexing waits: for the number of a mask's elements, or for a number to be copied."""
    indices = [index for index in args[1] if index is not None]
    masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
    if len(args) > 2 and args[2].dim() == 0:
        # A number put by a single mask is masked_fill, which needs neither.
        return len(masks) != len(indices) or len(indices) != 1
    return bool(masks)
