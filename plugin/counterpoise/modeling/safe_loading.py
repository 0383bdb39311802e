"""Weights of strangers: found or fetched, and read as numbers, without running their code."""

import pickle
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.utils.file_io import PathManager

from counterpoise.errors import UserError

#: What the pickled weights of Detectron2's model zoo are made of; under numpy 2 names have moved.
ARRAYS = {
    *((f"numpy.{core}.multiarray", name)
      for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}  # fmt: skip

# The same for torch's own check: a metric that a hook of the user's keeps is a number of numpy.
torch.serialization.add_safe_globals(
    [
        np.ndarray,
        np.dtype,
        *(value.__reduce__()[0] for value in (np.empty(0), np.float64(0))),
        *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + "?efd"},
    ]
)


class ArrayUnpickler(pickle.Unpickler):
    """Reads a pickle of numpy arrays, numbers and strings, and refuses any other name in it."""

    def find_class(self, module: str, name: str) -> Any:
        """Look up a name that the pickle asks for.

        Raises:
            pickle.UnpicklingError: it is not one that arrays need.
        """
        if (module, name) not in ARRAYS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which could run code")
        return super().find_class(module, name)


def check_pickle(path: Path) -> None:
    """Refuse a pickle that holds anything but arrays, numbers and strings.

    Raises:
        pickle.UnpicklingError: it does.
    """
    with path.open("rb") as file:
        ArrayUnpickler(file, encoding="latin1").load()


def local_checkpoint(path: str) -> str:
    """Resolve MODEL.WEIGHTS to a local file.

    Raises:
        UserError: there is no such file, or it cannot be fetched.
    """
    try:
        local = PathManager.get_local_path(path)
    except UserError:
        raise
    except Exception as error:  # a download can fail in as many ways as there are handlers
        raise UserError(
            f"MODEL.WEIGHTS {path} cannot be fetched ({error}): download it by other means and "
            "give its local path"
        ) from error
    if not Path(local).is_file():
        raise UserError(f"MODEL.WEIGHTS {path} does not exist: give the path of a checkpoint file")
    return local


def load_tensors(path: str | Path) -> Any:
    """Read a file of ``torch.save`` onto the CPU, on every version of torch without running code.

    Raises:
        pickle.UnpicklingError: it holds anything but tensors, arrays, numbers, strings and
            containers, or is of the tar form of torch before 0.4, in which torch before 2.6 runs
            code all the same (CVE-2025-32434).
    """
    if tarfile.is_tarfile(path):
        raise pickle.UnpicklingError("it is of the tar form that torch wrote before 2018")
    return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def refused_by_name(what: str) -> Iterator[None]:
    """Turn whatever reading a file raises into one sentence.

    Args:
        what: is read, such as ``"MODEL.WEIGHTS a.pth"``.

    Raises:
        UserError: the file cannot be read, or would run code.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # both torch and pickle raise anything from KeyError on
        raise UserError(
            f"{what} cannot be read as a checkpoint ({reason(error)}): give a file that "
            "train_net.py or Detectron2 has saved, which holds numbers alone"
        ) from error


def reason(error: Exception) -> str:
    """Why a file could not be read, in a few words."""
    # torch's sentence goes on to recommend reading the file without the check.
    if asked := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it asks for {asked[1]}, which could run code"
    first = str(error).strip().partition("\n")[0].partition(". ")[0][:200]
    return first or type(error).__name__
