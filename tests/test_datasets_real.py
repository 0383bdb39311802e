"""BCCD and Aquarium as they are; nothing is written into their folders."""

from pathlib import Path

import pytest

from counterpoise.datasets import InvalidKind as Kind
from counterpoise.datasets import parse_specs, read_class_names
from counterpoise.datasets.loading import Part, Source
from counterpoise.errors import UserError

AQUARIUM = ["fish", "jellyfish", "penguin", "puffin", "shark", "starfish", "stingray"]


def bccd(root: Path, **keys: object) -> dict:
    folders = {
        "IMAGES": str(root / "bccd/JPEGImages"),
        "ANNOTATIONS": str(root / "bccd/Annotations"),
    }
    return {"FORMAT": "voc", **folders, **keys}


def bccd_split(root: Path, split: str) -> dict:
    return bccd(root, SPLIT_FILE=str(root / f"bccd/ImageSets/Main/{split}.txt"))


def aquarium(root: Path, split: str) -> dict:
    return {"FORMAT": "yolo", "DATA_YAML": str(root / "aquarium/data.yaml"), "SPLIT": split}


def load(node: dict, mode: str = "skip") -> dict[str, Part]:
    return Source(parse_specs({"real": node})["real"], None, mode).parts


def boxes(part: Part, classes: list[str]) -> dict[str, int]:
    found = [a["category_id"] for d in part.dicts for a in d["annotations"]]
    return {name: found.count(i) for i, name in enumerate(classes)}


def test_bccd_trainval_is_read_but_for_its_two_zero_size_boxes(real_data: Path):
    part = load(bccd_split(real_data, "trainval"))["real"]
    classes = ["Platelets", "RBC", "WBC"]
    assert read_class_names(parse_specs({"b": bccd_split(real_data, "val")})["b"]) == classes
    assert len(part.dicts) == 292
    assert boxes(part, classes) == {"Platelets": 292, "RBC": 3350 - 2, "WBC": 301}
    assert [(f.kind, f.where.split(",")[0]) for f in part.report.invalid_annotations] == [
        (Kind.ZERO_SIZE, "BloodImage_00338.xml"),
        (Kind.ZERO_SIZE, "BloodImage_00343.xml"),
    ]


def test_bccd_test_has_no_invalid_annotation(real_data: Path):
    part = load(bccd_split(real_data, "test"), "refuse")["real"]
    assert len(part.dicts) == 72 and not part.report.invalid_annotations


@pytest.mark.parametrize("split, images", [("train", 448), ("valid", 127), ("test", 63)])
def test_aquarium_splits_are_found(real_data: Path, split: str, images: int):
    assert len(load(aquarium(real_data, split))["real"].dicts) == images


def test_aquarium_holds_the_known_boxes(real_data: Path):
    total = dict.fromkeys(AQUARIUM, 0)
    invalid, empty = [], 0
    for split in ("train", "val", "test"):
        part = load(aquarium(real_data, split))["real"]
        invalid += [f.where for f in part.report.invalid_annotations]
        empty += part.report.empty_images
        for name, n in boxes(part, AQUARIUM).items():
            total[name] += n
    assert [where.rsplit(".rf.", 1)[1] for where in invalid] == [
        "1c0901882e71d5ebd26f036f4e22da65.txt:17",
        "ed40900b657a5b23d92cb2d296ad2dbc.txt:15",
    ]
    known = dict(zip(AQUARIUM, (2669, 694, 516, 284, 354, 116, 184), strict=True))
    dropped = {name: known[name] - n for name, n in total.items() if known[name] != n}
    assert dropped == {"shark": 2} and empty == 1


# Its label files end without a newline, so counts over their concatenation (4681 fillings, 477
# cavities, ...) lack the first line of every file but one.
DENTAL = ["Cavity", "Fillings", "Impacted Tooth", "Implant"]


@pytest.mark.parametrize(
    "split, images, known",
    [("train", 1085, (533, 5193, 416, 1703)), ("val", 154, (103, 767, 63, 283))],
)
def test_dental_is_found_though_its_yaml_names_another_machine(
    real_data: Path, split: str, images: int, known: tuple
):
    if not (real_data / "dental").is_dir():
        pytest.skip("the dental dataset is not there")
    node = {"FORMAT": "yolo", "DATA_YAML": str(real_data / "dental/data.yaml"), "SPLIT": split}
    part = load(node)["real"]
    assert len(part.dicts) == images
    assert boxes(part, DENTAL) == dict(zip(DENTAL, known, strict=True))
    (note,) = [note for note in part.report.notes if "is not on this machine" in note]
    assert f"'{split}: D:/yolo_started/data/" in note


def test_invalid_annotations_are_refused_if_wanted(real_data: Path):
    with pytest.raises(UserError, match=r"2 invalid annotations: zero-size.*BloodImage_00338\.xml"):
        load(bccd_split(real_data, "trainval"), "refuse")


def test_a_holdout_keeps_all_classes_on_both_sides(real_data: Path):
    parts = load(bccd(real_data, HOLDOUT=0.2))
    assert [len(parts[f"real_{side}"].dicts) for side in ("train", "val")] == [291, 73]
    for side in ("train", "val"):
        assert all(boxes(parts[f"real_{side}"], ["Platelets", "RBC", "WBC"]).values())


def test_nothing_is_written_into_the_folders(real_data: Path):
    def listing() -> list[tuple[Path, int]]:
        return sorted((p, p.stat().st_mtime_ns) for p in real_data.rglob("*"))

    before = listing()
    load(bccd(real_data))
    load(aquarium(real_data, "test"))
    assert listing() == before
