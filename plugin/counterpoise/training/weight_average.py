"""Exponential moving average of the weights: kept, saved and evaluated beside the raw ones."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Average of a model's weights over the steps of a training.

    Update t (from 0) keeps the share d = min(`decay`, t / (9 + t)) of the average so far: the
    warm-up of TensorFlow's ExponentialMovingAverage, without which the random start of the new
    layers would weigh in a short training. Buffers that are no parameters, such as the statistics
    of batch norms, are those of the model. It is a checkpointable in fvcore's sense.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """
        Args:
            model: not wrapped for several processes.
            decay: in [0, 1).
        """
        self.model = model
        self.decay = decay
        self.updates = 0
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}
        # Listed once, since a state_dict of hundreds of tensors takes milliseconds.
        # A part that a model has under two names has both in its state_dict.
        parameters = model.named_parameters(remove_duplicate=False)
        parameters = {name: value for name, value in parameters if name in self.weights}
        self._now = list(parameters.values())
        self._averaged = [self.weights[name] for name in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        decay = min(self.decay, self.updates / (9 + self.updates))
        get_ema_multi_avg_fn(decay)(self._averaged, self._now, self.updates)
        self.take_buffers()
        self.updates += 1

    @torch.no_grad()
    def take_buffers(self) -> None:
        """Take over the buffers as they are now."""
        # Losses may put others in the place of theirs.
        buffers = self.model.named_buffers(remove_duplicate=False)
        buffers = {name: value for name, value in buffers if name in self.weights}
        if buffers:
            torch._foreach_copy_([self.weights[name] for name in buffers], list(buffers.values()))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights, and its own ones back at the end."""
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.weights)
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        """``updates``, and ``model`` with the names of the model's own ``state_dict``."""
        return {"updates": self.updates, "model": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.updates = state["updates"]
        weights: Mapping[str, Tensor] = state["model"]
        for name, value in self.weights.items():
            value.copy_(weights[name])


class WeightAveraging(HookBase):
    """Updates an average after each step; before the hooks that evaluate or save."""

    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    def after_step(self) -> None:
        """Take in the weights of this step."""
        self.average.update()
