"""Reading the pixels of an image as Detectron2 does, and those of more than 8 bits in full."""

import contextlib
import errno
from collections.abc import Iterator

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps

from counterpoise.errors import UserError
from counterpoise.utils.images import UnreadableImageError, check_shape
from counterpoise.utils.pixels import is_deep, to_8_bits
from counterpoise.utils.text import printable

#: Numbers of errors that stay as long as the file is as it is.
OF_THE_FILE = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EINVAL, errno.EFBIG,
)  # fmt: skip

_read_8_bits = detection_utils.read_image


class UnusableImageError(UserError):
    """An image of a dataset that cannot be decoded or has another size than stated.

    Attributes:
        file: of the image; empty once torch has handed the error of a worker to the main process,
            which makes another one of its sentence alone.
        reason: what is wrong with it; likewise.
    """

    file = ""
    reason = ""

    @classmethod
    def of(cls, file: str, error: Exception) -> "UnusableImageError":
        """Name the file that an error is about, and what to do."""
        name = printable(file, lines=False)
        made = cls(
            f"{name} cannot be used ({error}): repair the image or take it out of the dataset"
        )
        made.file, made.reason = file, str(error)
        return made


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image by Detectron2's ``read_image``, but for TIFF and more than 8 bits a sample.

    The latter are scaled by :func:`counterpoise.utils.pixels.to_8_bits`, where Detectron2 has
    Pillow cut them off at 255, which makes them white.

    Args:
        file_name: of the image.
        format: as of Detectron2's ``read_image``, whose parameter has this name.

    Returns:
        (H, W, 3) or (H, W, 1), uint8, in that format.

    Raises:
        UnreadableImageError: it cannot be decoded.
        UserError: the system cannot read it now, whatever it holds.
    """
    try:
        with PathManager.open(file_name, "rb") as file, Image.open(file) as image:
            check_shape(*image.size)
            # Pillow turns a TIFF itself, and Detectron2 would turn it once more.
            if is_deep(image.mode) or image.format == "TIFF":
                image.load()
                with contextlib.suppress(Exception):  # Detectron2 takes broken EXIF data for none
                    image = ImageOps.exif_transpose(image)
                return detection_utils.convert_PIL_to_numpy(to_8_bits(image), format)
        return _read_8_bits(file_name, format)
    except Exception as error:  # Pillow's plugins raise anything on broken files
        reason = str(error).strip() or type(error).__name__
        if _is_of_the_system(error):
            raise UserError(
                f"{printable(file_name, lines=False)} cannot be read now ({reason}), which says "
                "nothing of the image: mend the cause, and go on with --resume"
            ) from error
        raise UnreadableImageError(reason) from error


def _is_of_the_system(error: Exception) -> bool:
    """Whether an error is of the machine, its memory or its network, and may pass."""
    if isinstance(error, MemoryError):
        return True
    # Pillow's errors of what a file holds have no number.
    return isinstance(error, OSError) and error.errno not in (None, *OF_THE_FILE)


@contextlib.contextmanager
def reading_in_full() -> Iterator[None]:
    """Let Detectron2's mapper read with :func:`read_image`: it has no method that reads."""
    before = detection_utils.read_image
    detection_utils.read_image = read_image
    try:
        yield
    finally:
        detection_utils.read_image = before
