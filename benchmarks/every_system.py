"""Train every loss and sampler that the project offers for a few steps and see its loss fall.

    DETECTRON2_DATASETS=... python benchmarks/every_system.py --dataset bccd

One row per system: the median total loss over the first and over the last 20 of 60 steps of the
quick model. It shows that a system trains, not how well it detects; for that see quick_configs.py.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
STEPS = 60

#: system -> config file under configs/ and overrides
SYSTEMS: dict[str, tuple[str, list[str]]] = {
    "cross-entropy": ("quick/baseline", []),
    "alpha-balanced cross-entropy": (
        "quick/baseline", ["BALANCE.CLASS_WEIGHTS.SOURCE", "dataset"],
    ),
    "softmax focal": ("quick/focal", []),
    "softmax focal, weights of the dataset": ("quick/focal_weights", []),
    "softmax focal, weights of the batch": (
        "quick/focal_weights", ["BALANCE.CLASS_WEIGHTS.SOURCE", "batch"],
    ),
    "sigmoid focal": ("quick/focal", ["BALANCE.ROI_LOSS.NAME", "sigmoid_focal"]),
    "OHEM in the RPN": ("quick/ohem", []),
    "OHEM in the RPN with NMS": ("quick/ohem", ["BALANCE.ANCHOR_SAMPLER.NMS_THRESH", "0.7"]),
    "OHEM in the RPN, all proposals in the head": (
        "quick/ohem", ["BALANCE.ROI_SAMPLER.NAME", "all"],
    ),
    "OHEM in the head": ("quick/baseline", ["BALANCE.ROI_SAMPLER.NAME", "ohem"]),
    "the documents' detector": ("quick/documents", []),
    "RetinaNet, focal": ("quick_retinanet/focal", []),
    "RetinaNet, focal with alpha by frequency": ("quick_retinanet/focal_frequency", []),
    "RetinaNet, alpha-balanced cross-entropy": ("quick_retinanet/cross_entropy", []),
    "RetinaNet, OHEM": ("quick_retinanet/ohem", []),
    "RetinaNet, OHEM 1:3": ("quick_retinanet/ohem_ratio", []),
}  # fmt: skip


def train(config: str, overrides: list[str], dataset: str, folder: Path) -> list[float]:
    """Train for STEPS steps in a process of its own; return the total loss of every step."""
    subprocess.run(
        [
            sys.executable, ROOT / "train_net.py", "--overwrite",
            "--config-file", ROOT / "configs" / f"{config}.yaml",
            "--config-file", ROOT / "configs" / "datasets" / f"{dataset}.yaml",
            "OUTPUT_DIR", folder, "SOLVER.MAX_ITER", str(STEPS), "SOLVER.STEPS", "()",
            "DATASETS.TEST", "()", *overrides,
        ],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    lines = (folder / "metrics.json").read_text().splitlines()
    return [step["total_loss"] for step in map(json.loads, lines) if "total_loss" in step]


def main() -> int:
    """Run the benchmark from the command line; exit code 1 if a loss does not fall."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="bccd", help="a file of configs/datasets")
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "every_system")
    args = parser.parse_args()
    rows = []
    for number, (system, (config, overrides)) in enumerate(SYSTEMS.items()):
        losses = train(config, overrides, args.dataset, args.out / str(number))
        rows.append([system, losses[0], losses[-1], "yes" if losses[-1] < losses[0] else "no"])
        print(tabulate(rows[-1:], tablefmt="plain", floatfmt=".3f"), flush=True)
    headers = ["system", "loss, first 20 steps", "loss, last 20 steps", "falls"]
    print("\n" + tabulate(rows, headers, tablefmt="github", floatfmt=".3f"))
    return int(any(row[-1] == "no" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
