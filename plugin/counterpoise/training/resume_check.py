"""Whether a checkpoint belongs to the run that wants to go on from it."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from detectron2.config import CfgNode

from counterpoise.config.keys import training_config
from counterpoise.modeling.checkpoint import RECORD_KEY, counts_of, describe_difference
from counterpoise.modeling.weight_sources import ClassTable
from counterpoise.training.run_state import STATE_KEY

#: Keys, or nodes of them, that change nothing in how weights come about. Data is compared itself.
FREE_KEYS = (
    "OUTPUT_DIR", "DATASETS", "DATALOADER.NUM_WORKERS", "MODEL.WEIGHTS", "TEST", "VIS_PERIOD",
    "SOLVER.CHECKPOINT_PERIOD", "SOLVER.CHECKPOINTS_KEPT", "SOLVER.NON_FINITE",
    "BALANCE.SCORE_THRESHOLDS", "VERSION",
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
) -> list[str]:
    """Say in what a checkpoint differs from the run that would go on from it, and what that means.

    Args:
        content: of the checkpoint.
        cfg: of the run.
        table: classes and counts of its training set.
        rank, world_size: of this process.
        data: state of its loader before the first batch; None for one without.

    Returns:
        phrases; none where the run would go on as if it had never stopped.
    """
    return list(_differences(content, cfg, table, rank, world_size, data))


def _differences(
    content: Mapping[str, Any],
    cfg: CfgNode,
    table: ClassTable,
    rank: int,
    world_size: int,
    data: Mapping[str, Any] | None,
) -> Iterator[str]:
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


def changed_keys(before: Mapping[str, Any], cfg: CfgNode) -> list[str]:
    """Name the keys that shape a training and differ, such as ``SEED is 2 and was 1``.

    Args:
        before: config of the checkpoint, as nested dicts. A key that it lacks had its default.
        cfg: of the run.
    """
    now = _flat(yaml.safe_load(cfg.dump()))
    was = _flat(yaml.safe_load(training_config().dump())) | _flat(before)
    return [
        f"{key} is {now.get(key)} and was {was.get(key)}"
        for key in sorted(now.keys() | was.keys())
        if now.get(key) != was.get(key) and not _is_free(key, now)
    ]


def _is_free(key: str, now: Mapping[str, Any]) -> bool:
    if key == "SOLVER.MAX_ITER":
        open_ended = now.get("SOLVER.LR_SCHEDULER_NAME") == _OPEN_ENDED
        return open_ended and now.get("INPUT.COMPOSE_UNTIL") == 1  # a share of the schedule
    nodes = (key == free or key.startswith(f"{free}.") for free in FREE_KEYS)
    return key.endswith("_TEST") or any(nodes)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
