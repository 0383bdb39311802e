"""The files below a folder."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from counterpoise.errors import UserError


def find_files(root: Path, wanted: Callable[[str], bool]) -> list[Path]:
    """List the files under ``root`` whose lower-case suffix is wanted, sorted.

    Links to folders are followed, each folder once. Hidden names are left out: ``._a.jpg`` of
    macOS and ``.ipynb_checkpoints`` hold copies, not data.
    """
    return sorted(Path(p) for p in walk(root) if wanted(os.path.splitext(p)[1].lower()))


def walk(root: str | Path) -> Iterator[str]:
    """Name the files under ``root`` as :func:`find_files` does, of all suffixes and unsorted."""

    def fail(error: OSError) -> None:
        raise UserError(f"the folder {error.filename} cannot be read: {error.strerror}")

    seen = set()
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=fail):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(d for d in subfolders if not d.startswith((".", "__MACOSX")))
        yield from (os.path.join(folder, f) for f in files if not f.startswith("."))
