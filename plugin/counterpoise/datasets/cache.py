"""What was read from a dataset, kept outside of it and used until one of its inputs changes.

A cache file is a NumPy archive of plain arrays: reading it runs no code, whoever wrote it.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from counterpoise.datasets.fingerprint import Fingerprint
from counterpoise.datasets.invalid_annotations import InvalidAnnotation, InvalidKind
from counterpoise.datasets.packed import COLUMNS, PackedRecords
from counterpoise.datasets.report import Report
from counterpoise.datasets.spec import DatasetSpec
from counterpoise.errors import UserError
from counterpoise.utils.files import unfinished_files, write_atomically

AUTO, NONE = "auto", "none"

#: Seconds after which a file that is still unfinished has no writer any more.
_ABANDONED = 24 * 3600

_logger = logging.getLogger("counterpoise.datasets")


@dataclass(frozen=True)
class Reading:
    """A dataset as read and checked.

    Attributes:
        records: all valid records.
        class_names: those that the dataset itself defines, or its ``CLASSES``.
        report: on the whole.
        part: (M,) uint8, of each image the number of its part in ``DatasetSpec.parts``; None where
            nothing is held out.
    """

    records: PackedRecords
    class_names: tuple[str, ...]
    report: Report
    part: np.ndarray | None


def cache_folder(setting: str) -> Path | None:
    """Return the folder of ``DATASETS.CACHE``; None where nothing is kept.

    ``auto`` is the user's own folder for caches (XDG Base Directory Specification).
    """
    if setting in (NONE, ""):
        return None
    if setting != AUTO:
        return Path(setting)
    user = os.environ.get("XDG_CACHE_HOME", "")
    return Path(user if os.path.isabs(user) else os.path.expanduser("~/.cache"), "counterpoise")


def cache_file(spec: DatasetSpec, classes: tuple[str, ...] | None) -> Path:
    """Return the file for a dataset read with a class list; every option that matters has its own.

    Args:
        spec: with a folder for caches.
        classes: that give the category ids; None for those of the dataset.
    """
    options = {f.name: str(getattr(spec, f.name)) for f in fields(spec) if f.name != "cache"}
    text = json.dumps([options, classes])
    key = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return spec.cache / f"{re.sub(r'[^0-9A-Za-z_-]', '_', spec.name)[:80]}-{key}.npz"


def load(path: Path, state: Fingerprint) -> Reading | None:
    """Return what a cache file holds; None where it is missing, damaged, or of another state."""
    try:
        with np.load(path, allow_pickle=False) as archive:  # checks the sums of what it reads
            header = json.loads(archive["header"].tobytes())
            if header["digest"] != state.digest:
                return None
            records = PackedRecords({name: archive[name] for name in COLUMNS})
            part = archive["part"].astype(np.uint8) if "part" in archive else None
            return _reading(header, records, part)
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged archive raises anything
        _logger.debug("%s cannot be used (%s) and is written anew", path, error)
        return None


def _reading(header: dict, records: PackedRecords, part: np.ndarray | None) -> Reading:
    invalid = [
        InvalidAnnotation(InvalidKind(kind), *rest)
        for kind, *rest in header["report"].pop("invalid_annotations")
    ]
    report = Report(**header["report"], invalid_annotations=invalid)
    names = tuple(header["class_names"])
    ids = records.columns["category_ids"]
    if len(records) != report.images or (part is not None and len(part) != len(records)):
        raise ValueError("another number of images than its header says")
    if len(ids) and not 0 <= ids.min() <= ids.max() < header["num_classes"]:
        raise ValueError("a class that does not exist")
    return Reading(records, names, report, part)


def store(path: Path, reading: Reading, state: Fingerprint, num_classes: int) -> None:
    """Write a cache file, whole or not at all; where it cannot be written, nothing is lost.

    Args:
        path: of the file.
        reading: to keep.
        state: of the inputs before they were read.
        num_classes: K of the category ids.
    """
    report = asdict(reading.report)
    report["invalid_annotations"] = [
        (str(found.kind), found.where, found.reason, found.boxes)
        for found in reading.report.invalid_annotations
    ]
    header = {
        "digest": state.digest,
        "class_names": reading.class_names,
        "num_classes": num_classes,
        "report": report,
    }
    arrays = dict(reading.records.columns)
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    if reading.part is not None:
        arrays["part"] = reading.part
    content = io.BytesIO()
    np.savez(content, **arrays)
    try:
        write_atomically(path, content.getvalue())
    except UserError as error:
        _logger.info("The dataset is read anew at every start: %s", error)
    _remove_abandoned(path.parent)


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of writers that were killed, here or on another host, long ago."""
    for unfinished in unfinished_files(folder, ".npz"):
        with contextlib.suppress(OSError):
            if time.time() - unfinished.stat().st_mtime > _ABANDONED:
                unfinished.unlink()
