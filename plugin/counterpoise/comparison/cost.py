"""What runs took, and how they were set up."""

from collections.abc import Sequence

import numpy as np

from counterpoise.comparison.results import RunCost
from counterpoise.comparison.runs import ComparedRun
from counterpoise.reporting import Run
from counterpoise.reporting.config_difference import shown_values

#: Iterations that do not count: memory is allocated, kernels are chosen, files are not cached yet.
WARM_UP = 20


def run_costs(runs: Sequence[ComparedRun]) -> tuple[RunCost, ...]:
    """Time of each run, and its ratio to that of the first."""
    seconds = [_seconds(run) for run in runs]
    costs = []
    for run, own in zip(runs, seconds, strict=True):
        pairs = zip(own, seconds[0], strict=True)
        ratios = [a / b if a is not None and b else None for a, b in pairs]
        record = run.files.record
        about = (record.command, record.hardware) if record else (None, None)
        costs.append(RunCost(run.name, str(run.files.path), *about, *own, *ratios))
    return tuple(costs)


def different_settings(runs: Sequence[ComparedRun]) -> dict[str, dict[str, str | None]]:
    """Config keys in which runs differ, with the value by run; None where a run lacks the key.

    ``OUTPUT_DIR`` always differs and is left out. A run without a config differs in nothing.
    """
    configs = {
        run.name: shown_values(run.files.config) for run in runs if run.files.config is not None
    }
    keys = sorted({key for config in configs.values() for key in config} - {"OUTPUT_DIR"})
    return {
        key: {run.name: configs.get(run.name, {}).get(key) for run in runs}
        for key in keys
        if len({config.get(key) for config in configs.values()}) > 1
    }


def _seconds(run: ComparedRun) -> tuple[float | None, float | None, float | None]:
    """Of an iteration, of the training, and of an image at inference."""
    record = run.files.record
    training = (record.training_seconds or None) if record else None
    return _seconds_per_iteration(run.files), training, run.test_set.seconds_per_image


def _seconds_per_iteration(run: Run) -> float | None:
    """Median of what Detectron2 logs, each a median over 20 iterations itself."""
    series = run.metrics.get("time")
    if series is None:
        return None
    warm = series.values[series.iterations >= WARM_UP]
    return float(np.median(warm if len(warm) else series.values))
