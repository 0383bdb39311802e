"""Running a trained model over images, with a progress bar or a clock."""

import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

import torch
from detectron2.evaluation.evaluator import inference_context
from torch import nn
from tqdm import tqdm


def infer(
    model: nn.Module, loader: Iterable[list[dict[str, Any]]], total: int, description: str
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Run a model over batches and hand on each batch with its outputs.

    Args:
        model: with Detectron2's input and output format.
        loader: of batches.
        total: number of images.
        description: of the progress bar on standard error, which shows the remaining time.
    """
    with inference_context(model), torch.no_grad():
        bar = tqdm(
            total=total, desc=description, unit="image", file=sys.stderr, disable=None, leave=False
        )
        with bar:
            for batch in loader:
                yield batch, model(batch)
                bar.update(len(batch))


class InferenceClock:
    """Measures the forward passes of a model; a context manager.

    Loading of images and what becomes of the outputs are not counted.
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

    def __enter__(self) -> "InferenceClock":
        self._handles = [
            self._model.register_forward_pre_hook(self._start),
            self._model.register_forward_hook(self._stop),
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _start(self, model: nn.Module, inputs: tuple[list[Any]]) -> None:
        self._started = _now()

    def _stop(self, model: nn.Module, inputs: tuple[list[Any]], outputs: Any) -> None:
        batch = len(inputs[0])
        self._seconds += [(_now() - self._started) / batch] * batch


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # a GPU is still at work when its calls have returned
    return time.perf_counter()
