"""Train the six quick configs on a dataset and tabulate their average precision.

    python benchmarks/quick_configs.py bccd --out output/benchmark

Every run is a process of its own, ``train_net.py`` with the config and the dataset file. A run that
is already finished in the output folder is not repeated. The table goes to the terminal and, with
the machine, to ``<out>/<dataset>.md``.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from tabulate import tabulate

from counterpoise.training.run_record import hardware

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ("baseline", "ohem", "focal", "focal_weights", "focal_weights_ohem", "documents")


def train(config: str, dataset: str, folder: Path, seed: int) -> float:
    """Train one config unless it is finished; return the minutes that it took."""
    clock = folder / "minutes.txt"
    if clock.is_file():
        return float(clock.read_text())
    started = time.perf_counter()
    subprocess.run(
        [
            sys.executable, ROOT / "train_net.py", "--overwrite",
            "--config-file", ROOT / "configs" / "quick" / f"{config}.yaml",
            "--config-file", ROOT / "configs" / "datasets" / f"{dataset}.yaml",
            "OUTPUT_DIR", folder, "SEED", str(seed),
        ],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    minutes = (time.perf_counter() - started) / 60
    clock.write_text(f"{minutes:.2f}\n")
    return minutes


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="a file of configs/datasets, without .yaml")
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "benchmark")
    parser.add_argument("--configs", nargs="+", default=CONFIGS, choices=CONFIGS)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    rows, names = [], []
    for config in args.configs:
        folder = args.out / f"{args.dataset}-{config}-seed{args.seed}"
        print(f"{config}: training into {folder}", flush=True)
        minutes = train(config, args.dataset, folder, args.seed)
        (result,) = json.loads((folder / "evaluation.json").read_text()).values()
        per_class = sorted(result["per_class"], key=lambda c: -c["train_boxes"])
        names = [f"{c['name']} ({c['train_boxes']})" for c in per_class]
        rows.append([config, result["AP"], result["AP50"], *(c["AP"] for c in per_class), minutes])
    headers = ["config", "AP", "AP50", *names, "minutes"]
    table = tabulate(rows, headers, tablefmt="github", floatfmt=".1f", missingval="-")
    machine = f"{hardware()}, torch {torch.__version__}, fp32"
    note = f"{args.dataset}, one seed ({args.seed}), {machine}"
    (args.out / f"{args.dataset}.md").write_text(f"{note}\n\n{table}\n")
    print(f"\n{note}\n\n{table}")


if __name__ == "__main__":
    main()
