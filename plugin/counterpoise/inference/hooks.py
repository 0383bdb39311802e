"""Hooks on a model during inference: its proposals and its time."""

import statistics
import time
from types import TracebackType
from typing import Any, TypeVar

import torch
from detectron2.structures import Instances
from torch import nn
from torch.utils.hooks import RemovableHandle

from counterpoise.modeling.distributed import unwrapped

Hooks = TypeVar("Hooks", bound="ModelHooks")


class ModelHooks:
    """Hooks on a model for as long as a ``with`` block lasts; subclasses say which."""

    def register(self) -> list[RemovableHandle]:
        """Register the hooks; whoever enters the block calls it."""
        raise NotImplementedError

    def __enter__(self: Hooks) -> Hooks:
        self._handles = self.register()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()


class ProposalTap(ModelHooks):
    """Holds the proposals of the batch that a model has just processed; a context manager.

    The output of a model has its detections only.
    """

    def __init__(self, model: nn.Module) -> None:
        """
        Args:
            model: any; one without ``proposal_generator`` has no proposals.
        """
        self._generator = getattr(unwrapped(model), "proposal_generator", None)
        self.latest: list[Instances] | None = None

    def register(self) -> list[RemovableHandle]:
        """Hook the RPN."""
        if self._generator is None:
            return []
        return [self._generator.register_forward_hook(self._keep)]

    def _keep(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        self.latest = outputs[0]


class InferenceClock(ModelHooks):
    """Measures the forward passes of a model; a context manager.

    Loading of images and work on the outputs are not counted.
    """

    def __init__(self, model: nn.Module) -> None:
        """
        Args:
            model: takes batches as lists.
        """
        self._model = model
        self._seconds: list[float] = []

    @property
    def seconds_per_image(self) -> float | None:
        """Median over the images so far; None before the first one."""
        return statistics.median(self._seconds) if self._seconds else None

    def register(self) -> list[RemovableHandle]:
        """Hook the model before and after its forward pass."""
        return [
            self._model.register_forward_pre_hook(self._start),
            self._model.register_forward_hook(self._stop),
        ]

    def _start(self, model: nn.Module, inputs: tuple[list[Any]]) -> None:
        self._started = _now()

    def _stop(self, model: nn.Module, inputs: tuple[list[Any]], outputs: Any) -> None:
        batch = len(inputs[0])
        self._seconds += [(_now() - self._started) / batch] * batch


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # a GPU is still at work when its calls have returned
    return time.perf_counter()
