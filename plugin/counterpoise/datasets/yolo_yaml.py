"""YOLO's ``data.yaml``: class names, and where a split lies."""

import os
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr  # bounded: YAML aliases can make a value of any size
from typing import Any

import yaml

from counterpoise.datasets.class_names import check_class_names
from counterpoise.datasets.files import (
    find_by_trailing_part,
    path_parts,
    read_text,
    require_folder,
)
from counterpoise.datasets.spec import DatasetSpec
from counterpoise.datasets.split_names import SPLIT_WORDS
from counterpoise.errors import UserError, did_you_mean
from counterpoise.utils.yaml_files import load_yaml


def _load_data_yaml(spec: DatasetSpec) -> dict[str, Any]:
    """Read ``DATA_YAML``.

    Raises:
        UserError: the file is missing, not YAML, or not a mapping.
    """
    what = f"DATASETS.CUSTOM.{spec.name}.DATA_YAML"
    try:
        data = load_yaml(read_text(spec.data_yaml, what))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{what}: {spec.data_yaml} is not readable YAML: {reason}") from error
    if not isinstance(data, dict):
        raise UserError(
            f"{what}: {spec.data_yaml} must be a mapping with 'names', not {repr(data)}"
        )
    return data


def yolo_class_names(spec: DatasetSpec) -> tuple[str, ...]:
    """Class names by class index.

    They come from ``names`` in ``DATA_YAML``, else from a ``classes.txt`` in or beside the folder
    of labels, else from CLASSES.

    Raises:
        UserError: there is no list, or it has gaps or names twice, or ``nc`` disagrees with it.
    """
    if spec.data_yaml is not None:
        data = _load_data_yaml(spec)
        names = check_class_names(_names_in_order(data, spec), f"'names' in {spec.data_yaml}")
        if not names:
            raise UserError(f"'names' in {spec.data_yaml} is empty: list the class names there")
        if data.get("nc") is not None and data["nc"] != len(names):
            raise UserError(
                f"{spec.data_yaml} says nc: {repr(data['nc'])}, but lists {len(names)} names: fix "
                "whichever is wrong"
            )
        return names
    labels = require_folder(spec.annotations, f"DATASETS.CUSTOM.{spec.name}.ANNOTATIONS")
    for listing in (labels / "classes.txt", labels.parent / "classes.txt"):
        if os.path.isfile(listing):
            lines = read_text(listing, "the class list").rstrip().splitlines()
            return check_class_names(lines, str(listing))
    if not spec.classes:
        raise UserError(
            f"dataset '{spec.name}' has no class list: set DATASETS.CUSTOM.{spec.name}.CLASSES, "
            f"or put a classes.txt into {labels}"
        )
    return spec.classes


def yolo_keypoint_columns(spec: DatasetSpec) -> int:
    """Columns of the keypoints after each box, by ``kpt_shape`` in ``DATA_YAML``; 0 without.

    Raises:
        UserError: ``kpt_shape`` is not two whole numbers.
    """
    shape = None if spec.data_yaml is None else _load_data_yaml(spec).get("kpt_shape")
    if shape is None:
        return 0
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int for n in shape)):
        raise UserError(
            f"'kpt_shape' in {spec.data_yaml} is {repr(shape)}, expected the number of keypoints "
            "and of values for each, such as [17, 3]"
        )
    return shape[0] * shape[1]


def _names_in_order(data: Mapping[str, Any], spec: DatasetSpec) -> object:
    names = data.get("names")
    if not isinstance(names, dict):
        return names
    by_index = {int(k) if str(k).isdecimal() else k: name for k, name in names.items()}
    missing = [i for i in range(len(by_index)) if i not in by_index]
    if missing or len(by_index) != len(names):
        raise UserError(
            f"'names' in {spec.data_yaml} must number the classes from 0 without gaps: "
            f"{missing[0] if missing else 'a number'} is {'missing' if missing else 'repeated'}"
        )
    return [by_index[i] for i in range(len(by_index))]


def split_places(spec: DatasetSpec) -> tuple[list[Path], list[str]]:
    """Find the folders, lists (txt) and single images that make up the split.

    A place is looked for as written from the folder that ``path`` names (else from the folder of
    the yaml), then without leading ``../``, because exporters write ``../train/images`` into a
    yaml that lies beside ``train``, then by the longest trailing part of it that exists there,
    because others write paths of their own machine. A split that the yaml does not name is found
    as a folder of its name there.

    Returns:
        the places, and one note on each that was found by a trailing part.

    Raises:
        UserError: the split is not to be found.
    """
    data = _load_data_yaml(spec)
    base = _base(spec, data)
    aliases = _aliases(spec.split)
    written = next((data[a] for a in aliases if data.get(a)), None)
    if written is None:
        return [_sibling(spec, base, aliases, data)], []
    notes: list[str] = []
    return [_resolve(spec, base, place, data, notes) for place in _as_list(written)], notes


def _as_list(written: object) -> list[Any]:
    return written if isinstance(written, list) else [written]


def _aliases(split: str) -> tuple[str, ...]:
    group = next((names for names in SPLIT_WORDS.values() if split in names), (split,))
    return (split, *(name for name in group if name != split))


def _base(spec: DatasetSpec, data: Mapping[str, Any]) -> Path:
    folder = spec.data_yaml.parent
    root = data.get("path")
    # An exported yaml often keeps the `path` of the machine that wrote it.
    if isinstance(root, str):
        named = folder / root.replace("\\", "/")
        return named if os.path.isdir(named) else folder
    return folder


def _resolve(
    spec: DatasetSpec, base: Path, place: object, data: Mapping[str, Any], notes: list[str]
) -> Path:
    if not isinstance(place, str):
        raise UserError(f"'{spec.split}' in {spec.data_yaml} holds {repr(place)}, expected a path")
    posix = place.replace("\\", "/")
    beside = posix
    while beside.startswith("../"):
        beside = beside.removeprefix("../")
    tried = dict.fromkeys(os.path.normpath(base / p) for p in (posix, beside))
    for path in tried:
        if os.path.exists(path):
            return Path(path)
    written = f"'{spec.split}: {place}' in {spec.data_yaml}"
    root = data["path"] if isinstance(data.get("path"), str) else ""
    others = [path_parts(other, root) for other in _places_of_other_splits(spec, data)]
    folders = dict.fromkeys((base, spec.data_yaml.parent))
    found = find_by_trailing_part(path_parts(place, root), folders, others)
    if found is None:
        raise UserError(
            f"{written} leads nowhere (tried {' and '.join(tried)}, and every trailing part of it "
            f"in {base}): fix it there, or fix 'path'"
        )
    notes.append(f"{written} is not on this machine: {found} is taken for it")
    return found


def _places_of_other_splits(spec: DatasetSpec, data: Mapping[str, Any]) -> list[str]:
    own = _aliases(spec.split)
    keys = [key for names in SPLIT_WORDS.values() for key in names if key not in own]
    return [p for key in keys for p in _as_list(data.get(key)) if isinstance(p, str)]


def _sibling(
    spec: DatasetSpec, base: Path, aliases: tuple[str, ...], data: Mapping[str, Any]
) -> Path:
    for name in aliases:
        for path in (base / name / "images", base / "images" / name):
            if os.path.isdir(path):
                return path
    known = {
        key
        for key in data
        if isinstance(key, str)
        and isinstance(data[key], str | list)
        and key not in ("names", "path")
    }
    raise UserError(
        f"DATASETS.CUSTOM.{spec.name}.SPLIT is '{spec.split}', but {spec.data_yaml} does not name "
        f"it and {base} holds neither {aliases[0]}/images nor images/{aliases[0]}; "
        f"{did_you_mean(spec.split, known | set(SPLIT_WORDS))}"
    )
