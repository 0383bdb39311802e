"""The sides of a comparison: a run each, or the runs of one config with several seeds."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode

from counterpoise.comparison.scoring import ScoredRun
from counterpoise.errors import UserError
from counterpoise.reporting import Run
from counterpoise.reporting.config_difference import shown_values

#: Config keys in which the runs of one side may differ.
OWN_KEYS = ("OUTPUT_DIR", "SEED")


@dataclass(frozen=True)
class Side:
    """A side of a comparison.

    Attributes:
        name: unique among the sides.
        runs: at least one; several differ in their seed alone.
    """

    name: str
    runs: tuple[ScoredRun, ...]

    @property
    def seeds(self) -> tuple[int, ...] | None:
        """Of the runs; None where a run does not say."""
        configs = [run.files.config for run in self.runs]
        return None if None in configs else tuple(config.SEED for config in configs)


def sides_of(runs: Sequence[ScoredRun]) -> tuple[Side, ...]:
    """Each run as a side of its own."""
    return tuple(Side(run.name, (run,)) for run in runs)


def sides_over_seeds(runs: Sequence[ScoredRun]) -> tuple[Side, ...]:
    """Runs whose configs differ in SEED alone as one side, in the order of their first runs.

    Raises:
        UserError: a run has kept no config, two have the same one with the same seed, or all differ
            in their seed alone.
    """
    grouped: dict[tuple, dict[int, ScoredRun]] = {}
    for run in runs:
        config = run.files.config
        if config is None:
            raise UserError(
                f"{run.files.path} has kept no config.yaml, so it is not known which runs differ "
                "in SEED alone: leave --over-seeds out"
            )
        own = grouped.setdefault(_content(config), {})
        if config.SEED in own:
            raise UserError(
                f"{own[config.SEED].files.path} and {run.files.path} have the same config with the "
                f"same SEED {config.SEED}: give one of them"
            )
        own[config.SEED] = run
    if len(grouped) < 2:
        raise UserError(
            "all runs differ in SEED alone, so they are one side: add runs of another config, or "
            "leave --over-seeds out to compare the seeds"
        )
    groups = [tuple(own.values()) for own in grouped.values()]
    names = [_common_name([run.name for run in own]) for own in groups]
    unique = len(set(names)) == len(names)
    return tuple(
        Side(name if unique else own[0].name, own) for name, own in zip(names, groups, strict=True)
    )


def _content(config: CfgNode) -> tuple[tuple[str, object], ...]:
    """What runs of one side have in common.

    Weights that another run has left, as for ``counterpoise retrain-classifier``, are of its seed
    too: they are known by its config in place of their path.
    """
    content: dict[str, object] = _without_own_keys(config)
    if config.MODEL.WEIGHTS:
        weights = Path(config.MODEL.WEIGHTS)
        with suppress(UserError):  # not in the folder of a run
            if source := Run(weights.parent).config:
                content["MODEL.WEIGHTS"] = weights.name, *_without_own_keys(source).items()
    return tuple(content.items())


def _without_own_keys(config: CfgNode) -> dict[str, str]:
    return {key: value for key, value in shown_values(config).items() if key not in OWN_KEYS}


def _common_name(names: Sequence[str]) -> str:
    """What names have in common besides the seed, such as ``focal`` of ``focal-seed1``."""
    if len(names) == 1:
        return names[0]
    common = {re.sub(r"[-_./ ]*(seed[-_ ]*\d+|\d+$)", "", name) for name in names} - {""}
    return common.pop() if len(common) == 1 else names[0]
