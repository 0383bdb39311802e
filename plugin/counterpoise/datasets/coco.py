"""COCO: one JSON file with images, annotations and categories."""

import json
import os
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from counterpoise.datasets.files import Boundary, is_found_by_a_walk, read_text, require_folder
from counterpoise.datasets.invalid_annotations import InvalidAnnotationError, InvalidKind
from counterpoise.datasets.json_fields import (
    get_bbox,
    get_crowd_flag,
    get_identifier,
    get_size,
    get_text,
)
from counterpoise.datasets.records import Coordinates, ImageRecord, RecordSet
from counterpoise.datasets.spec import DatasetSpec
from counterpoise.errors import UserError


class _Image(msgspec.Struct, gc=False):
    """An entry of ``images``, with the types that it should have."""

    id: int | str
    file_name: int | str
    width: Any = None
    height: Any = None


class _Annotation(msgspec.Struct, gc=False):
    """An entry of ``annotations``, with the types that it should have."""

    image_id: int | str
    category_id: int | str
    bbox: tuple[float, float, float, float]
    id: int | str | None = None
    iscrowd: Literal[0, 1] = 0
    segmentation: Any = None
    area: Any = None


_Entry = TypeVar("_Entry", _Image, _Annotation)


class _Lists(msgspec.Struct):
    """The three lists of a file, their entries not parsed yet."""

    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[Any]


@dataclass
class _File:
    """The three lists of a file; entries of the first two are JSON, or parsed where ``is_json`` is
    False because the file is more than JSON allows (it may hold NaN)."""

    images: list[Any]
    annotations: list[Any]
    categories: list[Any]
    is_json: bool

    def typed(self, kind: type[_Entry]) -> Callable[[Any], _Entry]:
        """Return the function that makes a struct of an entry, or raises ValidationError."""
        if self.is_json:
            return msgspec.json.Decoder(kind).decode
        return partial(msgspec.convert, type=kind)

    def plain(self, entry: Any) -> Any:
        """Return an entry as Python has it."""
        return json.loads(bytes(entry)) if self.is_json else entry


def read_coco(spec: DatasetSpec) -> RecordSet:
    """Parse the annotation file.

    Raises:
        UserError: the folder or the file is missing, the file is not a JSON object, or one of its
            lists ``images``, ``annotations`` and ``categories`` is missing or cannot be used.
    """
    root = str(require_folder(spec.images, f"DATASETS.CUSTOM.{spec.name}.IMAGES"))
    content = _load(spec)
    file = spec.annotations.name
    categories = _categories(content.categories, spec)
    records = RecordSet(
        source=str(spec.annotations),
        coordinates=Coordinates.PIXELS,
        place=partial(_place, content, file),
    )
    unused = _unused_root(content, categories)
    if unused is not None and not spec.classes:
        records.notes.append(
            f"category '{categories[unused]}' (id {unused!r}) has no annotation and is only the "
            "supercategory of all others: it is not a class, unless CLASSES lists it"
        )
    names = (name for key, name in categories.items() if key != unused)
    records.class_names = tuple(dict.fromkeys(names))
    twice = [name for name, n in Counter(categories.values()).items() if n > 1]
    if twice:
        records.notes.append(f"categories of the same name are one class: {', '.join(twice)}")
    boundary = Boundary(() if spec.outside_files else (spec.images, spec.annotations.parent))
    index_of = _read_images(content, file, root, boundary, records)
    _read_annotations(content, categories, index_of, records)
    _sort_by_id(records)
    return records


def _load(spec: DatasetSpec) -> _File:
    what = f"DATASETS.CUSTOM.{spec.name}.ANNOTATIONS"
    text = read_text(spec.annotations, what)
    try:
        lists = msgspec.json.decode(text, type=_Lists)
    except (msgspec.DecodeError, RecursionError):
        return _load_leniently(text, spec.annotations, what)
    return _File(lists.images, lists.annotations, lists.categories, is_json=True)


def _load_leniently(text: str, path: Path, what: str) -> _File:
    """Read what Python takes for JSON, such as NaN, or say what is wrong with the file."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{what}: {path} is not readable JSON ({error}): give a COCO instances file"
        ) from error
    keys = ("images", "annotations", "categories")
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{what}: {path} holds no list '{key}': give a COCO instances file")
    return _File(*(content[key] for key in keys), is_json=False)


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


def _unused_root(content: _File, categories: dict[int | str, str]) -> int | str | None:
    """Return the id of a category that only groups all others, as in every Roboflow export.

    Such a root has no annotation, not even an invalid one; all other categories name it as their
    ``supercategory`` and bear other names; its own ``supercategory`` is "none" or missing. Any
    other category without annotations is a class, such as an unused ``person`` of COCO, which is
    its own supercategory. A root has annotations in no split, so the splits of an export agree.
    """
    above = {c["id"]: str(c.get("supercategory") or "none").strip() for c in content.categories}
    for key, name in categories.items():
        others = [other for other in categories if other != key]
        if (
            others
            and above[key].lower() == "none" != name.lower()
            and all(above[other] == name != categories[other] for other in others)
            and not any(
                isinstance(annotation, dict) and annotation.get("category_id") == key
                for annotation in map(content.plain, content.annotations)
            )
        ):
            return key
    return None


def _id_order(key: int | str) -> tuple[bool, int | str]:
    return isinstance(key, str), key  # numbers and text do not compare


def _read_images(
    content: _File, file: str, root: str, boundary: Boundary, records: RecordSet
) -> dict[int | str, int]:
    """Append the readable images; return their indices by id.

    Args:
        content: of the file.
        file: its name, for messages.
        root: folder to which the names of images are relative.
        boundary: outside which no image may lie.
        records: to append to.
    """
    index_of: dict[int | str, int] = {}
    by_basename: dict[int, str] = {}  # images that are not where their names say, and where that is
    typed = content.typed(_Image)
    for number, entry in enumerate(content.images):
        try:
            image_id, name, size = _parse_image(entry, content, typed)
        except ValueError as error:
            records.reject(InvalidKind.UNREADABLE_ENTRY, f"{file}, images[{number}]", error)
            continue
        path = image_path(root, name)
        named = os.path.normpath(os.path.join(root, name.replace("\\", "/")))
        if os.path.normpath(path) not in (named, os.path.normpath(os.path.join(root, name))):
            by_basename[len(records.images)] = named
        if not records.unwatched and not is_found_by_a_walk(path, root):
            records.unwatched = path
        # Of two images with one id, the second is invalid: it gets no objects.
        index_of.setdefault(image_id, len(records.images))
        where = f"{file}, image id {image_id!r}"
        outside = boundary.why_outside(path)
        records.images.append(ImageRecord(path, image_id, where, size, outside=outside))
    uses = Counter(image.path for image in records.images)
    for number, named in by_basename.items():
        image = records.images[number]
        if uses[image.path] > 1:  # another image's file, while its own is missing
            image.path = named
    return index_of


def _parse_image(
    entry: Any, content: _File, typed: Callable[[Any], _Image]
) -> tuple[int | str, str, tuple[int, int] | None]:
    """Return id, file name and stated size of an entry; ValueError says what is wrong with it."""
    try:
        image = typed(entry)
    except msgspec.DecodeError:  # of LVIS, or with a wrong field, which is found out here
        item = content.plain(entry)
        image_id, name = get_identifier(item, "id"), get_file_name(item)
        return image_id, name, get_size(item.get("width"), item.get("height"))
    name = str(image.file_name).strip()
    if not name:
        raise ValueError("its 'file_name' is empty")
    return image.id, name, get_size(image.width, image.height)


def get_file_name(item: Any) -> str:
    """Return the ``file_name`` of an entry of ``images``.

    LVIS has none: there it is the folder and the name in which ``coco_url`` ends, as in Detectron2.

    Raises:
        ValueError: it is missing or no text.
    """
    if isinstance(item, dict) and "file_name" not in item and "coco_url" in item:
        return "/".join(get_text(item, "coco_url").split("/")[-2:])
    return get_text(item, "file_name")


def image_path(root: str, file_name: str) -> str:
    """Return the file as named, else with Windows separators, else with its letters composed or
    decomposed (archives from macOS differ in that), else without its sub folders."""
    named = os.path.join(root, file_name)
    if os.path.isfile(named):
        return named
    posix = file_name.replace("\\", "/")
    forms = (unicodedata.normalize(form, posix) for form in ("NFC", "NFD"))
    names = (posix, *forms, posix.rsplit("/", 1)[-1])
    tried = [os.path.join(root, name) for name in names]
    return next(filter(os.path.isfile, tried), tried[0])


def _read_annotations(
    content: _File,
    categories: dict[int | str, str],
    index_of: dict[int | str, int],
    records: RecordSet,
) -> None:
    """Append the readable annotations to the objects of the set."""
    typed, objects = content.typed(_Annotation), records.objects
    seen: set[int | str] = set()
    for number, entry in enumerate(content.annotations):
        try:
            annotation = _parse_annotation(entry, number, content, typed, seen)
            name = categories.get(annotation.category_id)
            if name is None:
                reason = f"category id {annotation.category_id!r} is not among the categories"
                raise InvalidAnnotationError(InvalidKind.UNKNOWN_CLASS, reason)
            image = index_of.get(annotation.image_id)
            if image is None:
                reason = f"no image has the id {annotation.image_id!r}"
                raise InvalidAnnotationError(InvalidKind.UNKNOWN_IMAGE, reason)
        except InvalidAnnotationError as error:
            records.reject(error.kind, records.place(None, number), error)
        except ValueError as error:
            kind = InvalidKind.UNREADABLE_OBJECT
            records.reject(kind, records.place(None, number), error)
        else:
            x, y, width, height = annotation.bbox
            box = (x, y, x + width, y + height)
            objects.add(image, name, box, number, annotation.iscrowd)
            objects.segmentation.append(annotation.segmentation or None)
            objects.area.append(annotation.area)


def _parse_annotation(
    entry: Any,
    number: int,
    content: _File,
    typed: Callable[[Any], _Annotation],
    seen: set[int | str],
) -> _Annotation:
    """Parse an annotation, and enter its id into `seen`; ValueError says what is wrong with it.

    An id counts as used also where the rest of the annotation is wrong.
    """
    try:
        annotation = typed(entry)
    except msgspec.DecodeError:  # of LVIS, or with a wrong field, which is found out here
        item = content.plain(entry)
        if isinstance(item, dict) and item.get("id") is not None:
            _use_id(get_identifier(item, "id"), number, seen)
        return _annotation_of(item)
    if annotation.id is not None:
        _use_id(annotation.id, number, seen)
    return annotation


def _use_id(key: int | str, number: int, seen: set[int | str]) -> None:
    if key in seen:
        reason = f"used a second time by annotations[{number}]"
        raise InvalidAnnotationError(InvalidKind.DUPLICATE_ANNOTATION, reason)
    seen.add(key)


def _annotation_of(item: Any) -> _Annotation:
    """Read an annotation field by field; ValueError names the first one that is wrong."""
    return _Annotation(
        image_id=get_identifier(item, "image_id"),
        category_id=get_identifier(item, "category_id"),
        bbox=get_bbox(item),
        iscrowd=get_crowd_flag(item),
        segmentation=item.get("segmentation"),
        area=item.get("area"),
    )


def _place(content: _File, file: str, _: ImageRecord | None, number: int) -> str:
    """Name an annotation by its id, or by its place where it has none."""
    try:
        key = get_identifier(content.plain(content.annotations[number]), "id")
        return f"{file}, annotation id {key!r}"
    except ValueError:
        return f"{file}, annotations[{number}]"


def _sort_by_id(records: RecordSet) -> None:
    order = sorted(range(len(records.images)), key=lambda i: _id_order(records.images[i].id))
    place_of = np.empty(len(order), np.int64)
    place_of[order] = np.arange(len(order))
    records.images = [records.images[i] for i in order]
    records.objects.image = array("q", place_of[records.objects.image].tobytes())
