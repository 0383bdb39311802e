"""Time how long a training step waits for its images, with one worker.

    DETECTRON2_DATASETS=... python benchmarks/loader.py            # BCCD, Aquarium and Dental
    DETECTRON2_DATASETS=... python benchmarks/loader.py --speed auto --datasets bccd

A model of ``configs/quick`` trains on each dataset as ``counterpoise train`` does. The table gives
the time of a step, the part of it in which the step waits for its batch, and the processor time in
which one process loads such a batch, all of them without the first steps, which fill the queue.
"""

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from tabulate import tabulate

from counterpoise.commands.console import silence_known_noise
from counterpoise.config.loading import load_config
from counterpoise.config.preparation import prepare
from counterpoise.training.run_record import hardware
from counterpoise.training.trainer import BalancedTrainer

ROOT = Path(__file__).resolve().parents[1]
FILLING = 3  # steps


def config(dataset: str, workers: int, *overrides: str) -> CfgNode:
    """A quick model on a dataset, prepared."""
    files = ["quick/focal_weights_ohem.yaml", ROOT / "configs" / "datasets" / f"{dataset}.yaml"]
    keys = ["MODEL.WEIGHTS", "", "DATALOADER.NUM_WORKERS", str(workers), "DATASETS.TEST", "()"]
    if not torch.cuda.is_available():
        keys += ["MODEL.DEVICE", "cpu"]
    cfg = load_config(files, [*keys, *overrides])
    prepare(cfg)
    return cfg


def train(cfg: CfgNode, steps: int) -> tuple[list[float], list[float]]:
    """Train; return the seconds of each step, and those of it that wait for data."""
    trainer = BalancedTrainer(cfg)
    trainer.model.train()
    seconds, waits = [], []
    inner = trainer._trainer  # the loop below DefaultTrainer, which reports the waiting time
    with EventStorage() as storage:
        inner.iter = 0
        for _ in range(FILLING + steps):
            started = time.perf_counter()
            inner.run_step()
            seconds.append(time.perf_counter() - started)
            waits.append(storage.history("data_time").latest())
            storage.step()
            inner.iter += 1
    return seconds[FILLING:], waits[FILLING:]


def seconds_to_load(cfg: CfgNode, batches: int) -> float:
    """Median processor time in which this process loads a batch."""
    loader = iter(BalancedTrainer.build_train_loader(cfg))
    next(loader)
    taken = []
    for _ in range(batches):
        started = time.process_time()
        next(loader)
        taken.append(time.process_time() - started)
    return statistics.median(taken)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", nargs="+", default=["bccd", "aquarium", "dental"])
    parser.add_argument("--steps", type=int, default=40, help="per dataset (default 40)")
    parser.add_argument("--speed", default="stock", help="MODEL.SPEED (default stock)")
    args = parser.parse_args()
    silence_known_noise()
    logging.disable(logging.WARNING)
    rows = []
    with tempfile.TemporaryDirectory() as out:
        for dataset in args.datasets:
            overrides = ("MODEL.SPEED", args.speed, "OUTPUT_DIR", out)
            load = seconds_to_load(config(dataset, 0, *overrides), args.steps)
            seconds, waits = train(config(dataset, 1, *overrides), args.steps)
            rows.append(
                (dataset, statistics.median(seconds), 100 * sum(waits) / sum(seconds),
                 1000 * statistics.median(waits), 1000 * load)
            )  # fmt: skip
    print(
        f"one worker, {torch.get_num_threads()} threads, MODEL.SPEED {args.speed}, {hardware()}\n"
    )
    headers = ("dataset", "step (s, median)", "waiting (%)", "waiting (ms, median)",
               "loading a batch (ms)")  # fmt: skip
    print(tabulate(rows, headers, tablefmt="github", floatfmt=("", ".3f", ".2f", ".2f", ".1f")))


if __name__ == "__main__":
    main()
