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
    iteration = [_seconds_per_iteration(run.files) for run in runs]
    records = [run.files.record for run in runs]
    training = [
        record.training_seconds if record is not None and record.training_seconds > 0 else None
        for record in records
    ]
    return tuple(
        RunCost(
            name=run.name,
            folder=str(run.files.path),
            command=record.command if record else None,
            hardware=record.hardware if record else None,
            seconds_per_iteration=iteration[i],
            training_seconds=training[i],
            seconds_per_image=run.test_set.seconds_per_image,
            iteration_ratio=_ratio(iteration[i], iteration[0]),
            training_ratio=_ratio(training[i], training[0]),
            inference_ratio=_ratio(
                run.test_set.seconds_per_image, runs[0].test_set.seconds_per_image
            ),
        )
        for i, (run, record) in enumerate(zip(runs, records, strict=True))
    )


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


def _seconds_per_iteration(run: Run) -> float | None:
    """Median of what Detectron2 logs, each a median over 20 iterations itself."""
    series = run.metrics.get("time")
    if series is None:
        return None
    warm = series.values[series.iterations >= WARM_UP]
    return float(np.median(warm if len(warm) else series.values))


def _ratio(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else value / reference
