"""Which image belongs to which YOLO label file."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from counterpoise.datasets.files import (
    find_by_trailing_part,
    path_parts,
    read_text,
    require_folder,
)
from counterpoise.datasets.spec import DatasetSpec
from counterpoise.datasets.yolo_yaml import split_places
from counterpoise.errors import UserError
from counterpoise.utils.images import image_suffixes
from counterpoise.utils.walking import find_files, walk


@dataclass
class Layout:
    """The files of one YOLO split.

    Attributes:
        root: folder to which image ids are relative.
        places: the folders and lists that were searched.
        folders: in which all files should be: those that the config or ``data.yaml`` names or
            follow from it.
        pairs: (image, its label file or None), in order of discovery.
        orphans: label files without an image.
        notes: what a user should know though nothing is wrong.
    """

    root: Path
    places: list[Path]
    folders: list[Path]
    pairs: list[tuple[Path, Path | None]] = field(default_factory=list)
    orphans: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_layout(spec: DatasetSpec) -> Layout:
    """Find images and label files, below IMAGES and ANNOTATIONS or where ``data.yaml`` says.

    Raises:
        UserError: a folder, list or split is missing, or a split has no labels at all.
    """
    if spec.data_yaml is None:
        return _from_folders(spec)
    places, notes = split_places(spec)
    only_folder = len(places) == 1 and os.path.isdir(places[0])
    root = places[0] if only_folder else spec.data_yaml.parent
    layout = Layout(root, places, [spec.data_yaml.parent, *_folders_of(places)], notes=notes)
    for place in places:
        if os.path.isdir(place):
            _add_folder(layout, place)
        elif place.suffix.lower() == ".txt":
            images = _listed(place, spec, notes)
            layout.pairs += [(image, _label_on_disk(image)) for image in images]
        else:
            layout.pairs.append((place, _label_on_disk(place)))
    return layout


def expected_label(image: Path, spec: DatasetSpec) -> Path:
    """Where the label file of an image is looked for first."""
    if spec.data_yaml is None:
        return spec.annotations / image.relative_to(spec.images).with_suffix(".txt")
    return _label_candidates(image)[0]


def yolo_files(spec: DatasetSpec) -> Iterator[str]:
    """Name all files on which the reading of a split depends, in an order that depends on them.

    Raises:
        UserError: as :func:`find_layout`.
    """
    if spec.data_yaml is None:
        labels = str(spec.annotations)
        yield from sorted((*walk(spec.images), *walk(labels)))
        yield os.path.join(os.path.dirname(labels), "classes.txt")
        return
    yield str(spec.data_yaml)
    places, _ = split_places(spec)
    for place in places:
        yield str(place)
        if os.path.isdir(place):
            labels = _beside_images(place)
            yield from sorted(walk(place))
            yield from sorted(walk(labels)) if labels and os.path.isdir(labels) else ()
    if not all(map(os.path.isdir, places)):
        # Where the images of a list are, and which have labels, follows from what exists.
        for image, label in find_layout(spec).pairs:
            yield str(image)
            yield str(label)


def _folders_of(places: list[Path]) -> Iterator[Path]:
    """The folder of each place, and that of its labels."""
    for place in places:
        folder = place if os.path.isdir(place) else place.parent
        yield folder
        if labels := _beside_images(folder):
            yield labels


def _from_folders(spec: DatasetSpec) -> Layout:
    key = f"DATASETS.CUSTOM.{spec.name}"
    images = require_folder(spec.images, f"{key}.IMAGES")
    labels = require_folder(spec.annotations, f"{key}.ANNOTATIONS")
    layout = Layout(images, [images], [images, labels])
    txts = _label_files(labels)
    for image in find_files(images, image_suffixes().__contains__):
        label = expected_label(image, spec)
        layout.pairs.append((image, label if label in txts else None))
    layout.orphans = _unpaired(txts, layout)
    return layout


def _add_folder(layout: Layout, folder: Path) -> None:
    if os.path.realpath(folder) == folder.anchor:  # too many `..`
        raise UserError(
            f"{folder} is the root of the file system, not a folder of images: mend its path in "
            "the data.yaml"
        )
    labels = _beside_images(folder)
    txts = _label_files(folder)
    if labels is not None and os.path.isdir(labels):
        txts |= _label_files(labels)
    elif all(map(_is_readme, txts)):
        raise UserError(
            f"{folder} has no labels: expected txt files in {labels or folder}; create that "
            "folder if all images really are background"
        )
    for image in find_files(folder, image_suffixes().__contains__):
        label = next((path for path in _label_candidates(image) if path in txts), None)
        layout.pairs.append((image, label))
    layout.orphans += _unpaired(txts, layout)


def _listed(listing: Path, spec: DatasetSpec, notes: list[str]) -> list[Path]:
    """Images that a txt names, relative to the txt or to the yaml, or on another machine."""
    images = []
    folders = (listing.parent, spec.data_yaml.parent)
    moved = 0
    lines = read_text(listing, f"the list of images of '{spec.split}'").splitlines()
    for line in filter(None, map(str.strip, lines)):
        posix = line.replace("\\", "/")
        tried = [Path(os.path.normpath(folder / posix)) for folder in folders]
        image = next((path for path in tried if os.path.isfile(path)), None)
        if image is None:
            image = find_by_trailing_part(path_parts(line), folders)
            moved += image is not None
        images.append(image or tried[0])
    if moved:
        notes.append(
            f"images of {listing} whose paths are not on this machine, found by the trailing part "
            f"of them: {moved}"
        )
    return images


def _label_files(folder: Path) -> set[Path]:
    txts = find_files(folder, {".txt"}.__contains__)
    return {path for path in txts if path.name.lower() != "classes.txt"}


def _is_readme(path: Path) -> bool:
    """Whether a text is one that exports lay beside labels, unless an image is called so."""
    return path.name.lower().startswith("readme")


def _unpaired(txts: set[Path], layout: Layout) -> list[Path]:
    unpaired = txts - {label for _, label in layout.pairs}
    return sorted(path for path in unpaired if not _is_readme(path))


def _label_on_disk(image: Path) -> Path | None:
    return next((path for path in _label_candidates(image) if os.path.isfile(path)), None)


def _label_candidates(image: Path) -> list[Path]:
    label = Path(os.path.splitext(image)[0] + ".txt")
    beside_images = _beside_images(label)
    return [label] if beside_images is None else [beside_images, label]


def _beside_images(path: Path) -> Path | None:
    """The path with its last component ``images`` put to ``labels``; None where it has none."""
    parts = list(path.parts)
    for i in reversed(range(len(parts))):
        if parts[i] == "images":
            parts[i] = "labels"
            return Path(*parts)
    return None
