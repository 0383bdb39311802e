"""COCO: one JSON file with images, annotations and categories."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from counterpoise.datasets.files import read_text, require_folder
from counterpoise.datasets.records import Box, Coordinates, ImageRecord, ObjectRecord, RecordSet
from counterpoise.datasets.report import Fault, Kind
from counterpoise.datasets.spec import DatasetSpec
from counterpoise.errors import UserError


def read_coco(spec: DatasetSpec) -> RecordSet:
    """Parse the annotation file.

    Raises:
        UserError: the folder or the file is missing, the file is no JSON object, or one of its
            lists ``images``, ``annotations`` and ``categories`` is missing or unusable.
    """
    images_root = require_folder(spec.images, f"DATASETS.CUSTOM.{spec.name}.IMAGES")
    content = _load_json(spec)
    file = spec.annotations.name
    records = RecordSet(source=str(spec.annotations), coordinates=Coordinates.PIXELS)
    categories = _categories(content["categories"], spec)
    records.class_names = tuple(dict.fromkeys(categories.values()))
    twice = [name for name, n in Counter(categories.values()).items() if n > 1]
    if twice:
        records.notes.append(f"categories of the same name are one class: {', '.join(twice)}")

    by_id: dict[int | str, ImageRecord] = {}
    for number, entry in enumerate(content["images"]):
        try:
            record = _image_record(entry, file, images_root)
        except ValueError as error:
            where = f"{file}, images[{number}]"
            records.faults.append(Fault(Kind.UNREADABLE_ENTRY, where, str(error)))
            continue
        records.images.append(record)
        by_id.setdefault(record.id, record)  # a second one is a bad record: it gets no objects
    _attach_annotations(content["annotations"], file, categories, by_id, records.faults)
    records.images.sort(key=lambda r: (isinstance(r.id, str), r.id))
    return records


def _load_json(spec: DatasetSpec) -> dict[str, list[Any]]:
    what = f"DATASETS.CUSTOM.{spec.name}.ANNOTATIONS"
    text = read_text(spec.annotations, what)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what}: {spec.annotations} is no readable JSON: {error}.") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(
                f"{what}: {spec.annotations} holds no list '{key}', so it is no COCO instances "
                "file."
            )
    return content


def _categories(entries: list[Any], spec: DatasetSpec) -> dict[int | str, str]:
    """Map category id to name, in the order of the ids."""
    names: dict[int | str, str] = {}
    for number, entry in enumerate(entries):
        try:
            key, name = _identifier(entry, "id"), str(_get(entry, "name")).strip()
            if not name:
                raise ValueError("its 'name' is empty")
            if key in names:
                raise ValueError(f"its id {key!r} is that of '{names[key]}', too")
        except ValueError as error:
            raise UserError(
                f"{spec.annotations}, categories[{number}]: {error}; without sound categories no "
                "annotation has a class."
            ) from None
        names[key] = name
    return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _image_record(entry: Any, file: str, images_root: Path) -> ImageRecord:  # noqa: ANN401
    image_id, file_name = _identifier(entry, "id"), _get(entry, "file_name")
    if not isinstance(file_name, str) or not file_name:
        raise ValueError(f"its 'file_name' is {file_name!r}")
    size = entry.get("width"), entry.get("height")
    if size in ((None, None), (0, 0)):
        size = None
    elif any(isinstance(side, bool) or not isinstance(side, int | float) for side in size):
        raise ValueError(f"its size is {size[0]!r} x {size[1]!r}")
    return ImageRecord(
        path=_image_path(images_root, file_name),
        id=image_id,
        where=f"{file}, image id {image_id!r}",
        stated_size=size,
    )


def _image_path(root: Path, file_name: str) -> Path:
    """The file as named, else with Windows separators, else without its sub folders."""
    posix = file_name.replace("\\", "/")
    tried = [root / file_name, root / posix, root / posix.rsplit("/", 1)[-1]]
    return next((path for path in tried if os.path.isfile(path)), tried[1])


def _attach_annotations(
    entries: list[Any],
    file: str,
    categories: dict[int | str, str],
    images: dict[int | str, ImageRecord],
    faults: list[Fault],
) -> None:
    seen: set[int | str] = set()
    for number, entry in enumerate(entries):
        where = f"{file}, annotations[{number}]"
        try:
            if isinstance(entry, dict) and entry.get("id") is not None:
                key = _identifier(entry, "id")
                where = f"{file}, annotation id {key!r}"
                if key in seen:
                    faults.append(
                        Fault(Kind.DUPLICATE_ANNOTATION, where, f"also at annotations[{number}]")
                    )
                    continue
                seen.add(key)
            image_id, category_id = (
                _identifier(entry, "image_id"),
                _identifier(entry, "category_id"),
            )
            box, iscrowd = _box(_get(entry, "bbox")), entry.get("iscrowd", 0)
            if iscrowd not in (0, 1):
                raise ValueError(f"its 'iscrowd' is {iscrowd!r}, expected 0 or 1")
        except ValueError as error:
            faults.append(Fault(Kind.UNREADABLE_OBJECT, where, str(error)))
            continue
        if image_id not in images:
            faults.append(Fault(Kind.UNKNOWN_IMAGE, where, f"no image has the id {image_id!r}"))
        elif category_id not in categories:
            reason = f"category id {category_id!r} is not among the categories"
            faults.append(Fault(Kind.UNKNOWN_CLASS, where, reason))
        else:
            images[image_id].objects.append(
                ObjectRecord(
                    class_name=categories[category_id],
                    box=box,
                    where=where,
                    iscrowd=int(iscrowd),
                    segmentation=entry.get("segmentation") or None,
                )
            )


def _get(entry: Any, key: str) -> Any:  # noqa: ANN401
    if not isinstance(entry, dict):
        raise ValueError(f"it is {entry!r}, not an object")
    if key not in entry:
        raise ValueError(f"it has no '{key}'")
    return entry[key]


def _identifier(entry: Any, key: str) -> int | str:  # noqa: ANN401
    value = _get(entry, key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"its '{key}' is {value!r}, neither a whole number nor text")
    return value


def _box(value: Any) -> Box:  # noqa: ANN401
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 4 or any(
        isinstance(v, bool) or not isinstance(v, int | float) for v in numbers
    ):
        raise ValueError(f"its 'bbox' is {value!r}, expected [x, y, width, height]")
    try:
        x, y, width, height = map(float, numbers)
    except OverflowError:
        raise ValueError("its 'bbox' holds a number that is too large") from None
    return x, y, x + width, y + height
