"""Metrics of training, summed on the device and logged as often as Detectron2 writes."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

#: Iterations from one log to the next, those from one write of Detectron2's writers to the next.
PERIOD = 20


class MetricLog(nn.Module):
    """Logs ratios, such as accuracies, over all samples of the steps since it last logged.

    To read a number from a GPU is to wait for all its work. So sums stay on the device, and numbers
    go to Detectron2's event storage in iterations 20, 40, ... and in :attr:`last_iteration`.

    It holds no parameter and no buffer; a model with it keeps its ``state_dict``. It belongs to one
    name scope of the event storage: each stage of a cascade has its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.last_iteration: int | None = None
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, ratios: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add the sums of a step, and log where it is time.

        Args:
            ratios: name of a metric -> numerator and denominator, scalars on one device. A metric
                whose denominators add up to 0 is not logged.
        """
        for name, ratio in ratios.items():
            step = torch.stack([part.detach().float() for part in ratio])
            step = step.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)  # of a step that is left out
            before = self._sums.get(name)
            self._sums[name] = step if before is None else before.to(step.device) + step
        iteration = get_event_storage().iter
        if (iteration + 1) % PERIOD == 0 or iteration == self.last_iteration:
            self._log()

    def _log(self) -> None:
        storage, names = get_event_storage(), list(self._sums)
        sums = torch.stack(list(self._sums.values())).tolist()
        for name, (numerator, denominator) in zip(names, sums, strict=True):
            if denominator > 0:
                # A mean over many samples needs no smoothing.
                storage.put_scalar(name, numerator / denominator, smoothing_hint=False)
        self._sums.clear()

    def training_state(self) -> dict[str, Any]:
        """Sums since the last log, float32 (2,), by name; a resumed run goes on with them."""
        return {name: value.cpu() for name, value in self._sums.items()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Go on with sums; they move to the device of the next ones."""
        self._sums = dict(state)


def scoped_names(metric: str, names: Iterable[str]) -> list[str]:
    """Names under which a metric is logged, sorted: its own, or one for each stage of a cascade.

    Args:
        metric: such as ``roi/p_t_fg``; a cascade logs ``stage0/roi/p_t_fg``.
        names: of all logged metrics.
    """
    return sorted(name for name in names if f"/{name}".endswith(f"/{metric}"))


def log_last_iteration(model: nn.Module, iteration: int) -> None:
    """Let a model log its metrics in the last iteration of a training too.

    Args:
        model: any.
        iteration: counted from 0.
    """
    for module in model.modules():
        if isinstance(module, MetricLog):
            module.last_iteration = iteration
