"""JSON files read into the dataclasses that they were written from."""

from pathlib import Path
from typing import TypeVar

import msgspec

from counterpoise.errors import UserError
from counterpoise.utils.files import check_is_file

T = TypeVar("T")


def read_record(path: Path, kind: type[T], fix: str) -> T:
    """Read a JSON file into a dataclass, and check it by the types of its fields.

    Args:
        path: of the file.
        kind: dataclass; keys that it lacks are left out, fields with a default may be absent.
        fix: what to do about a file that is wrong, for the message.

    Raises:
        UserError: the file cannot be read, is incomplete, or a value is of another type or not
            finite.
    """
    try:
        check_is_file(path)
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {fix}") from error
    except msgspec.ValidationError as error:
        raise UserError(f"{path}{where_and_why(error)}: {fix}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not a complete JSON file ({error}): {fix}") from error


def where_and_why(error: msgspec.ValidationError) -> str:
    """Name the field that an error is about, and what was expected, as ``.field: expected ...``."""
    why, _, where = str(error).replace("`", "").partition(" - at $")
    return f"{where}: {why[0].lower()}{why[1:]}"
