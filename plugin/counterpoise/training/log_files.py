"""The files that a training adds to, and their length when a checkpoint was written."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from counterpoise.training import class_loss_file

logger = logging.getLogger(__name__)

#: File of Detectron2's ``JSONWriter``.
METRICS = "metrics.json"
#: Of Detectron2's two writers, and this project's.
PATTERNS = (METRICS, "events.out.tfevents.*", class_loss_file.FILE_NAME)


def log_sizes(folder: Path) -> dict[str, int]:
    """Put the logs in a folder on the disk, and return their sizes in bytes by name."""
    sizes = {}
    for path in _logs(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            sizes[path.name] = os.fstat(file.fileno()).st_size
    return sizes


def rewind_logs(folder: Path, sizes: Mapping[str, int]) -> None:
    """Take back what was logged after a checkpoint, so that a resumed run logs it once.

    Args:
        folder: OUTPUT_DIR.
        sizes: as of :func:`log_sizes`; files that it does not name are removed, since they were
            begun later.
    """
    for path in _logs(folder):
        size = sizes.get(path.name, 0)
        if path.stat().st_size > size:
            os.truncate(path, size)
        if size == 0 and path.name != METRICS:  # which its writer has open
            path.unlink()
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size < size:
            logger.warning("%s has lost what was logged before the checkpoint", path)


def _logs(folder: Path) -> list[Path]:
    return sorted(path for pattern in PATTERNS for path in folder.glob(pattern))
