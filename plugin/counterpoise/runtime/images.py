"""The images to look at: which files, and their pixels."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from counterpoise.errors import UserError
from counterpoise.utils.images import UnreadableImageError, image_suffixes
from counterpoise.utils.pixels import to_8_bits
from counterpoise.utils.walking import find_files


@dataclass(frozen=True)
class InputImage:
    """An image to look at.

    Attributes:
        path: of the file.
        name: relative path under which its results are written, without a suffix and unique
            among the inputs.
    """

    path: Path
    name: Path


def find_images(inputs: Sequence[Path]) -> list[InputImage]:
    """List image files; folders are searched with their sub-folders, in order of path.

    Raises:
        UserError: an input does not exist or is not an image, or a folder holds none or cannot be
            read.
    """
    suffixes = image_suffixes()
    found: dict[Path, InputImage] = {}
    taken: set[Path] = set()
    for given in inputs:
        if os.path.isdir(given):  # pathlib's raises for paths that the system refuses
            files = [p for p in find_files(given, suffixes.__contains__) if os.path.isfile(p)]
            if not files:
                raise UserError(f"{given} holds no image: give image files or a folder of them")
            names = [file.relative_to(given) for file in files]
        elif not os.path.exists(given):
            raise UserError(f"{given} does not exist: give image files or a folder of them")
        elif given.suffix.lower() not in suffixes:
            raise UserError(
                f"{given} does not have the suffix of an image that can be read, such as .jpg or "
                ".png: give image files or a folder of them"
            )
        else:
            files, names = [given], [Path(given.name)]
        for file, name in zip(files, names, strict=True):
            if file.resolve() in found:
                continue
            number, unique = 1, name.with_suffix("")
            while unique in taken:
                number += 1
                unique = name.with_name(f"{name.stem}~{number}")
            taken.add(unique)
            found[file.resolve()] = InputImage(file, unique)
    return list(found.values())


def read_pixels(path: Path) -> np.ndarray:
    """Read an image as :func:`counterpoise.datasets.reading.read_image` does.

    Returns:
        (H, W, 3), uint8, RGB.

    Raises:
        UnreadableImageError: it cannot be decoded.
    """
    try:
        # By a file, not its name: of those Pillow maps into memory, it turns none.
        with path.open("rb") as file, Image.open(file) as image:
            image.load()
            with contextlib.suppress(Exception):  # Detectron2 takes broken EXIF data for none
                image = ImageOps.exif_transpose(image)
            return np.asarray(to_8_bits(image).convert("RGB"))
    except Exception as error:  # Pillow's plugins raise anything on broken files
        raise UnreadableImageError(str(error).strip() or type(error).__name__) from error
