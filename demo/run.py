"""Show on made-up parts what the plugin does to rare classes, from data to table.

Draws a long-tailed dataset, trains Detectron2's baseline and focal loss with class weights and OHEM
on the same budget, evaluates both, draws their detections, and ends with a table. Nothing is
downloaded. Usage: ``make demo`` or ``python demo/run.py [--out DIR]``.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from tabulate import tabulate
from tqdm import tqdm

from counterpoise.checkpoint import BalancedCheckpointer
from counterpoise.cli import silence_known_noise
from counterpoise.config import load_config
from counterpoise.engine import BalancedTrainer
from counterpoise.errors import UserError
from counterpoise.preparation import prepare
from make_dataset import DatasetPaths, make_dataset

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ("baseline", "focal_weights_ohem")
STEPS = 750  # 5 epochs; two trainings of four minutes on two CPU cores
SCHEDULE = ["SOLVER.MAX_ITER", str(STEPS), "SOLVER.STEPS", "(500, 675)"]
COLOURS = [(60, 180, 75), (230, 150, 0), (75, 75, 230), (200, 60, 200), (0, 190, 230), (60, 60, 60)]


def write_config(paths: DatasetPaths, folder: Path) -> Path:
    """Write the config file that names the dataset, as a user would for their own."""
    sets = {
        f"parts_{split}": {
            "FORMAT": "coco",
            "IMAGES": str(images.relative_to(folder)),
            "ANNOTATIONS": str(labels.relative_to(folder)),
        }
        for split, images, labels in (
            ("train", paths.train_images, paths.train_json),
            ("test", paths.test_images, paths.test_json),
        )
    }
    content = {"DATASETS": {"CUSTOM": sets, "TRAIN": ["parts_train"], "TEST": ["parts_test"]}}
    file = folder / "parts.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def command(config: str, data: Path, out: Path) -> list[str]:
    """The command that trains and evaluates one config."""
    return [
        sys.executable, str(ROOT / "train_net.py"), "--overwrite",
        "--config-file", str(ROOT / "configs" / "quick" / f"{config}.yaml"),
        "--config-file", str(data),
        "OUTPUT_DIR", str(out), *SCHEDULE,
    ]  # fmt: skip


def train(config: str, data: Path, out: Path) -> None:
    """Run one training in a process of its own and show how far it is.

    Raises:
        RuntimeError: it failed; the message holds the end of its output.
    """
    tail: deque[str] = deque(maxlen=20)
    process = subprocess.Popen(
        command(config, data, out),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    with process, tqdm(total=STEPS, unit="step", desc=config, smoothing=0.1) as bar:
        for line in process.stdout or ():
            tail.append(line)
            if step := re.search(r"\biter: (\d+)", line):
                bar.update(int(step[1]) + 1 - bar.n)
            elif tested := re.search(r"Inference done (\d+)/(\d+)", line):
                bar.set_postfix_str(f"evaluating image {tested[1]} of {tested[2]}")
    if process.returncode:
        raise RuntimeError(f"training {config} failed:\n{''.join(tail)}")


def trained_config(config: str, data: Path, out: Path) -> CfgNode:
    """The config of a finished training, ready to run its model."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    files = [ROOT / "configs" / "quick" / f"{config}.yaml", data]
    weights = str(out / config / "model_final.pth")
    cfg = load_config(files, ["MODEL.WEIGHTS", weights, "MODEL.DEVICE", device])
    prepare(cfg, eval_only=True)
    return cfg


def detect(cfg: CfgNode, records: list[dict]) -> list[Instances]:
    """Run a trained model on images of the test set."""
    model = BalancedTrainer.build_model(cfg).eval()
    BalancedCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    loader = BalancedTrainer.build_test_loader(cfg, "parts_test")
    wanted = {record["image_id"] for record in records}
    found = {}
    with torch.no_grad():
        for (image,) in loader:
            if image["image_id"] in wanted:
                found[image["image_id"]] = model([image])[0]["instances"].to("cpu")
    return [found[record["image_id"]] for record in records]


def choose_images(records: list[dict], counts: list[int], number: int = 4) -> list[dict]:
    """Images with the most boxes of the rarer half of the classes."""
    order = sorted(range(len(counts)), key=lambda c: counts[c])
    rare = set(order[: len(counts) // 2])
    return sorted(records, key=lambda r: -sum(a["category_id"] in rare for a in r["annotations"]))[
        :number
    ]


def panel(
    image: np.ndarray, boxes: np.ndarray, labels: list[str], classes: list[int]
) -> np.ndarray:
    """Draw boxes with their labels on a copy of an image at twice its size."""
    drawn = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    for box, label, category in zip(boxes, labels, classes, strict=True):
        x0, y0, x1, y1 = (2 * box).round().astype(int).tolist()
        colour = COLOURS[category % len(COLOURS)]
        cv2.rectangle(drawn, (x0, y0), (x1, y1), colour, 2)
        (width, height), _ = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
        top = max(y0 - height - 6, 0)
        cv2.rectangle(drawn, (x0, top), (x0 + width + 4, top + height + 6), colour, cv2.FILLED)
        cv2.putText(
            drawn, label, (x0 + 2, top + height + 2), cv2.FONT_HERSHEY_SIMPLEX, 0.45,
            (255, 255, 255), 1, cv2.LINE_AA,
        )  # fmt: skip
    return drawn


def titled(row: list[np.ndarray], titles: list[str]) -> np.ndarray:
    """Put panels side by side under their titles."""
    columns = []
    for image, title in zip(row, titles, strict=True):
        bar = np.full((34, image.shape[1], 3), 255, np.uint8)
        cv2.putText(bar, title, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.65, (0, 0, 0), 1, cv2.LINE_AA)
        columns.append(
            cv2.copyMakeBorder(
                cv2.vconcat([bar, image]), 0, 4, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255)
            )
        )
    return cv2.hconcat(columns)


def draw(data: Path, out: Path, counts: list[int]) -> Path:
    """Draw ground truth beside the detections of both models.

    Scores under focal loss and cross-entropy mean different things, so there is no common score
    threshold: each model shows as many boxes as the image has objects, its most confident ones.
    """
    configs = [trained_config(config, data, out) for config in CONFIGS]
    records = choose_images(DatasetCatalog.get("parts_test"), counts)
    names = MetadataCatalog.get("parts_test").thing_classes
    detections = [detect(cfg, records) for cfg in configs]
    rows = []
    for i, record in enumerate(records):
        image = cv2.imread(record["file_name"])
        truth = record["annotations"]
        classes = [a["category_id"] for a in truth]
        boxes = np.array([a["bbox"] for a in truth])
        row = [panel(image, boxes, [names[c] for c in classes], classes)]
        for found in detections:
            best: Instances = found[i][found[i].scores.argsort(descending=True)[: len(truth)]]
            predicted: Boxes = best.pred_boxes
            classes = best.pred_classes.tolist()
            labels = [f"{names[c]} {s:.2f}" for c, s in zip(classes, best.scores, strict=True)]
            row.append(panel(image, predicted.tensor.numpy(), labels, classes))
        rows.append(titled(row, ["ground truth", *CONFIGS]))
    picture = out / "detections.png"
    cv2.imwrite(str(picture), cv2.vconcat(rows))
    return picture


def results_table(out: Path) -> str:
    """Average precision per class of both runs and the difference, rarest class last."""
    runs = [json.loads((out / c / "evaluation.json").read_text())["parts_test"] for c in CONFIGS]
    rows = []
    for first, second in zip(*(run["per_class"] for run in runs), strict=True):
        names = (first["name"], first["train_boxes"])
        rows.append([*names, first["AP"], second["AP"], first["AP50"], second["AP50"]])
    rows.sort(key=lambda row: -row[1])
    half = len(rows) // 2
    for name, part in (("frequent half", rows[:half]), ("rare half", rows[half:]), ("all", rows)):
        rows = [*rows, [f"mean, {name}", None, *np.mean([row[2:] for row in part], axis=0)]]
    rows = [[*row[:4], row[3] - row[2], *row[4:]] for row in rows]
    first, second = CONFIGS
    headers = [
        "class",
        "training boxes",
        f"AP {first}",
        f"AP {second}",
        "difference",
        f"AP50 {first}",
        f"AP50 {second}",
    ]
    formats = ("", "g", ".1f", ".1f", "+.1f", ".1f", ".1f")
    return tabulate(rows, headers, tablefmt="simple", floatfmt=formats, missingval="")


def main() -> int:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "demo", help="folder to use")
    parser.add_argument("--seed", type=int, default=0, help="of the dataset")
    args = parser.parse_args()
    silence_known_noise()
    out, started = args.out.resolve(), time.monotonic()
    try:
        out.mkdir(parents=True, exist_ok=True)
        print("1/4  drawing the dataset: 300 training and 120 test images", flush=True)
        paths = make_dataset(out / "parts", seed=args.seed)
        data = write_config(paths, out)
        for step, config in enumerate(CONFIGS, start=2):
            print(f"{step}/4  training and evaluating {config}", flush=True)
            train(config, data, out / config)
        print("4/4  drawing detections", flush=True)
        runs = json.loads((out / CONFIGS[0] / "evaluation.json").read_text())["parts_test"]
        picture = draw(data, out, [c["train_boxes"] for c in runs["per_class"]])
    except (UserError, RuntimeError) as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    minutes = (time.monotonic() - started) / 60
    print(f"\n{results_table(out)}\n")
    print("Both runs had the same budget and seed; one seed says little about small differences.")
    print(f"Took {minutes:.1f} minutes. In {out}:")
    print(f"  {picture.name}: detections beside ground truth")
    print("  baseline/, focal_weights_ohem/: checkpoints, logs, evaluation.json")
    print(f"  {data.name}, parts/: the dataset and the config that names it\n")
    print("Train on your own data: describe it as that file does, then")
    print("  .venv/bin/python train_net.py --config-file configs/quick/focal_weights.yaml \\")
    print("      --config-file my_data.yaml OUTPUT_DIR output/mine")
    return 0


if __name__ == "__main__":
    sys.exit(main())
