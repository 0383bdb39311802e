"""DATASETS.CUSTOM: every mistake in it is named with its key."""

from pathlib import Path

import pytest

from counterpoise.datasets import SPEC_DEFAULTS, dataset_names, parse_specs
from counterpoise.errors import UserError

VOC = {"FORMAT": "voc", "IMAGES": "/d/images", "ANNOTATIONS": "/d/xml"}
YAML = {"FORMAT": "yolo", "DATA_YAML": "/d/data.yaml", "SPLIT": "train"}


def test_missing_keys_take_their_defaults():
    spec = parse_specs({"cells": VOC})["cells"]
    assert (spec.images, spec.annotations) == (Path("/d/images"), Path("/d/xml"))
    assert (spec.split_file, spec.data_yaml, spec.split) == (None, None, "")
    assert (spec.classes, spec.holdout) == ((), 0.0)


def test_spelling_out_all_defaults_changes_nothing():
    assert parse_specs({"cells": {**SPEC_DEFAULTS, **VOC}}) == parse_specs({"cells": VOC})


def test_numbers_as_names_become_text():
    specs = parse_specs({2024: {**VOC, "CLASSES": [0, " rbc "]}})
    assert specs["2024"].name == "2024" and specs["2024"].classes == ("0", "rbc")


def test_holdout_gives_two_names():
    specs = parse_specs({"a": {**VOC, "HOLDOUT": 0.25}, "b": YAML})
    assert dataset_names(specs) == ["a_train", "a_val", "b"]


def test_a_second_holdout_gives_a_third_name():
    both = {**VOC, "HOLDOUT": 0.25, "HOLDOUT_TEST": 0.1}
    specs = parse_specs({"a": both, "b": {**VOC, "HOLDOUT_TEST": 0.1}})
    assert dataset_names(specs) == ["a_train", "a_val", "a_test", "b_train", "b_test"]


@pytest.mark.parametrize(
    "node, key, says",
    [
        ({**VOC, "IMAGE": "/d"}, "IMAGE", "did you mean 'IMAGES'"),
        ({**VOC, "images": "/d"}, "images", "did you mean 'IMAGES'"),
        ({**VOC, "FORMAT": "VOC"}, "FORMAT", "did you mean 'voc'"),
        ({**VOC, "FORMAT": ""}, "FORMAT", "known: coco, voc, yolo"),
        ({"FORMAT": "voc", "IMAGES": "/d"}, "ANNOTATIONS", "is missing"),
        ({"FORMAT": "coco", "ANNOTATIONS": "/d/a.json"}, "IMAGES", "is missing"),
        ({"FORMAT": "yolo"}, "IMAGES", "or give DATA_YAML and SPLIT"),
        ({"FORMAT": "yolo", "DATA_YAML": "/d/data.yaml"}, "SPLIT", "is missing"),
        ({**YAML, "IMAGES": "/d"}, "IMAGES", "does not use it"),
        ({**VOC, "DATA_YAML": "/d/data.yaml"}, "DATA_YAML", "does not use it"),
        ({**VOC, "FORMAT": "coco", "SPLIT_FILE": "/d/a.txt"}, "SPLIT_FILE", "does not use it"),
        ({**VOC, "IMAGES": 3}, "IMAGES", "must be text"),
        ({**VOC, "HOLDOUT": 1.0}, "HOLDOUT", "less than 1"),
        ({**VOC, "HOLDOUT": -0.1}, "HOLDOUT", "at least 0"),
        ({**VOC, "HOLDOUT": float("nan")}, "HOLDOUT", "nan"),
        ({**VOC, "HOLDOUT": True}, "HOLDOUT", "True"),
        ({**VOC, "HOLDOUT_TEST": 1.0}, "HOLDOUT_TEST", "less than 1"),
        ({**VOC, "HOLDOUT": 0.5, "HOLDOUT_TEST": 0.5}, "HOLDOUT", "leave no image to train on"),
        ({**VOC, "CLASSES": "rbc"}, "CLASSES", "must be a list"),
        ({**VOC, "CLASSES": ["rbc", "rbc "]}, "CLASSES", "'rbc' twice"),
        ({**VOC, "CLASSES": ["rbc", ""]}, "CLASSES", "empty class name"),
        ({**VOC, "CLASSES": [False]}, "CLASSES", "put it in quotes"),
    ],
)
def test_a_bad_key_is_named_with_the_fix(node: dict, key: str, says: str):
    with pytest.raises(UserError) as error:
        parse_specs({"cells": node})
    assert f"DATASETS.CUSTOM.cells.{key}" in str(error.value)
    assert says in str(error.value)


@pytest.mark.parametrize(
    "custom, says",
    [
        ({"a.b": VOC}, "try 'a_b'"),
        ({"": VOC}, "without a name"),
        ({"a": "voc"}, "must be a mapping"),
        ({"a": {**VOC, "HOLDOUT": 0.5}, "a_val": VOC}, "both define the dataset name 'a_val'"),
    ],
)
def test_a_bad_dataset_name_or_node_is_refused(custom: dict, says: str):
    with pytest.raises(UserError, match=says):
        parse_specs(custom)
