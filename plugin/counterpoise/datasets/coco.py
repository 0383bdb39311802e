"""COCO: one JSON file with images, annotations and categories."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from counterpoise.datasets.files import read_text, require_folder
from counterpoise.datasets.invalid_annotations import (
    InvalidAnnotationError,
    InvalidKind,
)
from counterpoise.datasets.json_fields import (
    get_box,
    get_crowd_flag,
    get_identifier,
    get_size,
    get_text,
)
from counterpoise.datasets.records import Coordinates, ImageRecord, ObjectRecord, RecordSet
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
            records.reject(InvalidKind.UNREADABLE_ENTRY, where, error)
            continue
        records.images.append(record)
        by_id.setdefault(record.id, record)  # a second one is invalid: it gets no objects
    _attach_annotations(content["annotations"], file, categories, by_id, records)
    records.images.sort(key=lambda record: _id_order(record.id))
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
            key, name = get_identifier(entry, "id"), get_text(entry, "name")
            if key in names:
                raise ValueError(f"its id {key!r} is that of '{names[key]}', too")
        except ValueError as error:
            raise UserError(
                f"{spec.annotations}, categories[{number}]: {error}; without sound categories no "
                "annotation has a class."
            ) from None
        names[key] = name
    return dict(sorted(names.items(), key=lambda item: _id_order(item[0])))


def _id_order(key: int | str) -> tuple[bool, int | str]:
    return isinstance(key, str), key  # numbers and text do not compare


def _image_record(entry: object, file: str, images_root: Path) -> ImageRecord:
    image_id = get_identifier(entry, "id")
    return ImageRecord(
        path=_image_path(images_root, get_text(entry, "file_name")),
        id=image_id,
        where=f"{file}, image id {image_id!r}",
        stated_size=get_size(entry),
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
    records: RecordSet,
) -> None:
    seen: set[int | str] = set()
    for number, entry in enumerate(entries):
        where = f"{file}, annotations[{number}]"
        try:
            if isinstance(entry, dict) and entry.get("id") is not None:
                key = get_identifier(entry, "id")
                where = f"{file}, annotation id {key!r}"
                if key in seen:
                    reason = f"used a second time by annotations[{number}]"
                    raise InvalidAnnotationError(InvalidKind.DUPLICATE_ANNOTATION, reason)
                seen.add(key)
            image_id = get_identifier(entry, "image_id")
            record = _object_record(entry, where, categories)
            if image_id not in images:
                raise InvalidAnnotationError(
                    InvalidKind.UNKNOWN_IMAGE, f"no image has the id {image_id!r}"
                )
        except InvalidAnnotationError as error:
            records.reject(error.kind, where, error)
        except ValueError as error:
            records.reject(InvalidKind.UNREADABLE_OBJECT, where, error)
        else:
            images[image_id].objects.append(record)


def _object_record(entry: Any, where: str, categories: dict[int | str, str]) -> ObjectRecord:
    category_id, box = get_identifier(entry, "category_id"), get_box(entry)
    if category_id not in categories:
        reason = f"category id {category_id!r} is not among the categories"
        raise InvalidAnnotationError(InvalidKind.UNKNOWN_CLASS, reason)
    return ObjectRecord(
        class_name=categories[category_id],
        box=box,
        where=where,
        iscrowd=get_crowd_flag(entry),
        segmentation=entry.get("segmentation") or None,
        area=entry.get("area"),
    )
