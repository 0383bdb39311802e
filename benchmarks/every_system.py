"""Train every loss and sampler that the project offers for a few steps and see its loss fall.

    DETECTRON2_DATASETS=... python benchmarks/every_system.py --dataset bccd

One row per system: medians over the first and over the last 20 of 60 steps of the quick model. The
classification losses (ROI head and RPN together, or RetinaNet's) have to fall. The total is shown
beside them and may rise: its box loss starts near zero, while few proposals touch an object, and
grows as more do. That a system trains says nothing of how well it detects;
`counterpoise ablate` does.
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
    "OHEM in the RPN with NMS": ("quick/ohem", ["BALANCE.ANCHOR_SAMPLER.NMS_THRESH", "0.5"]),
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


def train(config: str, overrides: list[str], dataset: str, folder: Path) -> None:
    """Train for STEPS steps in a process of its own."""
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


def losses(folder: Path) -> list[float]:
    """Classification loss, then total loss, at the first and at the last logged step."""
    lines = (folder / "metrics.json").read_text().splitlines()
    steps = [step for step in map(json.loads, lines) if "total_loss" in step]
    ends = (steps[0], steps[-1])
    classification = [s["loss_cls"] + s.get("loss_rpn_cls", 0.0) for s in ends]
    return [*classification, *(s["total_loss"] for s in ends)]


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
        print(f"{number + 1} of {len(SYSTEMS)}: {system}", flush=True)
        folder = args.out / str(number)
        train(config, overrides, args.dataset, folder)
        first, last, *total = losses(folder)
        rows.append([system, first, last, "yes" if last < first else "no", *total])
    headers = ["system", "classification, first", "last", "falls", "total, first", "last"]
    print("\n" + tabulate(rows, headers, tablefmt="github", floatfmt=".2f"))
    return int(any("no" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
