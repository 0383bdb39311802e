"""COCO: one JSON file with images, annotations and categories."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from counterpoise.datasets.files import read_text, require_folder
from counterpoise.datasets.invalid_annotations import InvalidAnnotationError, InvalidKind
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
        UserError: the folder or the file is missing, the file is not a JSON object, or one of its
            lists ``images``, ``annotations`` and ``categories`` is missing or cannot be used.
    """
    images_root = require_folder(spec.images, f"DATASETS.CUSTOM.{spec.name}.IMAGES")
    content = _load_json(spec)
    file = spec.annotations.name
    records = RecordSet(source=str(spec.annotations), coordinates=Coordinates.PIXELS)
    categories = _categories(content["categories"], spec)
    root = _unused_root(content, categories)
    if root is not None and not spec.classes:
        records.notes.append(
            f"category '{categories[root]}' (id {root!r}) has no annotation and is only the "
            "supercategory of all others: it is not a class, unless CLASSES lists it"
        )
    names = (name for key, name in categories.items() if key != root)
    records.class_names = tuple(dict.fromkeys(names))
    twice = [name for name, n in Counter(categories.values()).items() if n > 1]
    if twice:
        records.notes.append(f"categories of the same name are one class: {', '.join(twice)}")

    by_id: dict[int | str, ImageRecord] = {}
    for number, image in enumerate(content["images"]):
        try:
            record = _image_record(image, file, images_root)
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
        raise UserError(
            f"{what}: {spec.annotations} is not readable JSON ({error}): give a COCO instances file"
        ) from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(
                f"{what}: {spec.annotations} holds no list '{key}': give a COCO instances file"
            )
    return content


def _categories(written: list[Any], spec: DatasetSpec) -> dict[int | str, str]:
    """Map category id to name, in the order of the ids."""
    names: dict[int | str, str] = {}
    for number, category in enumerate(written):
        try:
            key, name = get_identifier(category, "id"), get_text(category, "name")
            if key in names:
                raise ValueError(f"its id {key!r} is that of '{names[key]}', too")
        except ValueError as error:
            raise UserError(
                f"{spec.annotations}, categories[{number}]: {error}; fix it, because without "
                "categories no annotation has a class"
            ) from None
        names[key] = name
    return dict(sorted(names.items(), key=lambda item: _id_order(item[0])))


def _unused_root(
    content: dict[str, list[Any]], categories: dict[int | str, str]
) -> int | str | None:
    """Return the id of a category that only groups all others, as in every Roboflow export.

    Such a root has no annotation, not even an invalid one; all other categories name it as their
    ``supercategory`` and bear other names; its own ``supercategory`` is "none" or missing. Any
    other category without annotations is a class, such as an unused ``person`` of COCO, which is
    its own supercategory. A root has annotations in no split, so the splits of an export agree.
    """
    above = {c["id"]: str(c.get("supercategory") or "none").strip() for c in content["categories"]}
    for key, name in categories.items():
        others = [other for other in categories if other != key]
        if (
            others
            and above[key].lower() == "none" != name.lower()
            and all(above[other] == name != categories[other] for other in others)
            and not any(
                isinstance(annotation, dict) and annotation.get("category_id") == key
                for annotation in content["annotations"]
            )
        ):
            return key
    return None


def _id_order(key: int | str) -> tuple[bool, int | str]:
    return isinstance(key, str), key  # numbers and text do not compare


def _image_record(image: object, file: str, images_root: Path) -> ImageRecord:
    image_id = get_identifier(image, "id")
    return ImageRecord(
        path=_image_path(images_root, get_text(image, "file_name")),
        id=image_id,
        where=f"{file}, image id {image_id!r}",
        stated_size=get_size(image),
    )


def _image_path(root: Path, file_name: str) -> Path:
    """Return the file as named, else with Windows separators, else without its sub folders."""
    posix = file_name.replace("\\", "/")
    tried = [root / file_name, root / posix, root / posix.rsplit("/", 1)[-1]]
    return next((path for path in tried if os.path.isfile(path)), tried[1])


def _attach_annotations(
    annotations: list[Any],
    file: str,
    categories: dict[int | str, str],
    images: dict[int | str, ImageRecord],
    records: RecordSet,
) -> None:
    seen: set[int | str] = set()
    for number, annotation in enumerate(annotations):
        where = f"{file}, annotations[{number}]"
        try:
            if isinstance(annotation, dict) and annotation.get("id") is not None:
                key = get_identifier(annotation, "id")
                where = f"{file}, annotation id {key!r}"
                if key in seen:
                    reason = f"used a second time by annotations[{number}]"
                    raise InvalidAnnotationError(InvalidKind.DUPLICATE_ANNOTATION, reason)
                seen.add(key)
            image_id = get_identifier(annotation, "image_id")
            record = _object_record(annotation, where, categories)
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


def _object_record(annotation: Any, where: str, categories: dict[int | str, str]) -> ObjectRecord:
    category_id, box = get_identifier(annotation, "category_id"), get_box(annotation)
    if category_id not in categories:
        reason = f"category id {category_id!r} is not among the categories"
        raise InvalidAnnotationError(InvalidKind.UNKNOWN_CLASS, reason)
    return ObjectRecord(
        class_name=categories[category_id],
        box=box,
        where=where,
        iscrowd=get_crowd_flag(annotation),
        segmentation=annotation.get("segmentation") or None,
        area=annotation.get("area"),
    )
