"""Synthetic ground truth and detections in COCO form, and what pycocotools makes of them."""

import contextlib
import copy
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from counterpoise.evaluation import evaluate_detections

#: The order of pycocotools' summary.
SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100")


def scene(images=20, classes=3, seed=0, first_id=1):
    """Ground truth and detections that are partly right."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    for image in range(images):
        for _ in range(rng.integers(1, 6)):
            x, y, w, h = rng.uniform(0, 60), rng.uniform(0, 60), *rng.uniform(8, 30, 2)
            category = int(rng.integers(classes))
            annotations.append(
                {"image_id": image, "category_id": category, "bbox": [x, y, w, h], "iscrowd": 0}
            )
            jitter = rng.normal(0, 2, 4)
            detections.append(
                {
                    "image_id": image,
                    "category_id": category if rng.random() < 0.8 else int(rng.integers(classes)),
                    "bbox": [x + jitter[0], y + jitter[1], w + abs(jitter[2]), h + abs(jitter[3])],
                    "score": float(rng.random()),
                }
            )
    for number, annotation in enumerate(annotations, start=first_id):
        annotation["id"] = number
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    truth = {
        "info": {},
        "images": [{"id": i, "height": 100, "width": 100} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in range(classes)],
    }
    return truth, detections


def crowded_scene(seed=0, images=30, classes=4):
    """A scene with ignored regions, equal scores and several detections of one box."""
    truth, detections = scene(images, classes, seed)
    rng = np.random.default_rng(seed + 1000)
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = int(rng.random() < 0.15)
    for detection in detections:
        detection["score"] = round(detection["score"], 1)
    again = [{**d, "score": float(rng.random())} for d in detections if rng.random() < 0.4]
    return truth, detections + again


def pycocotools_evaluation(truth, detections):
    """Evaluated and accumulated; annotation ids must start at 1."""
    with contextlib.redirect_stdout(None):
        coco, results = COCO(), COCO()
        coco.dataset = copy.deepcopy({"info": {}, **truth})
        coco.createIndex()
        results.dataset = {**coco.dataset, "annotations": [
            {**d, "id": i, "iscrowd": 0, "area": d["bbox"][2] * d["bbox"][3]}
            for i, d in enumerate(detections, start=1)
        ]}  # fmt: skip
        results.createIndex()
        evaluation = COCOeval(coco, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def pycocotools_stats(truth, detections):
    """The twelve numbers of the summary, 0-100; -100 for what does not occur."""
    return 100 * pycocotools_evaluation(truth, detections).stats


def assert_equals_pycocotools(truth, detections):
    """Compare the nine metrics to 1e-9; returns our evaluation."""
    ours, stats = evaluate_detections(truth, detections), pycocotools_stats(truth, detections)
    expected = [None if value == -100 else pytest.approx(value, abs=1e-9) for value in stats[:9]]
    assert [getattr(ours, name) for name in SUMMARY] == expected
    return ours


def stored(run_dir):
    """Ground truth and detections that a run has kept, in COCO form."""
    (folder,) = (run_dir / "inference").iterdir()
    return tuple(
        json.loads((folder / f"{name}.json").read_text()) for name in ("ground_truth", "detections")
    )
