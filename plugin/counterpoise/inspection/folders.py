"""Finding out what a folder of data holds, and writing it down as DATASETS.CUSTOM entries."""

import contextlib
import json
import os
import re
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import yaml

from counterpoise.datasets import DatasetSpec, parse_specs
from counterpoise.datasets.coco import get_file_name, image_path
from counterpoise.datasets.split_names import SPLIT_WORDS, split_of
from counterpoise.datasets.yolo_layout import find_layout
from counterpoise.datasets.yolo_yaml import split_places, yolo_class_names
from counterpoise.errors import UserError
from counterpoise.utils.images import image_suffixes
from counterpoise.utils.text import listed
from counterpoise.utils.walking import find_files
from counterpoise.utils.yaml_files import load_yaml

ROLES = tuple(SPLIT_WORDS)
_VOC_IMAGES = ("JPEGImages", "images", "Images")
_VOC_ANNOTATIONS = ("Annotations", "annotations")
_PROBED = 20  # file names of a COCO file by which its folder of images is found, and XML files


@dataclass
class FolderDataset:
    """The parts of a folder.

    Attributes:
        entries: ``DATASETS.CUSTOM`` entry by the name of the part, which is fit for that of a
            dataset, or "" where there is one undivided set. Paths are absolute.
        roles: ``train``, ``val``, ``test`` or None by the name of the part. Several can have one
            role. The first is to be trained on.
        notes: what was left out or taken for what, one sentence each.
    """

    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    roles: dict[str, str | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, role: str | None, entry: dict[str, Any]) -> None:
        """Add a part; its name is made fit for a dataset, and changed where it is taken."""
        base = re.sub(r"\W+", "_", name).strip("_") or "part"
        names = (base if i == 1 else f"{base}_{i}" for i in count(1))
        name = next(name for name in names if name not in self.entries)
        self.entries[name], self.roles[name] = entry, role

    def order(self) -> None:
        """Bring the part to train on to the front, and say so where its name does not."""
        if len(self.entries) == 1:
            ((name, entry),) = self.entries.items()
            if self.roles[name] in ("val", "test"):
                self.notes.append(
                    f"'{name}' is called {self.roles[name]}, but is the only split: it is taken "
                    "for the data to train on"
                )
            self.entries, self.roles = {"": entry}, {"": None}
            return
        nameless = [name for name, role in self.roles.items() if role is None]
        if "train" not in self.roles.values():
            self._choose_training(nameless)
        elif set(self.roles.values()) == {"train", None}:
            self.notes.append(
                f"no split is called val or test: '{nameless[0]}' is taken to test on"
            )
        order = [name for role in ROLES for name in self.roles if self.roles[name] == role]
        order += [name for name in self.roles if self.roles[name] is None]
        self.entries = {name: self.entries[name] for name in order}
        self.roles = {name: self.roles[name] for name in order}

    def _choose_training(self, nameless: list[str]) -> None:
        if len(nameless) == len(self.entries):
            first, second, *_ = nameless
            self.notes.append(
                f"no name says which split it is: '{first}' is taken to train on, and '{second}' "
                "to test on"
            )
        elif nameless:
            self.roles |= dict.fromkeys(nameless, "train")
            self.notes.append(f"no split is called train; taken to train on: {_quoted(nameless)}")
        else:
            role = min(self.roles.values(), key=ROLES.index)
            names = [name for name in self.roles if self.roles[name] == role]
            self.notes.append(
                f"no split is called train; taken to train on, though called {role}: "
                f"{_quoted(names)}"
            )


def real_path(path: Path) -> Path:
    """Resolve all links but that of a file itself: what it names lies beside the link."""
    return path.parent.resolve() / path.name if path.is_file() else path.resolve()


def _quoted(names: list[str]) -> str:
    return listed([f"'{name}'" for name in names], 8)


def detect_folder(folder: Path, outside_files: bool = False) -> FolderDataset:
    """Recognise a YOLO, Pascal VOC or COCO dataset.

    Args:
        folder: of the dataset, or the data.yaml of a YOLO dataset, whatever its name.
        outside_files: whether its files may lie outside of it.

    Raises:
        UserError: the folder is none of them, or a file that it is recognised by cannot be used.
    """
    folder = real_path(folder)
    try:
        options = {"OUTSIDE_FILES": True} if outside_files else {}
        of_folders = (_voc, _coco, _voc_beside_images, _yolo_without_yaml)
        detectors = (_yolo, *of_folders) if folder.is_dir() else (_yolo,)
        candidates = (detect(folder, options) for detect in detectors)
        found = next((dataset for dataset in candidates if dataset.entries), None)
    except OSError as error:
        raise UserError(
            f"the folder {error.filename} cannot be read ({error.strerror}): fix its permissions"
        ) from error
    if found is not None:
        found.order()
        return found
    if folder.is_file():
        raise UserError(
            f"{folder} is a file without the 'names' of a YOLO dataset: give the folder of the "
            "dataset, or its name and the --config-file that defines it"
        )
    raise UserError(
        f"{folder} holds no dataset: looked for a data.yaml with 'names', or a classes.txt with "
        "folders images and labels, or with images and their txt in one folder (YOLO), for a "
        "folder Annotations of XML files beside JPEGImages or images, or XML files in one folder "
        "with their images, also by split (Pascal VOC), and for a JSON file with 'images', "
        "'annotations' and 'categories' whose images are below the folder (COCO); give the folder "
        "that holds one of these, or a config with --config-file"
    )


def _yolo(folder: Path, options: dict[str, Any]) -> FolderDataset:
    found = FolderDataset()
    paths = (folder, folder / "data.yaml", folder / "data.yml")
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return found
    try:
        content = load_yaml(path.read_text(encoding="utf-8-sig"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        content = {"names": None}  # the reader says what is wrong with it
    if not isinstance(content, dict) or "names" not in content:
        return found
    problems = []
    for role in ROLES:
        entry = {"FORMAT": "yolo", "DATA_YAML": str(path), "SPLIT": role} | options
        spec = parse_specs({role: entry})[role]
        is_meant = any(content.get(word) for word in SPLIT_WORDS[role])
        try:
            split_places(spec)
            is_meant = True  # a folder that the yaml need not name
            if role != "train":  # of which the reader says what is wrong
                _require_labelled_images(spec)
        except UserError as error:
            problems.append(error)
            if is_meant:
                found.notes.append(f"the split '{role}' is left out: {error}")
        else:
            found.add(role, role, entry)
    if not found.entries:
        raise problems[0]
    return found


def _require_labelled_images(spec: DatasetSpec) -> None:
    layout = find_layout(spec)  # refuses a folder without labels
    if not layout.pairs:
        raise UserError(f"there is no image in {listed([*map(str, layout.places)], 3)}")


def _yolo_without_yaml(folder: Path, options: dict[str, Any]) -> FolderDataset:
    """Images and label files in two folders or side by side, with a classes.txt."""
    found = FolderDataset()
    images, labels = folder / "images", folder / "labels"
    if not (images.is_dir() and labels.is_dir()):
        images = labels = folder
    if not any((place / "classes.txt").is_file() for place in (labels, folder)):
        return found
    whole = {"FORMAT": "yolo", "IMAGES": str(images), "ANNOTATIONS": str(labels)} | options
    spec = parse_specs({"all": whole})["all"]
    files = [label for _, label in find_layout(spec).pairs if label is not None]
    if files:
        # The reader of a part does not look for the list two folders above.
        _add_splits(found, images, labels, files, whole | {"CLASSES": [*yolo_class_names(spec)]})
        if not found.entries:
            found.add("all", None, whole)
    return found


def _voc(folder: Path, options: dict[str, Any]) -> FolderDataset:
    found = FolderDataset()
    annotations = _first_folder(folder, _VOC_ANNOTATIONS)
    images = _first_folder(folder, _VOC_IMAGES)
    if None in (annotations, images):
        return found
    xmls = find_files(annotations, {".xml"}.__contains__)
    if not xmls:
        return found
    whole = {"FORMAT": "voc", "IMAGES": str(images), "ANNOTATIONS": str(annotations)} | options
    lists = {path.stem.lower(): path for path in (folder / "ImageSets" / "Main").glob("*.txt")}
    for role, words in SPLIT_WORDS.items():
        if word := next((word for word in words if word in lists), None):
            found.add(role, role, whole | {"SPLIT_FILE": str(lists[word])})
            if word == "train" and "trainval" in lists:
                found.notes.append("trainval.txt is left out, being train.txt and val.txt together")
    if not found.entries:
        _add_splits(found, images, annotations, xmls, whole)
    if not found.entries:
        found.add("all", None, whole)
    return found


def _add_splits(
    found: FolderDataset, images: Path, labels: Path, files: list[Path], whole: dict[str, Any]
) -> None:
    """Add a part for each folder of label files, where all lie in folders that are called splits.

    Args:
        found: to add to.
        images, labels: folders of them; a part has the one of its name in each.
        files: all label files.
        whole: the entry of the undivided set.
    """
    inside = {path.relative_to(labels).parts[0] for path in files}
    if not all(split_of(name) and (labels / name).is_dir() for name in inside):
        return
    for name in sorted(inside):
        role, beside = split_of(name), images / name
        own = {"IMAGES": str(beside if beside.is_dir() else images)}
        found.add(role, role, whole | own | {"ANNOTATIONS": str(labels / name)})


def _first_folder(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _voc_beside_images(folder: Path, options: dict[str, Any]) -> FolderDataset:
    found = FolderDataset()
    places = [place for place in _folders(folder) if _holds_images_with_xml(place)]
    split = [place for place in places if _role(place, folder)]
    if places and not split:
        split = [places[0] if len(places) == 1 else folder]
    for place in split:
        entry = {"FORMAT": "voc", "IMAGES": str(place), "ANNOTATIONS": str(place)} | options
        role = _role(place, folder)
        found.add(role or place.name, role, entry)
    if found.entries and split != [folder]:
        found.notes += [
            f"{place} is left out: its name says no split" for place in places if place not in split
        ]
    return found


def _holds_images_with_xml(folder: Path) -> bool:
    """Whether images and XML files of Pascal VOC lie side by side directly in a folder."""
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    xmls = (path for path in paths if path.suffix.lower() == ".xml")
    images = image_suffixes()
    return any(path.suffix.lower() in images for path in paths) and any(
        _is_voc(path) for path in islice(xmls, _PROBED)
    )


def _is_voc(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b"<annotation" in file.read(4096)


def _coco(folder: Path, options: dict[str, Any]) -> FolderDataset:
    folders = _folders(folder)
    found = FolderDataset()
    known: list[tuple[str | None, Path, Path, set[str]]] = []  # role, file, folder, and images
    files = (path for place in folders for path in place.glob("*.json"))
    # COCO itself has keypoints of the same images beside its instances.
    for path in sorted(files, key=lambda p: (not p.name.startswith("instances"), p)):
        if (names := _coco_file_names(path)) is None:
            continue
        role = _role(path, folder)
        place = _images_of(path, names, role, folders)
        if place is None:
            found.notes.append(
                f"{path} is left out: the images that it names are not below {folder}"
            )
            continue
        images = {str(place / name) for name in names}
        others = (
            other
            for known_role, other, _, theirs in known
            if known_role == role and 2 * len(theirs & images) > len(images)
        )
        if other := next(others, None):
            found.notes.append(f"{path} is left out: {other} is of the same images")
            continue
        known.append((role, path, place, images))
    roles = [role for role, *_ in known]
    for role, path, place, _ in known:
        entry = {"FORMAT": "coco", "IMAGES": str(place), "ANNOTATIONS": str(path)} | options
        found.add(role if role and roles.count(role) == 1 else path.stem, role, entry)
    return found


def _folders(folder: Path) -> list[Path]:
    """The folder, those in it and those in them."""
    folders = [folder, *_subfolders(folder)]
    return folders + [below for inner in folders[1:] for below in _subfolders(inner)]


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
    names = []
    for image in content["images"]:
        with contextlib.suppress(ValueError):  # which the reader reports
            names.append(get_file_name(image))
    return names


def _role(path: Path, folder: Path) -> str | None:
    """The split that the own name of a file or folder speaks of, else one that it lies in."""
    inside = [path.stem, *(part.name for part in path.parents if folder in part.parents)]
    return next(filter(None, map(split_of, inside)), None) if path != folder else None


def _images_of(path: Path, names: list[str], role: str | None, folders: list[Path]) -> Path | None:
    """The folder that holds most of these files; of two alike, the one that fits the split.

    Files under their whole names count before those that the reader finds by a part of them.
    """

    def fit(place: Path) -> tuple[int, int, bool, bool]:
        probed = names[:_PROBED]
        named = sum((place / name.replace("\\", "/")).is_file() for name in probed)
        read = named or sum(os.path.isfile(image_path(str(place), name)) for name in probed)
        fits = role is not None and role == _role(place, folders[0])
        return named, read, fits, place == path.parent

    best = max(folders, key=fit)
    return best if fit(best)[1] else None
