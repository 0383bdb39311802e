"""Custom datasets in Pascal VOC, YOLO or COCO form for Detectron2."""

from counterpoise.datasets.cache import cache_folder
from counterpoise.datasets.counting import ClassCounts, count_classes, load_dataset
from counterpoise.datasets.invalid_annotations import InvalidAnnotation, InvalidKind
from counterpoise.datasets.loading import read_class_names
from counterpoise.datasets.registration import dataset_names, dataset_report, register_datasets
from counterpoise.datasets.report import Report
from counterpoise.datasets.spec import FORMATS, SPEC_DEFAULTS, DatasetSpec, parse_specs

__all__ = [
    "FORMATS",
    "SPEC_DEFAULTS",
    "ClassCounts",
    "DatasetSpec",
    "InvalidAnnotation",
    "InvalidKind",
    "Report",
    "cache_folder",
    "count_classes",
    "dataset_names",
    "dataset_report",
    "load_dataset",
    "parse_specs",
    "read_class_names",
    "register_datasets",
]
