"""Images that were found damaged when they were read in full, remembered for the next start.

A start looks at the first bytes of an image, and the rest may be torn. What a training or an
evaluation finds is a line in a file beside the caches, and holds until the image changes.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from counterpoise.datasets.fingerprint import file_state
from counterpoise.utils.text import printable

FILE_NAME = "damaged-images.jsonl"

#: Characters of a reason, so that a line is written in one piece.
_LONGEST = 500


def remember_damaged(folder: Path | None, file: str, reason: str) -> None:
    """Remember a damaged image, unless that is known already.

    Args:
        folder: for caches, see :func:`counterpoise.datasets.cache.cache_folder`; None keeps
            nothing, nor does one that cannot be written.
        file: the image.
        reason: what is wrong with it.
    """
    if folder is None or damaged_images(folder, [file]):
        return
    try:
        line = {
            "file": os.path.abspath(file),
            "state": file_state(file),
            "reason": reason[:_LONGEST],
        }
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / FILE_NAME).open("a", encoding="ascii") as log:
            log.write(json.dumps(line) + "\n")
    except OSError:
        pass


def damaged_images(folder: Path | None, files: Iterable[str]) -> dict[str, str]:
    """Return which images are known to be damaged and have not changed since, with the reasons.

    Args:
        folder: for caches; None knows none.
        files: the images of a dataset.
    """
    known = _known(folder) if folder is not None else {}
    if not known:
        return {}
    found = {}
    for file in files:
        state, reason = known.get(os.path.abspath(file), (None, ""))
        if state is not None and state == _state_or_none(file):
            found[file] = reason
    return found


def _known(folder: Path) -> dict[str, tuple[list[int], str]]:
    """State and reason by file, the latest of each; lines that are torn or foreign say nothing."""
    known = {}
    try:
        lines = (folder / FILE_NAME).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    for line in lines:
        try:
            entry = json.loads(line)
            known[entry["file"]] = entry["state"], printable(str(entry["reason"]), lines=False)
        except (ValueError, KeyError, TypeError):
            continue
    return known


def _state_or_none(file: str) -> list[int] | None:
    try:
        return file_state(file)
    except OSError:
        return None
