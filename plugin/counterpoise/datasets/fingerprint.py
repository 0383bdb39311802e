"""Whether anything changed that a reading of a dataset depends on."""

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import PIL

from counterpoise.datasets.spec import DatasetSpec
from counterpoise.datasets.yolo_layout import yolo_files
from counterpoise.utils.walking import walk

#: File systems count time in steps of up to two seconds (FAT).
SETTLING_NS = 2_000_000_000


@dataclass(frozen=True)
class Fingerprint:
    """State of all inputs of a reading.

    Attributes:
        digest: other than that of any other state.
        settled: no file has changed so recently that it could change again and look the same.
    """

    digest: str
    settled: bool


def fingerprint(spec: DatasetSpec) -> Fingerprint:
    """Look at the names and states of all files of a dataset, and at what reads them.

    Raises:
        UserError: a folder cannot be read, or ``data.yaml`` is unusable.
    """
    digest = hashlib.blake2b(_reader_digest(), digest_size=16)
    now, newest = time.time_ns(), 0
    for path in _files(spec):
        try:
            size, modified, changed = file_state(path)
        except OSError:
            state = "missing"
        else:
            state = f"{size} {modified} {changed}"
            # Cameras and archives set times of modification that are still to come.
            newest = max(newest, changed, modified if modified <= now else 0)
        digest.update(f"{path}\0{state}\0".encode(errors="surrogateescape"))
    return Fingerprint(digest.hexdigest(), settled=now - newest > SETTLING_NS)


def file_state(path: str) -> list[int]:
    """Size, time of modification, and time of change of the inode, in ns; any may tell a change.

    The last one also moves where a copy keeps the time of modification.

    Raises:
        OSError: the file cannot be found.
    """
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _files(spec: DatasetSpec) -> Iterator[str]:
    """Every file on which the reading depends, in an order of its own."""
    if spec.format == "yolo":
        yield from yolo_files(spec)
        return
    yield from sorted(walk(spec.images))
    if spec.format == "coco":
        yield str(spec.annotations)
        return
    yield from sorted(walk(spec.annotations))
    if spec.split_file is not None:
        yield str(spec.split_file)


@cache
def _reader_digest() -> bytes:
    """Digest of the code that reads, here and in libraries: other code, other records."""
    digest = hashlib.blake2b(PIL.__version__.encode())
    digest.update(version("pycocotools").encode())
    here = Path(__file__).parent
    for path in sorted((*here.glob("*.py"), *(here.parent / "utils").glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.digest()
