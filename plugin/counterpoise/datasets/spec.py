"""What the config node ``DATASETS.CUSTOM`` says, checked and put into one dataclass per dataset."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from counterpoise.datasets.class_names import check_class_names
from counterpoise.datasets.json_fields import is_number
from counterpoise.errors import UserError, did_you_mean

FORMATS = ("voc", "yolo", "coco")

SPEC_DEFAULTS: dict[str, Any] = {
    "FORMAT": "",
    "IMAGES": "",
    "ANNOTATIONS": "",
    "SPLIT_FILE": "",
    "DATA_YAML": "",
    "SPLIT": "",
    "CLASSES": [],
    "HOLDOUT": 0.0,
    "HOLDOUT_TEST": 0.0,
    "OUTSIDE_FILES": False,
}

#: Keys whose values are paths.
PATH_KEYS = ("IMAGES", "ANNOTATIONS", "SPLIT_FILE", "DATA_YAML")

# Per format: the keys it needs and the further ones it reads. YOLO has two forms: a data.yaml
# that names everything, or plain folders.
_KEYS = {
    "voc": (("IMAGES", "ANNOTATIONS"), ("SPLIT_FILE", "OUTSIDE_FILES")),
    "coco": (("IMAGES", "ANNOTATIONS"), ("OUTSIDE_FILES",)),
    "yolo with DATA_YAML": (("DATA_YAML", "SPLIT"), ("OUTSIDE_FILES",)),
    "yolo": (("IMAGES", "ANNOTATIONS"), ("OUTSIDE_FILES",)),
}
_FOR_ALL = ("CLASSES", "HOLDOUT", "HOLDOUT_TEST")


@dataclass(frozen=True)
class DatasetSpec:
    """One custom dataset as configured.

    Attributes:
        name: name under which it stands in ``DATASETS.TRAIN`` or ``DATASETS.TEST``.
        format: one of :data:`FORMATS`.
        images: folder of images, searched recursively.
        annotations: folder of XML (VOC) or txt (YOLO) files, or the JSON file (COCO).
        split_file: VOC list of stems; None takes every XML.
        data_yaml: YOLO ``data.yaml``.
        split: key of ``data_yaml``, such as ``train`` or ``val``.
        classes: class names in order; empty takes those that the dataset itself defines.
        holdout: fraction of images put into ``<name>_val``.
        holdout_test: fraction of images put into ``<name>_test``; where this and `holdout` are 0
            the dataset stays in one piece.
        cache: folder in which what was read is kept; None reads it at every start.
        outside_files: images and label files may lie outside of the folders that these keys name,
            by ``..``, an absolute path or a link.
    """

    name: str
    format: str
    images: Path | None
    annotations: Path | None
    split_file: Path | None
    data_yaml: Path | None
    split: str
    classes: tuple[str, ...]
    holdout: float
    holdout_test: float = 0.0
    cache: Path | None = None
    outside_files: bool = False

    @property
    def held_out(self) -> dict[str, float]:
        """Fractions of the images that are held out, by the name of the part."""
        fractions = {f"{self.name}_val": self.holdout, f"{self.name}_test": self.holdout_test}
        return {name: fraction for name, fraction in fractions.items() if fraction}

    @property
    def parts(self) -> tuple[str, ...]:
        """Names under which the dataset is registered, the one to train on first."""
        return (f"{self.name}_train", *self.held_out) if self.held_out else (self.name,)


def parse_specs(
    custom: Mapping[str, Mapping[str, Any]], cache: Path | None = None
) -> dict[str, DatasetSpec]:
    """Check the node ``DATASETS.CUSTOM``; nothing on disk is looked at.

    Args:
        custom: per dataset name a mapping with keys of :data:`SPEC_DEFAULTS`; missing keys take
            their default. Paths are absolute.
        cache: folder in which what was read of the datasets is kept; None keeps nothing.

    Returns:
        Specs by dataset name, in the order given.

    Raises:
        UserError: an unknown, missing, unused or ill-typed key, or a name that cannot be used.
    """
    specs: dict[str, DatasetSpec] = {}
    taken: dict[str, str] = {}
    for raw_name, node in custom.items():
        spec = replace(_parse_spec(_dataset_name(raw_name), node), cache=cache)
        for part in spec.parts:
            if part in taken:
                raise UserError(
                    f"DATASETS.CUSTOM.{spec.name} and DATASETS.CUSTOM.{taken[part]} both define "
                    f"the dataset name '{part}': rename one"
                )
            taken[part] = spec.name
        specs[spec.name] = spec
    return specs


def _dataset_name(raw: object) -> str:
    name = str(raw).strip()
    if not name:
        raise UserError("DATASETS.CUSTOM holds a dataset without a name: give it one")
    if "." in name:
        raise UserError(
            f"DATASETS.CUSTOM.{name}: a dataset name must not hold a dot, because KEY VALUE "
            f"overrides could not address it; try '{name.replace('.', '_')}'"
        )
    return name


def _parse_spec(name: str, node: object) -> DatasetSpec:
    at = f"DATASETS.CUSTOM.{name}"
    if not isinstance(node, Mapping):
        raise UserError(f"{at} must be a mapping with FORMAT and further keys, not {node!r}")
    for key in node:
        if key not in SPEC_DEFAULTS:
            raise UserError(f"{at}.{key} is not a known key; {did_you_mean(key, SPEC_DEFAULTS)}")
    values = {**SPEC_DEFAULTS, **node}
    for key in (*PATH_KEYS, "FORMAT", "SPLIT"):
        if isinstance(values[key], Path):
            values[key] = str(values[key])
        if not isinstance(values[key], str):
            raise UserError(f"{at}.{key} must be text, not {values[key]!r}")
    if values["FORMAT"] not in FORMATS:
        written = values["FORMAT"]
        raise UserError(f"{at}.FORMAT is '{written}'; {did_you_mean(written, FORMATS)}")
    outside = values["OUTSIDE_FILES"]
    if not isinstance(outside, bool):
        raise UserError(f"{at}.OUTSIDE_FILES must be True or False, not {outside!r}")
    _check_keys_fit(at, values)
    held_out = {key: _fraction(f"{at}.{key}", values[key]) for key in ("HOLDOUT", "HOLDOUT_TEST")}
    if sum(held_out.values()) >= 1:
        raise UserError(
            f"{at}.HOLDOUT {values['HOLDOUT']} and HOLDOUT_TEST {values['HOLDOUT_TEST']} leave no "
            "image to train on: lower them"
        )
    paths = {key.lower(): Path(values[key]) if values[key] else None for key in PATH_KEYS}
    return DatasetSpec(
        name=name,
        format=values["FORMAT"],
        split=values["SPLIT"],
        classes=check_class_names(values["CLASSES"], f"{at}.CLASSES"),
        holdout=held_out["HOLDOUT"],
        holdout_test=held_out["HOLDOUT_TEST"],
        outside_files=outside,
        **paths,
    )


def _check_keys_fit(at: str, values: Mapping[str, Any]) -> None:
    form = values["FORMAT"]
    if form == "yolo" and (values["DATA_YAML"] or values["SPLIT"]):
        form = "yolo with DATA_YAML"
    needed, optional = _KEYS[form]
    for key in SPEC_DEFAULTS:
        if key in needed and not values[key]:
            alternative = "; or give DATA_YAML and SPLIT" if form == "yolo" else ""
            raise UserError(
                f"{at}.{key} is missing: FORMAT {form} needs {' and '.join(needed)}{alternative}"
            )
        if values[key] and key not in ("FORMAT", *_FOR_ALL, *needed, *optional):
            raise UserError(
                f"{at}.{key} is set, but FORMAT {form} does not use it (it uses "
                f"{', '.join((*needed, *optional, *_FOR_ALL))}): remove it"
            )


def _fraction(key: str, value: object) -> float:
    if not is_number(value) or not 0 <= value < 1:
        raise UserError(
            f"{key} is {value!r}: expected the fraction of images to hold out, at least 0 "
            "and less than 1"
        )
    return float(value)
