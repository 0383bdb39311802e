"""Time per training image of each augmentation, and the workers that keep a step fed.

    python benchmarks/augmentation_time.py --config-file quick/baseline.yaml \\
        --config-file configs/datasets/aquarium.yaml --step 0.5

All settings map the same images in turn, so that load from elsewhere meets them alike; the median
counts. Reading and decoding are included.
"""

import argparse
import math
import statistics
import time

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from torch import ones

from counterpoise.config.loading import load_config
from counterpoise.config.preparation import prepare
from counterpoise.datasets.composer import composer
from counterpoise.datasets.mapper import CheckedMapper, training_mapper
from counterpoise.utils.table import Table

SETTINGS = {
    "none": (),
    "COLOR_JITTER 0.4": ("INPUT.COLOR_JITTER", "0.4"),
    "SCALE_JITTER [0.5, 2]": ("INPUT.SCALE_JITTER", "[0.5, 2.0]"),
    "MOSAIC": ("INPUT.MOSAIC.PROB", "1.0"),
    "MIXUP": ("INPUT.MIXUP.PROB", "1.0"),
    "COPY_PASTE": ("INPUT.COPY_PASTE.PROB", "1.0"),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--config-file", action="append", default=[])
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--step", type=float, help="seconds of a training step without loading")
    args = parser.parse_args()
    configs = {name: load_config(args.config_file, opts) for name, opts in SETTINGS.items()}
    for cfg in configs.values():
        prepare(cfg)
    plain = configs["none"]
    records = get_detection_dataset_dicts(plain.DATASETS.TRAIN, filter_empty=False)
    mappers = {name: _mapper(cfg, records) for name, cfg in configs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in mappers}
    np.random.seed(0)
    for record in records[: args.images]:
        for name, mapper in mappers.items():
            start = time.perf_counter()
            mapper(record)
            seconds[name].append(time.perf_counter() - start)
    headers = ["augmentation", "ms per image", "times none"]
    if args.step:
        headers.append("workers")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows = []
    for name, median in medians.items():
        row = [name, f"{median * 1000:.1f}", f"{median / medians['none']:.1f}"]
        if args.step:
            row.append(str(math.ceil(median * plain.SOLVER.IMS_PER_BATCH / args.step)))
        rows.append(row)
    print(Table(headers, rows).as_text())


def _mapper(cfg: CfgNode, records: list[dict]) -> CheckedMapper:
    mapper = training_mapper(cfg)
    mapper.compose = composer(cfg, records, ones(len(records)))
    return mapper


if __name__ == "__main__":
    main()
