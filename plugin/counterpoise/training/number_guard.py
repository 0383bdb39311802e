"""Stops a training at the step in which a loss or gradient is not finite, and keeps that step.

The check stands between the backward pass and the optimizer, so the weights are still those with
which the step began. It waits for the device once more than Detectron2 does.
"""

import logging
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from counterpoise.errors import RunFailed
from counterpoise.modeling.checkpoint import LOSS_STATE
from counterpoise.modeling.distributed import sum_over_processes, unwrapped
from counterpoise.modeling.training_record import RECORD_KEY
from counterpoise.modeling.training_state import (
    load_training_state,
    loss_normalizers,
    modules_with_normalizer,
)
from counterpoise.training.random_state import random_state
from counterpoise.training.step_bundle import NORMALIZERS_KEY, step_file, write_step
from counterpoise.utils.output_dir import LAST_CHECKPOINT

logger = logging.getLogger(__name__)

ADVICE = "lower SOLVER.BASE_LR, raise SOLVER.WARMUP_ITERS or set SOLVER.CLIP_GRADIENTS.ENABLED True"

#: Image files that a sentence names.
SHOWN = 4

#: What Detectron2's assertion says of boxes that a stage of a cascade hands on.
NOT_FINITE_BOXES = "Box tensor contains infinite or NaN"

#: Buffers of a batch norm that a forward pass moves on.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class NumberGuard:
    """What to do about steps whose numbers are not finite; all processes do the same."""

    def __init__(self, cfg: CfgNode, model: nn.Module, record: Mapping[str, Any]) -> None:
        """
        Args:
            cfg: with ``SOLVER.NON_FINITE``: ``stop`` ends the run, ``skip`` leaves the step out.
            model: possibly wrapped for several processes; its batches are remembered.
            record: of the training set, for the bundle.
        """
        self.policy = cfg.SOLVER.NON_FINITE
        self.folder = Path(cfg.OUTPUT_DIR)
        self.model = unwrapped(model)
        self.record = record
        self.skipped = 0
        self._batch: list[dict[str, Any]] = []
        self._random_state = random_state()
        self._state: dict[str, Tensor] = {}
        self._normalizers: dict[str, Any] = {}
        model.register_forward_pre_hook(self._remember)

    def _remember(self, module: nn.Module, inputs: tuple) -> None:
        if module.training:
            (self._batch,) = inputs
            self._random_state = random_state()
            self._state = {n: self.model.get_buffer(n).clone() for n in self._stateful}
            self._normalizers = loss_normalizers(self._normalized)

    @cached_property
    def _stateful(self) -> list[str]:
        """Buffers that the forward pass of a step moves on: of losses, and of batch norms.

        The latter only where a step may be left out: a copy of hundreds of them takes time.
        """
        moving = {n for n in self.model.state_dict() if LOSS_STATE.search(n)}
        if self.policy == "skip":
            norms = [n for n, m in self.model.named_modules() if isinstance(m, _NormBase)]
            moving |= {f"{norm}.{n}" for norm in norms for n in STATISTICS}
        return [n for n, _ in self.model.named_buffers() if n in moving]

    @cached_property
    def _normalized(self) -> dict[str, nn.Module]:
        return modules_with_normalizer(self.model)

    def check_step(
        self,
        losses: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        scaled: bool,
        step: int,
    ) -> bool:
        """Check the losses and gradients of a step, and take the gradients of a bad one away.

        Args:
            losses: tensors of one number by name.
            optimizer: whose parameters have their gradients.
            scaled: whether a scaler looks after infinite gradients.
            step: the iteration, from 0.

        Returns:
            whether all are finite, in all processes.

        Raises:
            RunFailed: they are not, and the policy is ``stop``.
        """
        gradients = [
            p.grad
            for group in optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        # A loss of one's own may be a tensor of one number, or on the CPU, as Detectron2 takes it.
        device = next(iter(losses.values())).device
        values = [value.detach().float().reshape(()).to(device) for value in losses.values()]
        values = torch.stack(values)
        bad = (~values.isfinite()).any()
        if gradients and not scaled:
            largest = torch.stack(torch._foreach_norm(gradients, math.inf))
            bad |= ~largest.isfinite().all()
        if not bool(sum_over_processes(bad.float())):
            return True
        named = dict(zip(losses, values.tolist(), strict=True))
        wrong = {name: value for name, value in named.items() if not _finite(value)}
        if wrong:
            what = " and ".join(f"{name} is {value}" for name, value in wrong.items())
        elif bool(bad):
            what = "a gradient is not finite"
        else:
            what = "another process met a loss or gradient that is not finite"
        self.reject_step(what, optimizer, step, own=bool(bad))
        if scaled:
            gradients[0].fill_(math.nan)  # the scaler skips by what it finds, and fails on nothing
        else:
            optimizer.zero_grad(set_to_none=True)  # which leaves every parameter as it is
        return False

    def reject_step(
        self,
        what: str,
        optimizer: torch.optim.Optimizer,
        step: int,
        own: bool = True,
        together: bool = True,
    ) -> None:
        """Keep a step, and stop or warn by the policy.

        Args:
            what: is not finite, the start of the sentence.
            optimizer: for the learning rate.
            step: the iteration, from 0.
            own: whether it is this process's step that failed.
            together: whether all processes reject the step. One that left it out alone would be a
                step ahead of the others, which wait for its gradients.

        Raises:
            RunFailed: the policy is ``stop``, or the step cannot be skipped.
        """
        rate = max(group["lr"] for group in optimizer.param_groups)
        files = [str(image.get("file_name", "?")) for image in self._batch]
        more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
        images = ", ".join(files[:SHOWN]) + more
        sentence = (
            f"In iteration {step} {what} (learning rate {rate:.3g}, images {images}): {ADVICE}"
        )
        if self.policy == "skip":
            if together or comm.get_world_size() == 1:
                self.skipped += 1
                for name, value in self._state.items():
                    self.model.get_buffer(name).copy_(value)
                load_training_state(self.model, self._normalizers)
                logger.warning("%s; the step is left out, %d so far", sentence, self.skipped)
                return
            sentence += "; SOLVER.NON_FINITE skip needs every process to reach the end of the step"
        if own:
            sentence += f"; {self._keep(step)}"
        if (self.folder / LAST_CHECKPOINT).is_file():
            sentence += "; --resume goes on from the last checkpoint, which is finite"
        raise RunFailed(sentence)

    def _keep(self, step: int) -> str:
        """Write the step; what became of it, for the end of a sentence."""
        path = self.folder / step_file(step, comm.get_rank())
        weights = self.model.state_dict() | self._state
        extra = {RECORD_KEY: self.record, NORMALIZERS_KEY: self._normalizers}
        try:
            write_step(path, weights, self._batch, self._random_state, extra)
        except (OSError, RuntimeError) as error:  # torch raises either, by what is wrong
            return f"the step cannot be kept ({error})"
        return f"`counterpoise replay {path}` repeats the step"


def gives_up(error: Exception) -> bool:
    """Whether Detectron2 has raised an error because its boxes are not finite."""
    return isinstance(error, FloatingPointError) or NOT_FINITE_BOXES in str(error)


def _finite(value: float) -> bool:
    return value - value == 0


class _Guarded:
    """Asks a guard before the optimizer moves; Detectron2 writes the metrics at that moment."""

    guard: NumberGuard
    _scales = False

    def _write_metrics(self, loss_dict: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> None:
        if self.guard.check_step(loss_dict, self.optimizer, self._scales, self.iter):
            super()._write_metrics(loss_dict, *args, **kwargs)


class GuardedTrainer(_Guarded, SimpleTrainer):
    """Detectron2's training step with a :class:`NumberGuard`."""


class GuardedAMPTrainer(_Guarded, AMPTrainer):
    """Detectron2's training step in float16 with a :class:`NumberGuard`.

    The scaler leaves steps with infinite gradients out and halves its factor, without an end where
    they are never finite.
    """

    _scales = True

    def _write_metrics(self, *args: Any, **kwargs: Any) -> None:
        scale = self.grad_scaler.get_scale()
        if scale < 1 and self.guard.policy == "stop":
            what = (
                f"the loss's factor for float16 has been halved to {scale:g} since gradients were "
                "not finite, for which SOLVER.AMP.PRECISION bfloat16 has room"
            )
            self.guard.reject_step(what, self.optimizer, self.iter)
        super()._write_metrics(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on; the scaler of a run that had none starts with its own factor."""
        super().load_state_dict({"grad_scaler": self.grad_scaler.state_dict(), **state_dict})


def guarded(trainer: SimpleTrainer, guard: NumberGuard) -> SimpleTrainer:
    """The step of `trainer` with a guard, of the same model, data and optimizer."""
    kind = GuardedAMPTrainer if isinstance(trainer, AMPTrainer) else GuardedTrainer
    stepper = kind(trainer.model, trainer.data_loader, trainer.optimizer)
    stepper.guard = guard
    return stepper
