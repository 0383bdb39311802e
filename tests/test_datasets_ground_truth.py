"""Ground truth in COCO form: its areas are those by which pycocotools tells sizes apart."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from counterpoise.datasets import parse_specs, register_datasets
from counterpoise.datasets.ground_truth import coco_ground_truth
from counterpoise.errors import UserError
from counterpoise.evaluation import evaluate_detections

WIDTH, HEIGHT = 320, 240
CATEGORIES = {3: "leaf", 8: "twig"}
SIZES = (20, 34, 40, 50, 90, 100, 130, 160)  # sides of boxes on both sides of 32 and 96


@pytest.fixture(autouse=True)
def own_catalogues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})


def polygon_annotation(rng: np.random.Generator, side: float, number: int) -> dict[str, Any]:
    """A triangle, or two of them: half of its box, or a quarter."""
    x, y = rng.uniform(0, WIDTH - side), rng.uniform(0, HEIGHT - side)
    corners = [[x, y, x + side, y, x, y + side]]
    area = side**2 / 2
    if number % 2:
        half = side / 2
        corners = [[x, y, x + half, y, x, y + half]]
        corners += [[x + side, y + side, x + half, y + side, x + side, y + half]]
        area = side**2 / 4
    return {"bbox": [x, y, side, side], "segmentation": corners, "area": area}


def crowd_annotation() -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[10:110:2, 20:140] = 1
    runs = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0, append=0))
    counts = np.diff(runs, prepend=0, append=mask.size).tolist()
    return {
        "bbox": [20, 10, 120, 99],
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts},
        "area": int(mask.sum()),
        "iscrowd": 1,
    }


def write_coco(folder: Path, images: int = 12) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    content = {"images": [], "annotations": []}
    content["categories"] = [{"id": i, "name": name} for i, name in CATEGORIES.items()]
    for i in range(1, images + 1):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{i}.png")
        content["images"].append(
            {"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT}
        )
        found = [polygon_annotation(rng, side, i + k) for k, side in enumerate(SIZES)]
        for k, annotation in enumerate([*found, crowd_annotation()]):
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": i,
                    "category_id": (3, 8)[(i + k) % 2],
                    "iscrowd": 0,
                    **annotation,
                }
            )
    return content


def detections_near(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Detections by the file's category ids: each box a little off, and some anywhere."""
    rng = np.random.default_rng(3)
    found = []
    for annotation in content["annotations"]:
        x, y, side, _ = annotation["bbox"]
        near = [x, y, side, side] + rng.normal(0, 0.06, 4) * side
        stray = [rng.uniform(0, 150), rng.uniform(0, 150), *rng.uniform(10, 150, 2)]
        for box in (near, stray):
            found.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": annotation["category_id"],
                    "bbox": [float(v) for v in box],
                    "score": float(rng.uniform()),
                }
            )
    return found


def by_pycocotools(path: Path, detections: list[dict[str, Any]]) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * value for value in evaluation.stats[:6]]


def by_counterpoise(truth: dict[str, Any], detections: list[dict[str, Any]]) -> list[float]:
    contiguous = {key: i for i, key in enumerate(CATEGORIES)}
    detections = [d | {"category_id": contiguous[d["category_id"]]} for d in detections]
    result = evaluate_detections(truth, detections, resamples=1)
    return [result.AP, result.AP50, result.AP75, result.APs, result.APm, result.APl]


def register(door: str, folder: Path) -> str:
    if door == "custom":
        node = {"FORMAT": "coco", "IMAGES": str(folder), "ANNOTATIONS": str(folder / "a.json")}
        register_datasets(parse_specs({"trees": node}), classes=None)
    else:
        register_coco_instances("trees", {}, str(folder / "a.json"), str(folder))
    return "trees"


@pytest.mark.parametrize("stated", ["the segment's", "nine tenths", "the box's"])
@pytest.mark.parametrize("door", ["custom", "register_coco_instances"])
def test_the_sizes_of_segments_score_as_in_pycocotools(tmp_path: Path, door: str, stated: str):
    content = write_coco(tmp_path)
    for annotation in content["annotations"]:
        if stated == "nine tenths":
            annotation["area"] *= 0.9
        elif stated == "the box's":
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    (tmp_path / "a.json").write_text(json.dumps(content))
    detections = detections_near(content)
    truth = coco_ground_truth(register(door, tmp_path))
    expected = by_pycocotools(tmp_path / "a.json", detections)
    assert min(expected) > 5
    assert by_counterpoise(truth, detections) == pytest.approx(expected, abs=1e-9)
    for annotation in truth["annotations"]:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    boxes = by_counterpoise(truth, detections)
    same = [abs(a - b) < 1e-9 for a, b in zip(boxes, expected, strict=True)]
    assert same == [True] * 3 + [stated == "the box's"] * 3


@pytest.mark.parametrize("missing", [None, "none", -1, float("nan"), float("inf"), True, 10**400])
@pytest.mark.parametrize("door", ["custom", "register_coco_instances"])
def test_without_a_usable_area_the_segment_gives_it_and_else_the_box(
    tmp_path: Path, door: str, missing: object
):
    content = write_coco(tmp_path, images=1)
    expected = [annotation["area"] for annotation in content["annotations"]]
    del content["annotations"][0]["segmentation"]
    expected[0] = content["annotations"][0]["bbox"][2] * content["annotations"][0]["bbox"][3]
    for annotation in content["annotations"]:
        annotation["area"] = missing
        if missing is None:
            del annotation["area"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    truth = coco_ground_truth(register(door, tmp_path))
    assert [a["area"] for a in truth["annotations"]] == pytest.approx(expected, rel=1e-12)


def test_boxes_at_one_place_keep_their_own_areas(tmp_path: Path):
    content = write_coco(tmp_path, images=1)
    first = content["annotations"][0]
    twin = first | {"id": 99, "area": 7.5, "category_id": 8}
    content["annotations"].insert(1, twin)
    (tmp_path / "a.json").write_text(json.dumps(content))
    truth = coco_ground_truth(register("register_coco_instances", tmp_path))
    assert [a["area"] for a in truth["annotations"]][:2] == [first["area"], 7.5]


def test_records_of_other_code_need_no_file_and_give_boxes_in_any_mode():
    rle = mask_util.encode(np.asfortranarray(np.eye(40, dtype=np.uint8)))
    annotations = [
        {"bbox": [0, 0, 40, 40], "bbox_mode": 0, "category_id": 1, "segmentation": rle},
        {"bbox": [0, 0, 6, 4], "bbox_mode": 1, "category_id": 0, "area": np.float32(5)},
    ]
    image = {"file_name": "x.png", "height": 40, "width": 40, "image_id": "x"}
    DatasetCatalog.register("other", lambda: [image | {"annotations": annotations}, image])
    MetadataCatalog.get("other").set(
        thing_classes=["a", "b"], json_file="/gone.json", evaluator_type="coco"
    )
    truth = coco_ground_truth("other")
    assert [a["area"] for a in truth["annotations"]] == [40, 5]
    assert [a["bbox"] for a in truth["annotations"]] == [[0, 0, 40, 40], [0, 0, 6, 4]]
    assert truth["images"][0] == {"id": "x", "file_name": "x.png", "height": 40, "width": 40}
    assert truth["categories"] == [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]


def test_a_dataset_that_is_not_registered_is_refused_by_name():
    with pytest.raises(UserError, match="no dataset named 'gone'"):
        coco_ground_truth("gone")
