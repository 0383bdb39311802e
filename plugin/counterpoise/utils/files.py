"""JSON files, and writing of files: completely, or not at all."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from counterpoise.errors import UserError


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write a file under a temporary name and rename it, so that no reader meets half of it.

    Args:
        path: of the file; missing folders are made.
        content: text is written as UTF-8.

    Returns:
        `path`.

    Raises:
        UserError: the file cannot be written; nothing of it is left.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
