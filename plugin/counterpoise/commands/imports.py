"""Python files of a user (``--import``), run for the components that they register."""

import importlib.util
import traceback
from collections.abc import Iterable
from pathlib import Path

from counterpoise.errors import UserError


def import_files(paths: Iterable[str | Path]) -> None:
    """Run files of a user for the components that they register.

    Raises:
        UserError: one is missing or raises.
    """
    for path in paths:
        _import_file(Path(path))


def _import_file(path: Path) -> None:
    """Run a user's file for the components that it registers.

    Raises:
        UserError: the file is missing or raises.
    """
    if not path.is_file():
        raise UserError(f"--import {path} does not exist: give the path of a Python file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        raise UserError(
            f"--import {path} fails in line {line}: {type(error).__name__}: {error}"
        ) from error
