"""JSON files, hashes, and writing of files: completely, or not at all."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from counterpoise.errors import UserError

#: Bytes of a file that describes a whole dataset or run.
MAX_BYTES = 8_000_000_000


def check_is_file(path: str | os.PathLike, most: int = MAX_BYTES) -> None:
    """Refuse what would block or fill the memory once it is read.

    Args:
        path: of a file.
        most: bytes that it may have.

    Raises:
        OSError: it is a pipe, a device, a socket or a folder, has more bytes, or cannot be found.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if found.st_size > most:
        raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, more than {most:,}")


def sha256_of(path: str | os.PathLike) -> str:
    """Hash of a file's content, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write a file under a temporary name and rename it, so that no reader meets half of it.

    Args:
        path: of the file; missing folders are made.
        content: text is written as UTF-8, what that has no bytes for (lone surrogates) as escapes.

    Returns:
        `path`.

    Raises:
        UserError: the file cannot be written; nothing of it is left.
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another place") from (
            error
        )
    return path


@contextlib.contextmanager
def durable_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write that appears under its name complete and on the disk, or not at all.

    Args:
        path: of the file, in a folder that exists; an earlier one stays until the new one is there.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def _temporary(path: Path) -> Path:
    # Processes of two machines that share a folder may have one number.
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def unfinished_files(folder: Path, suffix: str = "") -> Iterator[Path]:
    """Temporary files of writers that are at work or were killed.

    Args:
        folder: in which they wrote.
        suffix: of the file that they wrote, such as ``.npz``.
    """
    return folder.glob(f".*{suffix}.[0-9]*.tmp")


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, too; not every file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, content: Any, indent: int | None = 2) -> Path:
    """Write JSON with :func:`write_atomically`; NaN and infinity are a programming error.

    Args:
        path: of the file.
        content: to write.
        indent: None for one long line, many times faster to write.

    Raises:
        UserError: the file cannot be written.
        ValueError: a number is not finite.
    """
    return write_atomically(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file.

    Args:
        path: of the file.
        what: the file holds, for the message, such as "predictions".

    Raises:
        UserError: the file is missing, incomplete or not JSON.
    """
    try:
        check_is_file(path)
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: give the file of the {what}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as {what} ({error}): give a JSON file") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply to be {what}: give another file") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not a complete JSON file ({error.msg}, line {error.lineno}): its writing "
            f"may have been interrupted, so write the {what} again"
        ) from error
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path} cannot be read as {what} ({error}): give another file") from error
