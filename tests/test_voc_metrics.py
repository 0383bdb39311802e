"""Pascal VOC's average precision against Detectron2's, on XML files written here and on BCCD's."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from detectron2.evaluation.pascal_voc_evaluation import voc_eval

from counterpoise.evaluation.inputs import Detections, GroundTruth
from counterpoise.evaluation.voc_metrics import VocClassResult, voc_average_precision

CLASSES = ("RBC", "WBC", "Platelets")


def ground_truth(rows, num_images, classes=CLASSES):
    """From rows (image, class, x, y, w, h, ignored)."""
    rows = np.array(rows, dtype=float).reshape(-1, 7)
    boxes = rows[:, 2:6]
    return GroundTruth(
        classes, tuple(range(num_images)), ("",) * num_images, boxes, boxes[:, 2] * boxes[:, 3],
        rows[:, 1].astype(int), rows[:, 0].astype(int), rows[:, 6] > 0,
    )  # fmt: skip


def detections(rows):
    """From rows (image, class, x, y, w, h, score)."""
    rows = np.array(rows, dtype=float).reshape(-1, 7)
    return Detections(rows[:, 2:6], rows[:, 6], rows[:, 1].astype(int), rows[:, 0].astype(int))


def read_xmls(paths):
    """Ground truth as Detectron2's VOC evaluator reads it: pixels from 1, the last one inside."""
    rows = []
    for image, path in enumerate(paths):
        for each in ET.parse(path).iter("object"):
            low_x, low_y, high_x, high_y = (
                int(each.find(f"bndbox/{side}").text) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            rows.append(
                (
                    image, CLASSES.index(each.find("name").text), low_x - 1, low_y - 1,
                    high_x - low_x + 1, high_y - low_y + 1, int(each.find("difficult").text),
                )
            )  # fmt: skip
    return ground_truth(rows, len(paths))


def write_xmls(folder, num_images, rng):
    for image in range(num_images):
        root = ET.Element("annotation")
        for _ in range(rng.integers(0, 7)):
            each = ET.SubElement(root, "object")
            low, size = rng.integers(1, 80, 2), rng.integers(0, 40, 2)
            tags = {
                "name": CLASSES[rng.integers(3)], "pose": "Unspecified", "truncated": 0,
                "difficult": int(rng.random() < 0.25),
            }  # fmt: skip
            for tag, value in tags.items():
                ET.SubElement(each, tag).text = str(value)
            box = ET.SubElement(each, "bndbox")
            for tag, value in zip(
                ("xmin", "ymin", "xmax", "ymax"), (*low, *(low + size)), strict=True
            ):
                ET.SubElement(box, tag).text = str(value)
        ET.ElementTree(root).write(folder / f"image{image}.xml")
    return [folder / f"image{image}.xml" for image in range(num_images)]


def perturbed(truth, rng):
    """Each box about twice, moved, some under another class, and boxes on the background."""
    source = np.repeat(np.arange(len(truth.boxes)), rng.integers(0, 4, len(truth.boxes)))
    boxes = truth.boxes[source] + rng.normal(0, 0.12, (len(source), 4)) * np.tile(
        truth.boxes[source, 2:], 2
    )
    classes = np.where(
        rng.random(len(source)) < 0.85, truth.classes[source], rng.integers(3, size=len(source))
    )
    extra = 2 * truth.num_images
    boxes = np.r_[boxes, np.c_[rng.uniform(0, 80, (extra, 2)), rng.uniform(5, 40, (extra, 2))]]
    boxes[:, 2:] = np.abs(boxes[:, 2:])
    images = np.r_[truth.images[source], rng.integers(truth.num_images, size=extra)]
    scores = rng.permutation(len(boxes)) / len(boxes)
    return Detections(boxes, scores, np.r_[classes, rng.integers(3, size=extra)], images)


def detectron2_voc(folder, paths, found):
    """Both averages of each class by ``voc_eval``, 0-100."""
    image_set = folder / "set.txt"
    image_set.write_text("\n".join(path.stem for path in paths))
    for k, name in enumerate(CLASSES):
        (folder / f"{name}.txt").write_text(
            "\n".join(
                f"{paths[image].stem} {score!r} {x + 1!r} {y + 1!r} {x + w!r} {y + h!r}"
                for image, score, (x, y, w, h) in zip(
                    found.images[found.classes == k].tolist(),
                    found.scores[found.classes == k].tolist(),
                    found.boxes[found.classes == k].tolist(),
                    strict=True,
                )
            )
        )
    annotations = str(paths[0].parent / "{}.xml")
    return [
        tuple(
            100 * voc_eval(str(folder / "{}.txt"), annotations, str(image_set), name, 0.5, old)[2]
            for old in (True, False)
        )
        for name in CLASSES
    ]


def assert_equals_detectron2(folder, paths, seed):
    truth = read_xmls(paths)
    found = perturbed(truth, np.random.default_rng(seed))
    ours, theirs = voc_average_precision(truth, found), detectron2_voc(folder, paths, found)
    for k, expected in enumerate(theirs):
        result = ours.per_class[k]
        assert pytest.approx(expected, abs=1e-9) == (result.VOC07_AP50, result.VOC10_AP50)
    assert 10 < ours.VOC10_AP50 < 90, "a scene that tells right from wrong"
    assert pytest.approx(np.mean(theirs, axis=0), abs=1e-9) == (ours.VOC07_AP50, ours.VOC10_AP50)


@pytest.mark.parametrize("seed", range(4))
def test_equals_detectron2_with_difficult_objects_and_duplicates(tmp_path, seed):
    paths = write_xmls(tmp_path, 25, np.random.default_rng(seed))
    assert_equals_detectron2(tmp_path, paths, seed)


def test_equals_detectron2_on_bccd(tmp_path, real_data):
    stems = (real_data / "bccd/ImageSets/Main/test.txt").read_text().split()
    paths = [real_data / f"bccd/Annotations/{stem}.xml" for stem in stems]
    assert_equals_detectron2(tmp_path, paths, seed=0)


BOX = (0, 0, 10, 10)


@pytest.mark.parametrize(
    "boxes, found, AP10",
    [
        pytest.param([(*BOX, 0)], [(0, 0, 10, 5, 0.9)], 0, id="IoU of exactly 0.5 is no match"),
        pytest.param([(*BOX, 0)], [(0, 0, 10, 5.01, 0.9)], 100, id="IoU just above 0.5 is a match"),
        pytest.param(
            # The second detection overlaps the second box by 8 / 12, too.
            [(*BOX, 0), (2, 0, 10, 10, 0)], [(*BOX, 0.9), (0.5, 0, 10, 10, 0.8)], 50,
            id="a taken box still attracts",
        ),
        pytest.param(
            [(*BOX, 0), (2, 0, 10, 10, 1)], [(2, 0, 10, 10, 0.9), (*BOX, 0.8)], 100,
            id="a difficult box takes its detection away",
        ),
        pytest.param([(*BOX, 0)], [], 0, id="no detections"),
    ],
)  # fmt: skip
def test_rules_of_voc(boxes, found, AP10):
    truth = ground_truth([(0, 0, *row) for row in boxes], 1, ("cell",))
    result = voc_average_precision(truth, detections([(0, 0, *row) for row in found]))
    assert pytest.approx(AP10) == result.per_class[0].VOC10_AP50


def test_more_than_100_detections_in_an_image_count():
    wrong = [(0, 0, 50, 50, 5, 5, 0.9)] * 150
    truth = ground_truth([(0, 0, *BOX, 0)], 1, ("cell",))
    result = voc_average_precision(truth, detections([*wrong, (0, 0, *BOX, 0.1)]))
    assert pytest.approx(100 / 151) == result.VOC10_AP50


def test_class_without_counted_boxes_has_no_value_and_is_not_in_the_mean():
    truth = ground_truth([(0, 0, *BOX, 0), (0, 1, *BOX, 1)], 1)
    result = voc_average_precision(truth, detections([(0, k, *BOX, 0.9) for k in range(3)]))
    assert result.per_class[1:] == (VocClassResult(None, None),) * 2
    assert pytest.approx((100, 100)) == (result.VOC07_AP50, result.VOC10_AP50)
    nothing = voc_average_precision(ground_truth([], 1), detections([]))
    assert nothing.VOC07_AP50 is None and nothing.VOC10_AP50 is None
