"""Whether a checkpoint belongs to the run that wants to go on from it."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode
from torch import nn
from torch.optim import Optimizer

from counterpoise.config.keys import training_config
from counterpoise.config.tree import flat_leaves
from counterpoise.errors import UserError
from counterpoise.modeling.distributed import unwrapped
from counterpoise.modeling.training_record import RECORD_KEY, counts_of, describe_difference
from counterpoise.modeling.weight_sources import ClassTable
from counterpoise.training.run_state import STATE_KEY

logger = logging.getLogger(__name__)

#: Keys, or nodes of them, that do not change the weights that a training leads to. Data is compared
#: by its content.
FREE_KEYS = (
    "OUTPUT_DIR", "DATASETS", "DATALOADER.NUM_WORKERS", "MODEL.WEIGHTS", "TEST", "VIS_PERIOD",
    "SOLVER.CHECKPOINT_PERIOD", "SOLVER.CHECKPOINTS_KEPT", "SOLVER.EARLY_STOPPING",
    "SOLVER.EPOCHS", "SOLVER.NON_FINITE", "BALANCE.SCORE_THRESHOLDS", "BALANCE.CALIBRATION",
    "VERSION",
)  # fmt: skip

#: The schedule whose rates up to an iteration do not depend on the last one.
_OPEN_ENDED = "WarmupMultiStepLR"


def differences(
    content: Mapping[str, Any],
    cfg: CfgNode,
    table: ClassTable,
    rank: int,
    world_size: int,
    data: Mapping[str, Any] | None,
) -> Iterator[str]:
    """Say in what a checkpoint differs from the run that would go on from it, and what that means.

    Args:
        content: of the checkpoint.
        cfg: of the run.
        table: classes and counts of its training set.
        rank, world_size: of this process.
        data: state of its loader before the first batch; None for one without.

    Yields:
        phrases; none where the run would go on as if it had never stopped.
    """
    record, state = content.get(RECORD_KEY), content.get(STATE_KEY)
    counts = counts_of(record) if isinstance(record, dict) else table.counts
    if other := describe_difference(counts, table.counts):
        yield f"another training set ({other})"
    if not isinstance(content.get("trainer"), dict) or not state:
        yield (
            "no state of a run beside its weights, so that the data and the random numbers would "
            "start again"
        )
        return
    if changed := changed_keys(yaml.safe_load(state["config"]), cfg):
        yield f"another config ({', '.join(changed)}), so that the rest follows another recipe"
    processes = state["processes"]
    if len(processes) != world_size:
        yield (
            f"another number of processes ({world_size}, and it was {len(processes)}), so that "
            "each sees other images"
        )
    before = processes[rank % len(processes)]["data"]
    if before and data and not other:
        if before["content"] != data["content"]:
            yield "other images or boxes in the training set, though as many of each class"
        elif before["order"] != data["order"] and len(processes) == world_size:
            yield "another order of the training images, which SEED or the sampler gives"


def check_resumable(
    path: str,
    content: Mapping[str, Any],
    others: Sequence[str],
    model: nn.Module,
    optimizer: Optimizer,
    max_iter: int,
    force: bool,
) -> None:
    """Refuse to go on from a checkpoint of another run.

    Args:
        path: of the checkpoint.
        content: of it.
        others: of :func:`differences`.
        model: that would take its weights, possibly wrapped for several processes.
        optimizer: that would take its state.
        max_iter: iterations of the run.
        force: go on in spite of `others`.

    Raises:
        UserError: it is of another run, of a model with other layers, of another optimizer, or
            beyond `max_iter`.
    """
    if others and not force:
        raise UserError(
            f"--resume would not continue the run of {path}, because of {'; '.join(others)}: "
            "give the run what it had, start a new one in another OUTPUT_DIR with "
            "MODEL.WEIGHTS set to this checkpoint, or add --force if you mean it"
        )
    if others:
        logger.warning("--force continues %s in spite of %s", path, "; ".join(others))
    own = unwrapped(model).state_dict()
    saved = content["model"]
    fits = own.keys() == saved.keys() and all(
        value.shape == saved[name].shape for name, value in own.items()
    )
    if not fits:
        raise UserError(
            f"{path} is of a model with other layers, which --force cannot continue: start a "
            "new run in another OUTPUT_DIR with MODEL.WEIGHTS set to this checkpoint"
        )
    stepped = content.get("trainer", {}).get("_trainer", {}).get("optimizer")
    if stepped and _shape(stepped["param_groups"]) != _shape(optimizer.param_groups):
        raise UserError(
            f"{path} is of a run with another SOLVER.OPTIMIZER, other frozen layers or other "
            "parameters of a rate or weight decay of their own, which --force cannot continue: "
            "start a new run in another OUTPUT_DIR with MODEL.WEIGHTS set to this checkpoint"
        )
    done = content.get("iteration", -1) + 1
    if done > max_iter:
        raise UserError(
            f"SOLVER.MAX_ITER is {max_iter}, but {path} has {done} iterations behind it: "
            "raise it, or set another OUTPUT_DIR"
        )


def _shape(groups: Sequence[Mapping[str, Any]]) -> list[tuple[int, bool, bool]]:
    """Of each group of an optimizer, its number of parameters and what their state is for."""
    return [(len(group["params"]), "momentum" in group, "betas" in group) for group in groups]


def changed_keys(before: Mapping[str, Any], cfg: CfgNode) -> list[str]:
    """Name the keys that shape a training and differ, such as ``SEED is 2 and was 1``.

    Args:
        before: config of the checkpoint, as nested dicts. A key that it lacks had its default.
        cfg: of the run.
    """
    now = dict(flat_leaves(yaml.safe_load(cfg.dump())))
    defaults = flat_leaves(yaml.safe_load(training_config().dump()))
    was = dict(defaults) | dict(flat_leaves(before))
    return [
        f"{key} is {now.get(key)} and was {was.get(key)}"
        for key in sorted(now.keys() | was.keys())
        if now.get(key) != was.get(key) and not _is_free(key, was, now)
    ]


def _is_free(key: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    if key == "SOLVER.MAX_ITER":
        return (
            now["SOLVER.LR_SCHEDULER_NAME"] == _OPEN_ENDED
            and now["SOLVER.WARMUP_ITERS"] <= min(was[key], now[key])  # or Detectron2 shortens it
            and not now["SOLVER.RESCALE_INTERVAL"]  # by which it shapes the rates
            and now["INPUT.COMPOSE_UNTIL"] == 1  # a share of the schedule
        )
    nodes = (key == free or key.startswith(f"{free}.") for free in FREE_KEYS)
    return key.endswith("_TEST") or any(nodes)
