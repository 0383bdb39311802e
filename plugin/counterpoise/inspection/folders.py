"""Finding out what a folder of data holds, and writing it down as DATASETS.CUSTOM entries."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from counterpoise.datasets import parse_specs
from counterpoise.datasets.files import find_files
from counterpoise.datasets.yolo_yaml import split_places
from counterpoise.errors import UserError

ROLES = ("train", "val", "test")
_VOC_IMAGES = ("JPEGImages", "images", "Images")
_VOC_ANNOTATIONS = ("Annotations", "annotations")
_PROBED = 20  # file names of a COCO file by which its folder of images is found


@dataclass
class FolderDataset:
    """The splits of a folder.

    Attributes:
        entries: ``DATASETS.CUSTOM`` entry by split: ``train``, ``val``, ``test``, another name, or
            "" where there is one undivided set. Paths are absolute.
        notes: what was left out, one sentence each.
    """

    entries: dict[str, dict[str, Any]]
    notes: list[str] = field(default_factory=list)


def detect_folder(folder: Path, outside_files: bool = False) -> FolderDataset:
    """Recognise a YOLO, Pascal VOC or COCO dataset.

    Args:
        folder: of the dataset.
        outside_files: whether its files may lie outside of it.

    Raises:
        UserError: the folder is none of them, or a file that it is recognised by cannot be used.
    """
    folder = folder.resolve()
    try:
        options = {"OUTSIDE_FILES": True} if outside_files else {}
        candidates = (detect(folder, options) for detect in (_yolo, _voc, _coco))
        found = next((dataset for dataset in candidates if dataset is not None), None)
    except OSError as error:
        raise UserError(
            f"the folder {error.filename} cannot be read ({error.strerror}): fix its permissions"
        ) from error
    if found is not None:
        if len(found.entries) == 1:  # undivided, whatever its one split is called
            found.entries = {"": next(iter(found.entries.values()))}
        order = [*ROLES, *(name for name in found.entries if name not in ROLES)]
        found.entries = {name: found.entries[name] for name in order if name in found.entries}
        return found
    raise UserError(
        f"{folder} holds no dataset: looked for a data.yaml with 'names' (YOLO), for a folder "
        "Annotations of XML files beside JPEGImages or images (Pascal VOC), and for a JSON file "
        "with 'images', 'annotations' and 'categories' whose images are below the folder (COCO); "
        "give the folder that holds one of these, or a config with --config-file"
    )


def _yolo(folder: Path, options: dict[str, Any]) -> FolderDataset | None:
    path = next((p for p in (folder / "data.yaml", folder / "data.yml") if p.is_file()), None)
    if path is None:
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        content = {"names": None}  # the reader says what is wrong with it
    if not isinstance(content, dict) or "names" not in content:
        return None
    found = FolderDataset({})
    problems = []
    for role in ROLES:
        entry = {"FORMAT": "yolo", "DATA_YAML": str(path), "SPLIT": role} | options
        try:
            split_places(parse_specs({role: entry})[role])
        except UserError as error:
            problems.append(error)
            if content.get(role):
                found.notes.append(f"the split '{role}' is left out: {error}")
        else:
            found.entries[role] = entry
    if not found.entries:
        raise problems[0]
    return found


def _voc(folder: Path, options: dict[str, Any]) -> FolderDataset | None:
    annotations = _first_folder(folder, _VOC_ANNOTATIONS)
    images = _first_folder(folder, _VOC_IMAGES)
    if None in (annotations, images) or not find_files(annotations, {".xml"}.__contains__):
        return None
    whole = {"FORMAT": "voc", "IMAGES": str(images), "ANNOTATIONS": str(annotations)} | options
    lists = {path.stem: path for path in (folder / "ImageSets" / "Main").glob("*.txt")}
    found = FolderDataset({})
    if "train" not in lists and "trainval" in lists:
        lists["train"] = lists["trainval"]
    elif "trainval" in lists:
        found.notes.append("trainval.txt is left out, being train.txt and val.txt together")
    splits = {role: lists[role] for role in ROLES if role in lists}
    found.entries = {role: whole | {"SPLIT_FILE": str(path)} for role, path in splits.items()}
    found.entries = found.entries or {"": whole}
    return found


def _first_folder(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _coco(folder: Path, options: dict[str, Any]) -> FolderDataset | None:
    folders = [folder, *_subfolders(folder)]
    folders += [below for inner in folders[1:] for below in _subfolders(inner)]
    found = FolderDataset({})
    described: dict[str | None, tuple[Path, set[str]]] = {}  # by split, its file and images
    files = (path for place in folders for path in place.glob("*.json"))
    # COCO itself has keypoints of the same images beside its instances.
    for path in sorted(files, key=lambda p: (not p.name.startswith("instances"), p)):
        if (names := _coco_file_names(path)) is None:
            continue
        role = _role(path, folder)
        other, known = described.get(role, (None, set()))
        if 2 * len(known.intersection(names)) > len(names):
            found.notes.append(f"{path} is left out: {other} is of the same images")
            continue
        images = _images_of(path, names, role, folders)
        if images is None:
            found.notes.append(
                f"{path} is left out: the images that it names are not below {folder}"
            )
            continue
        entry = {"FORMAT": "coco", "IMAGES": str(images), "ANNOTATIONS": str(path)} | options
        described.setdefault(role, (path, {*names}))
        found.entries[path.stem if role is None or role in found.entries else role] = entry
    return found if found.entries else None


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _coco_file_names(path: Path) -> list[str] | None:
    """The image files of a COCO file; None where the JSON is something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in lists):
        return None
    names = [image.get("file_name") for image in content["images"] if isinstance(image, dict)]
    return [name for name in names if isinstance(name, str)]


def _role(path: Path, folder: Path) -> str | None:
    """The split that the file's own name speaks of, else the folder that it lies in."""
    inside = [path.stem, *(part.name for part in path.parents if folder in part.parents)]
    words = (word for name in inside for word in _words(name))
    names = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
    return next((names[word] for word in words if word in names), None)


def _words(name: str) -> Iterator[str]:
    return (word.lower() for word in re.findall(r"[A-Za-z]+", name))


def _images_of(path: Path, names: list[str], role: str | None, folders: list[Path]) -> Path | None:
    """The folder that holds most of these files; of two alike, the one that fits the split."""

    def fit(place: Path) -> tuple[int, bool, bool]:
        files = sum((place / name.replace("\\", "/")).is_file() for name in names[:_PROBED])
        return files, role is not None and role in _words(place.name), place == path.parent

    best = max(folders, key=fit)
    return best if fit(best)[0] else None
