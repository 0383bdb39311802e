"""COCO: ids, crowds, paths, segmentations, and every kind of invalid annotation."""

import json
import random
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
import torch
from detectron2.data.detection_utils import annotations_to_instances
from PIL import Image

from counterpoise.datasets import InvalidKind as Kind
from counterpoise.datasets import parse_specs, read_class_names
from counterpoise.datasets.loading import Part, Source
from counterpoise.errors import UserError

CATEGORIES = [{"id": 7, "name": " cat "}, {"id": 0, "name": "dog"}]


def image(**keys: object) -> dict[str, Any]:
    return {"id": 1, "file_name": "a.jpg", "width": 40, "height": 20, **keys}


def box(**keys: object) -> dict[str, Any]:
    return {"id": 0, "image_id": 1, "category_id": 7, "bbox": [4, 2, 10, 5], **keys}


def without(entry: dict, key: str) -> dict:
    return {k: v for k, v in entry.items() if k != key}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folder with the images a.jpg and sub/b.png, both 40 x 20."""
    (tmp_path / "img" / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.png"):
        Image.effect_noise((40, 20), 90).save(tmp_path / "img" / name)
    return tmp_path


def load(
    root: Path,
    annotations: list,
    images: list | None = None,
    categories: list = CATEGORIES,
    mode: str = "skip",
    **keys: object,
) -> Part:
    content = {"images": images or [image()], "annotations": annotations, "categories": categories}
    (root / "ann.json").write_text(json.dumps(content))
    return load_file(root, mode, **keys)


def load_file(root: Path, mode: str = "skip", **keys: object) -> Part:
    node = {"IMAGES": str(root / "img"), "ANNOTATIONS": str(root / "ann.json"), "FORMAT": "coco"}
    return Source(parse_specs({"pets": {**node, **keys}})["pets"], None, mode).parts["pets"]


def test_boxes_crowds_and_gapped_category_ids_are_read(root: Path):
    part = load(root, [box(), box(id=1, category_id=0, iscrowd=1, bbox=[0, 0, 40, 20.0])])
    assert part.dicts[0]["annotations"] == [
        {"bbox": [4, 2, 14, 7], "bbox_mode": 0, "category_id": 1, "iscrowd": 0},
        {"bbox": [0, 0, 40, 20], "bbox_mode": 0, "category_id": 0, "iscrowd": 1},
    ]
    assert not part.report.invalid_annotations


def test_whole_numbers_written_as_floats_are_ids(root: Path):
    part = load(root, [box(id=3.0, image_id=1.0, category_id=7.0)], [image(id=1.0)])
    assert len(part.dicts[0]["annotations"]) == 1 and not part.report.invalid_annotations


@pytest.mark.parametrize("order", [1, -1])
def test_a_file_is_the_image_of_the_entry_that_names_it_and_of_no_other(root: Path, order: int):
    moved = image(id=2, file_name="gone/b.png")  # not there, and `b.png` is another's
    boxes = [box(), box(id=1, image_id=2)]
    part = load(root, boxes, [image(file_name="b.png"), moved][::order],
                IMAGES=str(root / "img" / "sub"))  # fmt: skip
    assert [d["image_id"] for d in part.dicts] == [1]
    (left,) = part.report.invalid_annotations
    assert left.kind == Kind.NO_IMAGE and "gone/b.png" in left.reason


@pytest.mark.parametrize("form, other", [("NFC", "NFD"), ("NFD", "NFC")])
def test_letters_may_be_composed_in_the_file_and_decomposed_on_the_disk(
    root: Path, form: str, other: str
):
    (root / "img" / "a.jpg").rename(root / "img" / normalize(form, "caf\u00e9.jpg"))
    part = load(root, [box()], [image(file_name=normalize(other, "caf\u00e9.jpg"))])
    assert len(part.dicts) == 1 and not part.report.invalid_annotations


def test_two_entries_of_one_file_are_refused(root: Path):
    part = load(root, [box(), box(id=1, image_id=2)], [image(), image(id=2)])
    assert [d["image_id"] for d in part.dicts] == [1]
    (left,) = part.report.invalid_annotations
    assert left.kind == Kind.DUPLICATE_IMAGE and "a.jpg is the image of" in left.reason


@pytest.mark.parametrize("name", ["a\0/b.jpg", "\ud800/b.jpg"])
def test_a_folder_that_cannot_be_is_missing(root: Path, name: str):
    (left,) = load(root, [box()], [image(), image(id=2, file_name=name)]).report.invalid_annotations
    assert left.kind == Kind.NO_IMAGE


def test_class_names_follow_the_category_ids(root: Path):
    load(root, [])
    node = {"FORMAT": "coco", "IMAGES": str(root / "img"), "ANNOTATIONS": str(root / "ann.json")}
    assert read_class_names(parse_specs({"p": node})["p"]) == ["dog", "cat"]


def test_classes_reorder_by_name_and_what_they_lack_is_an_unknown_class(root: Path):
    part = load(root, [box(), box(id=1, category_id=0)], CLASSES=["bird", "cat"])
    assert [a["category_id"] for a in part.dicts[0]["annotations"]] == [1]
    assert [str(f) for f in part.report.invalid_annotations] == [
        "ann.json, annotation id 1: unknown class 'dog', but the class list is [bird, cat]"
    ]


def test_categories_of_the_same_name_are_one_class(root: Path):
    part = load(root, [box()], categories=[{"id": 0, "name": "cat"}, {"id": 7, "name": "cat"}])
    assert part.dicts[0]["annotations"][0]["category_id"] == 0
    assert "categories of the same name are one class: cat" in part.report.summary()


def tree(*categories: tuple[int, str, object]) -> list[dict]:
    return [{"id": i, "name": name, "supercategory": above} for i, name, above in categories]


ROOT = tree((0, "pets", "none"), (1, "cat", "pets"), (2, "dog", "pets"))


def own_names(root: Path, categories: list, annotations: list, **keys: object) -> tuple[list, str]:
    """Class names that the file defines, and the summary of reading it."""
    load(root, annotations, categories=categories, **keys)
    node = {"FORMAT": "coco", "IMAGES": str(root / "img"), "ANNOTATIONS": str(root / "ann.json")}
    names = read_class_names(parse_specs({"p": {**node, **keys}})["p"])
    return names, load_file(root, **keys).report.summary()


@pytest.mark.parametrize("above", ["none", "None", "", None])
def test_an_unused_root_category_is_not_a_class(root: Path, above: object):
    categories = tree((0, "pets", above), (1, "cat", "pets"), (2, "dog", "pets"))
    names, summary = own_names(root, categories, [box(category_id=2)])
    assert names == ["cat", "dog"]
    assert summary.count("'pets' (id 0) has no annotation and is only the supercategory") == 1
    assert load_file(root).dicts[0]["annotations"][0]["category_id"] == 1


def test_splits_of_one_export_have_one_class_list(root: Path):
    used = [[box(category_id=1), box(id=1, category_id=2)], [box(category_id=2)], []]
    assert [own_names(root, ROOT, boxes)[0] for boxes in used] == [["cat", "dog"]] * 3


NO_ROOT = {
    "its own supercategory": tree((0, "pets", "pets"), (1, "cat", "pets")),
    "below another": tree((0, "pets", "animals"), (1, "cat", "pets")),
    "not above all": tree((0, "pets", "none"), (1, "cat", "pets"), (2, "dog", "none")),
    "alone": tree((0, "pets", "none")),
    "called none": tree((0, "none", None), (1, "cat", "none")),
    "of a class's name": tree((0, "cat", "none"), (1, "cat", "cat"), (2, "dog", "cat")),
    "no tree": [{"id": 0, "name": "pets"}, {"id": 1, "name": "cat"}],
    "odd supercategory": tree((0, "pets", "none"), (1, "cat", ["pets"])),
}


@pytest.mark.parametrize("case", NO_ROOT)
def test_any_other_class_without_a_box_stays_one(root: Path, case: str):
    categories = NO_ROOT[case]
    names, summary = own_names(root, categories, [])
    assert names == list(dict.fromkeys(c["name"] for c in categories))
    assert "supercategory" not in summary


@pytest.mark.parametrize("used", [box(id=9, category_id=0), {"category_id": 0}])
def test_a_root_with_an_annotation_is_a_class_even_if_it_is_invalid(root: Path, used: dict):
    names, summary = own_names(root, ROOT, [box(category_id=2), used])
    assert names == ["pets", "cat", "dog"] and "supercategory" not in summary


def test_stated_classes_decide_about_the_root(root: Path):
    stated = ["dog", "pets", "cat"]
    names, summary = own_names(root, ROOT, [box(category_id=2)], CLASSES=stated)
    assert names == stated and "supercategory" not in summary


@pytest.mark.parametrize("name", ["sub/b.png", "sub\\b.png", "old/folder/a.jpg", "./a.jpg"])
def test_an_image_is_found_by_its_file_name(root: Path, name: str):
    part = load(root, [box()], [image(file_name=name)])
    assert Path(part.dicts[0]["file_name"]).is_file()


@pytest.mark.parametrize("end, file", [("sub/b.png", "sub/b.png"), ("train2017/a.jpg", "a.jpg")])
def test_an_image_of_lvis_is_found_by_its_url_as_it_has_no_file_name(
    root: Path, end: str, file: str
):
    url = f"http://images.cocodataset.org/{end}"
    part = load(root, [box()], [without(image(coco_url=url), "file_name")])
    assert part.dicts[0]["file_name"] == str(root / "img" / file)
    assert part.report.boxes == 1 and not part.report.invalid_annotations


def test_missing_annotation_ids_and_sizes_are_valid(root: Path):
    entry = without(without(image(), "width"), "height")
    part = load(root, [without(box(), "id"), without(box(), "id")], [entry])
    assert (
        part.report.boxes == 2
        and part.dicts[0]["width"] == 40
        and not part.report.invalid_annotations
    )


def test_images_are_ordered_by_id(root: Path):
    entries = [image(id=9), image(id=2, file_name="sub/b.png")]
    assert [d["image_id"] for d in load(root, [], entries).dicts] == [2, 9]


POLYGON = [4, 2, 14, 2, 14, 7.5]


@pytest.mark.parametrize(
    "written, kept",
    [
        ([POLYGON], [POLYGON]),
        ([POLYGON, [1, 2, 3, 4]], [POLYGON]),
        ([[1, 2, 3, 4, 5]], None),
        ([[1, 2, 3, 4, 5, None]], None),
        ([[1, 2, 3, 4, 5, float("nan")]], None),
        ("polygon", None),
        ({"size": [20, 40], "counts": [0, 800]}, {"size": [20, 40], "counts": "0Pi0"}),
        ({"size": [20, 40], "counts": "0Pi0"}, {"size": [20, 40], "counts": "0Pi0"}),
        ({"size": [20, 40], "counts": [0, 799]}, None),
        ({"size": [40, 20], "counts": [0, 800]}, None),
        ({"size": [20, 40], "counts": "0Pi"}, None),  # cut within a number
        ({"size": [20, 40], "counts": "0Tl0"}, None),  # 900 pixels
        ({"size": [20, 40], "counts": "~~~"}, None),
    ],
)
def test_an_invalid_segmentation_goes_and_its_box_stays(root: Path, written: Any, kept: Any):
    part = load(root, [box(segmentation=written)])
    (annotation,) = part.dicts[0]["annotations"]
    assert annotation.get("segmentation") == kept
    noted = "without their segmentation, which is invalid: 1" in part.report.summary()
    assert noted is (kept is None) and not part.report.invalid_annotations
    if kept is not None:
        form = "bitmask" if isinstance(kept, dict) else "polygon"
        instances = annotations_to_instances([annotation], (20, 40), mask_format=form)
        assert torch.equal(instances.gt_classes, torch.tensor([1])) and len(instances.gt_masks) == 1


def test_a_stated_area_is_kept_as_it_is_though_its_box_is_clipped(root: Path):
    part = load(root, [box(bbox=[30, 2, 20, 5], area=61.5), box(id=1, area=0)])
    assert [a["area"] for a in part.dicts[0]["annotations"]] == [61.5, 0]
    assert part.dicts[0]["annotations"][0]["bbox"] == [30, 2, 40, 7]
    assert "'area'" not in part.report.summary()


def test_an_invalid_area_goes_with_a_note_and_its_box_stays(root: Path):
    values = (-1, "9", float("nan"), True, 10**400, [4])
    boxes = [box(id=i, area=value) for i, value in enumerate(values)]
    part = load(root, [*boxes, box(id=90, area=None), box(id=91)], mode="refuse")
    assert not any("area" in a for a in part.dicts[0]["annotations"])
    assert "'area' is not a finite number >= 0" in part.report.summary()
    assert f"is taken: {len(values)}" in part.report.summary() and part.report.boxes == 8


BAD = {
    "zero size": (box(id=5, bbox=[1, 1, 0, 4]), Kind.ZERO_SIZE, "id 5", "x 1 to 1"),
    "negative": (box(id=5, bbox=[9, 1, -3, 4]), Kind.ZERO_SIZE, "id 5", "x 9 to 6"),
    "outside": (box(id=5, bbox=[-9, 1, 9, 4]), Kind.OUTSIDE, "id 5", "x -9 to 0"),
    "NaN": (box(id=5, bbox=[float("nan"), 1, 9, 4]), Kind.NOT_FINITE, "id 5", "nan"),
    "huge": (box(id=5, bbox=[10**400, 1, 9, 4]), Kind.UNREADABLE_OBJECT, "id 5", "too large"),
    "three numbers": (box(id=5, bbox=[1, 1, 9]), Kind.UNREADABLE_OBJECT, "id 5", "[1, 1, 9]"),
    "words": (box(id=5, bbox=["1", 1, 9, 4]), Kind.UNREADABLE_OBJECT, "id 5", "'1'"),
    "no bbox": (without(box(id=5), "bbox"), Kind.UNREADABLE_OBJECT, "id 5", "no 'bbox'"),
    "no image id": (without(box(id=5), "image_id"), Kind.UNREADABLE_OBJECT, "id 5", "image_id"),
    "no category": (without(box(id=5), "category_id"), Kind.UNREADABLE_OBJECT, "5", "category_id"),
    "odd crowd": (box(id=5, iscrowd=2), Kind.UNREADABLE_OBJECT, "id 5", "expected 0 or 1"),
    "no object": ("box", Kind.UNREADABLE_OBJECT, "annotations[1]", "not an object"),
    "odd id": (box(id=[5]), Kind.UNREADABLE_OBJECT, "annotations[1]", "neither a whole number"),
    "unknown image": (box(id=5, image_id=3), Kind.UNKNOWN_IMAGE, "id 5", "the id 3"),
    "unknown category": (box(id=5, category_id=3), Kind.UNKNOWN_CLASS, "id 5", "category id 3"),
    "duplicate id": (box(), Kind.DUPLICATE_ANNOTATION, "id 0", "annotations[1]"),
}


@pytest.mark.parametrize("mode", ["skip", "refuse"])
@pytest.mark.parametrize("case", BAD)
def test_an_invalid_annotation_is_left_out_or_refused(root: Path, case: str, mode: str):
    entry, kind, where, reason = BAD[case]
    check_outcome(root, mode, kind, where, reason, [box(), entry], [image()])


BAD_IMAGES = {
    "missing": (image(id=2, file_name="gone.jpg"), Kind.NO_IMAGE, "id 2", "gone.jpg"),
    "other size": (image(id=2, width=41), Kind.OTHER_SIZE, "id 2", "41 x 20, but a.jpg is 40 x 20"),
    "half a size": (image(id=2, width=None), Kind.UNREADABLE_ENTRY, "images[1]", "None x 20"),
    "no file name": (without(image(id=2), "file_name"), Kind.UNREADABLE_ENTRY, "[1]", "file_name"),
    "odd file name": (image(id=2, file_name=["a"]), Kind.UNREADABLE_ENTRY, "images[1]", "['a']"),
    "zero byte": (image(id=2, file_name="a\0b"), Kind.NO_IMAGE, "id 2", "a"),
    "no id": (without(image(), "id"), Kind.UNREADABLE_ENTRY, "images[1]", "no 'id'"),
    "no object": (3, Kind.UNREADABLE_ENTRY, "images[1]", "it is 3"),
    "duplicate id": (image(file_name="sub/b.png"), Kind.DUPLICATE_IMAGE, "image id 1", "before"),
}


@pytest.mark.parametrize("mode", ["skip", "refuse"])
@pytest.mark.parametrize("case", BAD_IMAGES)
def test_an_invalid_image_is_reported_and_left_out_or_refused(root: Path, case: str, mode: str):
    entry, kind, where, reason = BAD_IMAGES[case]
    check_outcome(root, mode, kind, where, reason, [box()], [image(), entry])


def check_outcome(
    root: Path, mode: str, kind: Kind, where: str, reason: str, annotations: list, images: list
) -> None:
    if mode == "refuse":
        with pytest.raises(UserError, match=r"DATASETS\.BAD_RECORDS") as error:
            load(root, annotations, images, mode=mode)
        told = str(error.value)
    else:
        part = load(root, annotations, images, mode=mode)
        assert [f.kind for f in part.report.invalid_annotations] == [kind]
        assert (part.report.images, part.report.boxes) == (1, 1)
        told = part.report.summary()
    assert kind in told and where in told and reason in told


def test_boxes_of_a_left_out_image_are_counted(root: Path):
    images = [image(), image(id=2, file_name="gone.jpg")]
    report = load(root, [box(), box(id=1, image_id=2), box(id=2, image_id=2)], images).report
    assert "1 invalid annotation, left out: 0 boxes and 1 image with 2 boxes" in report.summary()


@pytest.mark.parametrize(
    "content, says",
    [
        ("", "not readable JSON"),
        ('{"images": [', "not readable JSON"),
        ("[" * 100_000, "not readable JSON"),
        ("[]", "no list 'images'"),
        ('{"images": [], "categories": []}', "no list 'annotations'"),
        ('{"images": [], "annotations": [], "categories": []}', "defines no class"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no usable"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "no 'name'"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": ""}]}', "is empty"),
    ],
)
def test_an_unusable_file_is_refused(root: Path, content: str, says: str):
    (root / "ann.json").write_text(content)
    with pytest.raises(UserError, match=says) as error:
        load_file(root)
    assert "ann.json" in str(error.value)


def test_missing_roots_and_repeated_category_ids_are_refused(root: Path):
    with pytest.raises(UserError, match=r"DATASETS\.CUSTOM\.pets\.ANNOTATIONS.*not there"):
        load_file(root)
    with pytest.raises(UserError, match="id 7 is that of 'cat'"):
        load(root, [], categories=[CATEGORIES[0], {"id": 7, "name": "dog"}])
    with pytest.raises(UserError, match=r"DATASETS\.CUSTOM\.pets\.IMAGES.*is a file"):
        load(root, [], IMAGES=str(root / "ann.json"))


def test_a_damaged_json_never_raises_anything_but_a_user_error(root: Path):
    load(root, [box(segmentation=[POLYGON])])
    whole = (root / "ann.json").read_bytes()
    rng = random.Random(7)
    for cut in range(1, len(whole)):
        damaged = bytearray(whole[:cut] if cut % 4 == 0 else whole)
        damaged[cut - 1] = rng.choice(b'0 9]}"-n\xff')
        (root / "ann.json").write_bytes(bytes(damaged))
        try:
            load_file(root)
        except UserError:
            continue
