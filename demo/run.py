"""Show on synthetic parts what the plugin does to rare classes, from data to table.

Draws a long-tailed dataset, trains Detectron2's baseline and the recommended configuration on the
same budget, evaluates and compares both, draws their detections, and ends with a table.
Nothing is downloaded. Usage: ``make demo`` or ``python demo/run.py [--out DIR]``.
"""

import argparse
import re
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import cv2
import numpy as np
import yaml
from tqdm import tqdm

from counterpoise.commands.console import silence_known_noise
from counterpoise.comparison import Comparison, compare, read_runs, score, sides_of
from counterpoise.comparison.sections import RunTables, as_page
from counterpoise.errors import UserError
from counterpoise.evaluation import GroundTruth
from counterpoise.evaluation.matching import corners
from counterpoise.evaluation.stored import read_inference
from counterpoise.pages.drawing import draw_boxes
from counterpoise.pages.figures import palette
from counterpoise.utils.files import write_atomically
from make_dataset import DatasetPaths, make_dataset

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ("baseline", "recommended")
STEPS = 450  # 3 epochs; two trainings of two minutes on two CPU cores
SCHEDULE = ["SOLVER.MAX_ITER", str(STEPS), "SOLVER.STEPS", "(300, 405)"]


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


def choose_images(truth: GroundTruth, number: int = 4) -> list[int]:
    """Images with the most boxes of the rarer half of the classes."""
    rare = np.argsort(truth.boxes_per_class())[: truth.num_classes // 2]
    boxes = truth.images[np.isin(truth.classes, rare)]
    return np.argsort(-np.bincount(boxes, minlength=truth.num_images), kind="stable")[
        :number
    ].tolist()


def panel(
    image: np.ndarray, boxes: np.ndarray, labels: list[str], classes: np.ndarray
) -> np.ndarray:
    """Draw boxes (n, 4) XYWH with their labels on a copy of an image at twice its size."""
    large = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    colours = palette(classes.max(initial=0) + 1)
    return draw_boxes(large, 2 * corners(boxes), labels, [colours[c] for c in classes])


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


def draw(out: Path) -> Path:
    """Draw ground truth beside the detections of both models.

    Scores under focal loss and cross-entropy mean different things, so there is no common score
    threshold: each model shows as many boxes as the image has objects, its most confident ones.
    """
    runs = [read_inference(out / config, "parts_test") for config in CONFIGS]
    truth = runs[0].ground_truth
    rows = []
    for i in choose_images(truth):
        pixels = cv2.cvtColor(cv2.imread(truth.file_names[i]), cv2.COLOR_BGR2RGB)
        own = np.flatnonzero(truth.images == i)
        labels = [truth.class_names[c] for c in truth.classes[own]]
        row = [panel(pixels, truth.boxes[own], labels, truth.classes[own])]
        for found in (run.detections for run in runs):
            best = np.flatnonzero(found.images == i)
            best = best[np.argsort(-found.scores[best])][: len(own)][::-1]
            labels = [f"{truth.class_names[found.classes[d]]} {found.scores[d]:.2f}" for d in best]
            row.append(panel(pixels, found.boxes[best], labels, found.classes[best]))
        rows.append(titled(row, ["ground truth", *CONFIGS]))
    picture = out / "detections.png"
    if not cv2.imwrite(str(picture), cv2.cvtColor(cv2.vconcat(rows), cv2.COLOR_RGB2BGR)):
        raise UserError(f"{picture} cannot be written: make room for it")
    return picture


def compare_runs(out: Path) -> Comparison:
    """Compare both runs and write the page, as ``counterpoise compare`` does."""
    test_set, runs = read_runs([out / config for config in CONFIGS])
    sides = sides_of(score(runs))
    comparison = compare(test_set, sides)
    write_atomically(out / "compare.html", as_page(comparison, sides))
    return comparison


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
        print("4/4  comparing both and drawing detections", flush=True)
        comparison = compare_runs(out)
        picture = draw(out)
    except (UserError, RuntimeError, OSError) as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    minutes = (time.monotonic() - started) / 60
    table = RunTables(comparison, comparison.others, ("base", "run")).scores()
    print(f"\nbase: {CONFIGS[0]}, run: {CONFIGS[1]}\n{table.as_text()}\n")
    print(f"Took {minutes:.1f} minutes. In {out}:")
    print(f"  {picture.name}: detections beside ground truth")
    print("  compare.html: what became of each class and each error type")
    print("  baseline/, recommended/: report.html, evaluation.json, checkpoints, logs")
    print(f"  {data.name}, parts/: the dataset and the config that names it\n")
    print("Train on your own data: describe it as that file does, then")
    print("  .venv/bin/python train_net.py --config-file configs/quick/recommended.yaml \\")
    print("      --config-file my_data.yaml OUTPUT_DIR output/mine")
    return 0


if __name__ == "__main__":
    sys.exit(main())
