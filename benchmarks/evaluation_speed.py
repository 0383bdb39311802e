"""Time the evaluation against pycocotools, as ratios within one run.

    python benchmarks/evaluation_speed.py                                # the synthetic large set
    python benchmarks/evaluation_speed.py --run output/bccd              # a run's own detections

This times COCO's metrics alone, by pycocotools and as the evaluation computes them, and the whole
evaluation with Pascal VOC's metrics, 1,000 bootstrap resamples, error types, confusion matrix
and operating points. It checks that all give the same AP. The repetitions alternate; printed are
medians and ranges.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from counterpoise.evaluation.coco_metrics import coco_metrics
from counterpoise.evaluation.inputs import Detections, GroundTruth
from counterpoise.evaluation.scoring import evaluate_arrays
from counterpoise.evaluation.stored import read_inference, stored_test_sets
from counterpoise.training.run_record import hardware


def large_set(
    images: int = 5000, classes: int = 80, per_image: int = 100, seed: int = 0
) -> tuple[GroundTruth, Detections]:
    """Random boxes of long-tailed classes, and detections of which a third lie near one.

    Args:
        images: I.
        classes: K; class k occurs in proportion to 1 / (k + 1).
        per_image: detections per image.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    number = rng.poisson(6, images) + 1
    image = np.repeat(np.arange(images), number)
    frequency = 1 / np.arange(1, classes + 1)
    boxes = np.c_[rng.uniform(0, 450, (len(image), 2)), rng.uniform(10, 150, (len(image), 2))]
    truth = GroundTruth(
        class_names=tuple(f"class {k}" for k in range(classes)),
        image_ids=tuple(range(images)),
        file_names=("",) * images,
        boxes=boxes,
        areas=boxes[:, 2:].prod(axis=1),
        classes=rng.choice(classes, len(image), p=frequency / frequency.sum()),
        images=image,
        ignored=rng.random(len(image)) < 0.01,
    )
    found = np.repeat(np.arange(images), per_image)
    first = np.cumsum(number) - number
    source = first[found] + (rng.random(len(found)) * number[found]).astype(int)
    near = rng.random(len(found)) < 1 / 3
    moved = boxes[source] + rng.normal(0, 6, (len(found), 4))
    moved[:, 2:] = np.maximum(moved[:, 2:], 1)
    elsewhere = boxes[rng.integers(len(boxes), size=len(found))]
    right = near & (rng.random(len(found)) < 0.9)
    return truth, Detections(
        boxes=np.where(near[:, None], moved, elsewhere),
        scores=rng.random(len(found)) * np.where(near, 1, 0.6),
        classes=np.where(right, truth.classes[source], rng.integers(classes, size=len(found))),
        images=found,
    )


def pycocotools_ap(truth: GroundTruth, found: Detections) -> float:
    """AP by pycocotools, 0-100, the building of its dictionaries included."""

    def dataset(annotations: list[dict]) -> COCO:
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(truth.num_images)],
            "categories": [{"id": k, "name": name} for k, name in enumerate(truth.class_names)],
            "annotations": annotations,
        }
        coco.createIndex()
        return coco

    def records(part: GroundTruth | Detections, areas: np.ndarray) -> list[dict]:
        columns = zip(
            part.images.tolist(), part.classes.tolist(), part.boxes.tolist(), areas.tolist(),
            strict=True,
        )  # fmt: skip
        return [
            {"id": i, "image_id": image, "category_id": k, "bbox": box, "area": area, "iscrowd": 0}
            for i, (image, k, box, area) in enumerate(columns, start=1)
        ]

    annotations = records(truth, truth.areas)
    for annotation, crowd in zip(annotations, truth.ignored.tolist(), strict=True):
        annotation["iscrowd"] = int(crowd)
    results = records(found, found.boxes[:, 2:].prod(axis=1))
    for result, score in zip(results, found.scores.tolist(), strict=True):
        result["score"] = score
    with contextlib.redirect_stdout(None):
        evaluation = COCOeval(dataset(annotations), dataset(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * float(evaluation.stats[0])


def seconds(work: Callable[[], object]) -> tuple[float, object]:
    """Time one call; return the seconds and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="OUTPUT_DIR of an evaluated run")
    parser.add_argument("--images", type=int, default=5000, help="of the synthetic set")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.run:
        stored = read_inference(args.run, stored_test_sets(args.run)[0])
        truth, found = stored.ground_truth, stored.detections
    else:
        truth, found = large_set(args.images)
    print(
        f"{truth.num_images} images, {truth.num_classes} classes, {len(truth.boxes)} boxes, "
        f"{len(found)} detections; {hardware()}"
    )
    parts = {
        "COCO metrics, pycocotools": lambda: pycocotools_ap(truth, found),
        "COCO metrics, as used here": lambda: coco_metrics(truth, found).summary["AP"],
        "whole evaluation": lambda: evaluate_arrays(truth, found).AP,
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(args.repeats):
        values = []
        for name, work in parts.items():
            taken, value = seconds(work)
            times[name].append(taken)
            values.append(value)
        if max(values) - min(values) > 1e-9:
            raise SystemExit(f"the results differ: {values}")
    reference = statistics.median(times["COCO metrics, pycocotools"])
    rows = [
        (name, statistics.median(taken), f"{min(taken):.2f}-{max(taken):.2f}",
         statistics.median(taken) / reference)
        for name, taken in times.items()
    ]  # fmt: skip
    headers = ("", "seconds (median)", "range", "ratio to pycocotools")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=".2f"))


if __name__ == "__main__":
    main()
