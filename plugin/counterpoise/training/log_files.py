"""The files that a training adds to: their length when a checkpoint was written, and their bounds.

Files of numbers are read as a whole afterwards, so a long training adds to them less often; text is
read from its end, and moved away from time to time.
"""

import logging
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from detectron2.engine import HookBase

from counterpoise.modeling.metric_log import PERIOD
from counterpoise.training import class_loss_file
from counterpoise.utils.output_dir import EVENTS, METRICS

logger = logging.getLogger(__name__)

#: Of Detectron2's two writers, and this project's.
PATTERNS = (METRICS, EVENTS, class_loss_file.FILE_NAME)
#: Bytes up to which, about, such a file grows over a training.
MOST_BYTES = 50_000_000
#: Bytes of a record of Detectron2's writers, and of a class in one of the losses by class.
METRICS_BYTES, CLASS_BYTES = 2_000, 50

#: Bytes up to which a log of text grows before it is moved away, and how many of these stay.
MOST_TEXT, KEPT_TEXTS = 20_000_000, 4
#: Log of Detectron2's loggers: that of a process other than the first, and a part moved away.
TEXT = re.compile(r"log\.txt(?:\.rank(?P<rank>\d+))?(?:\.(?P<part>\d+))?")


def record_period(max_iter: int, record_bytes: int) -> int:
    """Iterations from one record of a file to the next, a multiple of Detectron2's 20.

    It follows from the length of the training alone, so that a resumed run writes as one that never
    stopped.

    Args:
        max_iter: iterations of the training.
        record_bytes: size of a record.

    >>> record_period(90_000, METRICS_BYTES), record_period(1_000_000, METRICS_BYTES)
    (20, 40)
    """
    return PERIOD * max(1, math.ceil(max_iter * record_bytes / (PERIOD * MOST_BYTES)))


class LogRotation(HookBase):
    """Moves the text log of a process away where it has grown long."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: of the log, which is open for appending.
        """
        self.path = path
        self._fails = False

    def after_step(self) -> None:
        """Look at the size from time to time; a failure is logged once and ends nothing."""
        if self._fails or (self.trainer.iter + 1) % PERIOD:
            return
        try:
            if self.path.is_file() and self.path.stat().st_size > MOST_TEXT:
                rotate(self.path)
        except OSError as error:
            self._fails = True
            logger.warning("%s is not moved away and grows (%s)", self.path, error.strerror)


def rotate(path: Path) -> None:
    """Move the content of a log to ``log.txt.1``, ``log.txt.2`` and so on, in this order.

    The first part, which says how the training began, and the newest ones stay. The file itself
    stays too, and is emptied: its writers have it open, and go on at its end.

    Args:
        path: of the log.

    Raises:
        OSError: it cannot be copied; it is as it was.
    """
    parts = [int(p.suffix[1:]) for p in path.parent.glob(f"{path.name}.*") if _is_part(p, path)]
    parts = sorted([*parts, max(parts, default=0) + 1])
    copy = path.with_name(f"{path.name}.{parts[-1]}")
    try:
        shutil.copyfile(path, copy)
    except OSError:
        copy.unlink(missing_ok=True)
        raise
    os.truncate(path, 0)
    for number in parts[1 : 1 - KEPT_TEXTS]:
        path.with_name(f"{path.name}.{number}").unlink()


def _is_part(path: Path, whole: Path) -> bool:
    return path.stem == whole.name and path.suffix[1:].isdecimal()


def remove_start(path: Path, size: int) -> None:
    """Remove the first bytes of a log that this process has open for appending.

    Args:
        path: of the log.
        size: bytes to remove.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("r+b") as file:
        file.seek(size)
        kept = file.read()
        file.seek(0)
        file.write(kept)
        file.truncate()


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
