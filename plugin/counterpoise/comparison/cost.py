"""What runs took, and how they were set up."""

from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode

from counterpoise.comparison.results import RunCost
from counterpoise.comparison.runs import Contender
from counterpoise.reporting import Run

#: Iterations that do not count: memory is allocated, kernels are chosen, files are not cached yet.
WARM_UP = 20


def run_costs(contenders: Sequence[Contender]) -> tuple[RunCost, ...]:
    """Time of each run, and its ratio to that of the first."""
    iteration = [_seconds_per_iteration(contender.run) for contender in contenders]
    records = [contender.run.record for contender in contenders]
    training = [
        record.training_seconds if record is not None and record.training_seconds > 0 else None
        for record in records
    ]
    return tuple(
        RunCost(
            name=contender.name,
            folder=str(contender.run.path),
            command=record.command if record else None,
            hardware=record.hardware if record else None,
            seconds_per_iteration=iteration[i],
            training_seconds=training[i],
            seconds_per_image=contender.seconds_per_image,
            iteration_ratio=_ratio(iteration[i], iteration[0]),
            training_ratio=_ratio(training[i], training[0]),
            inference_ratio=_ratio(contender.seconds_per_image, contenders[0].seconds_per_image),
        )
        for i, (contender, record) in enumerate(zip(contenders, records, strict=True))
    )


def different_settings(contenders: Sequence[Contender]) -> dict[str, dict[str, str | None]]:
    """Config keys in which runs differ, with the value by run; None where a run lacks the key.

    ``OUTPUT_DIR`` always differs and is left out. A run without a config differs in nothing.
    """
    configs = {c.name: _flat(c.run.config) for c in contenders if c.run.config is not None}
    keys = sorted({key for config in configs.values() for key in config} - {"OUTPUT_DIR"})
    return {
        key: {c.name: configs.get(c.name, {}).get(key) for c in contenders}
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


def _flat(config: CfgNode, prefix: str = "") -> dict[str, str]:
    """Values by dotted key, as text: an empty one can be seen as such."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, CfgNode):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) and value else repr(value)
    return flat
