"""What runs took, and how they were set up."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from counterpoise.comparison.results import RunCost
from counterpoise.comparison.runs import ComparedRun
from counterpoise.comparison.sides import OWN_KEYS, Side
from counterpoise.reporting import Run
from counterpoise.reporting.config_difference import shown_values

#: Iterations that do not count: memory is allocated, kernels are chosen, files are not cached yet.
WARM_UP = 20


def run_costs(sides: Sequence[Side]) -> tuple[RunCost, ...]:
    """Time of each side, mean over its runs, and its ratio to that of the first."""
    seconds = [_mean_seconds(side) for side in sides]
    costs = []
    for side, own in zip(sides, seconds, strict=True):
        pairs = zip(own, seconds[0], strict=True)
        ratios = _Seconds(*(a / b if a is not None and b else None for a, b in pairs))
        records = [run.files.record for run in side.runs if run.files.record]
        hardware = "; ".join(dict.fromkeys(record.hardware for record in records))
        costs.append(
            RunCost(
                name=side.name,
                folders=tuple(str(run.files.path) for run in side.runs),
                seeds=side.seeds,
                command=records[0].command if records else None,
                hardware=hardware or None,
                seconds_per_iteration=own.iteration,
                training_seconds=own.training,
                seconds_per_image=own.image,
                iteration_ratio=ratios.iteration,
                training_ratio=ratios.training,
                inference_ratio=ratios.image,
            )
        )
    return tuple(costs)


def different_settings(sides: Sequence[Side]) -> dict[str, dict[str, str | None]]:
    """Config keys in which sides differ, with the value by side; None where one lacks the key.

    ``OUTPUT_DIR`` always differs and is left out, ``SEED`` where a side has several. A run without
    a config differs in nothing.
    """
    configs = {
        side.name: shown_values(side.runs[0].files.config)
        for side in sides
        if side.runs[0].files.config is not None
    }
    own = OWN_KEYS if any(len(side.runs) > 1 for side in sides) else ("OUTPUT_DIR",)
    keys = sorted({key for config in configs.values() for key in config} - set(own))
    return {
        key: {side.name: configs.get(side.name, {}).get(key) for side in sides}
        for key in keys
        if len({config.get(key) for config in configs.values()}) > 1
    }


class _Seconds(NamedTuple):
    """Of an iteration, of the training, and of an image at inference."""

    iteration: float | None
    training: float | None
    image: float | None


def _mean_seconds(side: Side) -> _Seconds:
    columns = zip(*map(_seconds, side.runs), strict=True)
    return _Seconds(*(None if None in own else fmean(own) for own in columns))


def _seconds(run: ComparedRun) -> _Seconds:
    record = run.files.record
    training = (record.training_seconds or None) if record else None
    return _Seconds(_seconds_per_iteration(run.files), training, run.test_set.seconds_per_image)


def _seconds_per_iteration(run: Run) -> float | None:
    """Median of what Detectron2 logs, each a median over 20 iterations itself."""
    series = run.metrics.get("time")
    if series is None:
        return None
    warm = series.values[series.iterations >= WARM_UP]
    return float(np.median(warm if len(warm) else series.values))
