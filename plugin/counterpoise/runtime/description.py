"""What an exported model says of itself: classes, thresholds, and how its images are prepared."""

from dataclasses import dataclass

import msgspec

from counterpoise.errors import UserError
from counterpoise.utils.decoding import where_and_why

#: Under this key an ONNX file has the description, as JSON, among its metadata.
METADATA_KEY = "counterpoise"

#: Of the description and of the graph's inputs and outputs; a reader refuses another one.
VERSION = 1


@dataclass(frozen=True)
class Preprocessing:
    """From an image file to the input of the graph, and what the graph does first.

    Attributes:
        colours: order of the channels, ``"RGB"`` or ``"BGR"``.
        min_size: the shorter side is resized to this many pixels by Pillow's bilinear filter; 0
            leaves the image as it is.
        max_size: where the longer side would be longer, it is resized to this instead.
        pixel_mean: subtracted by the graph, one per channel, for pixels in [0, 255].
        pixel_std: the graph divides by it.
        size_divisibility: the graph pads height and width to multiples of this.
    """

    colours: str
    min_size: int
    max_size: int
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    size_divisibility: int

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of an image at the input of the graph.

        The rule of Detectron2's ``ResizeShortestEdge``.
        """
        if self.min_size == 0:
            return width, height
        scale = self.min_size / min(width, height)
        # The shorter side is exact, not a product of roundings.
        sides = [
            self.min_size if side <= min(width, height) else scale * side
            for side in (width, height)
        ]
        longest = max(sides)
        if longest > self.max_size:
            sides = [side * (self.max_size / longest) for side in sides]
        return max(1, int(sides[0] + 0.5)), max(1, int(sides[1] + 0.5))


@dataclass(frozen=True)
class ModelDescription:
    """The metadata of an exported model.

    Attributes:
        version: :data:`VERSION` at the time.
        architecture: name of the detector in Detectron2.
        class_names: by the numbers that the graph gives.
        score_thresholds: one per class; the graph gives detections at and above them only.
        thresholds_from: how they were chosen; ``""`` for the config's ``SCORE_THRESH_TEST``.
        preprocessing: of images.
        checkpoint_sha256: of the file that was exported.
        made_by: program and version.
    """

    version: int
    architecture: str
    class_names: tuple[str, ...]
    score_thresholds: tuple[float, ...]
    thresholds_from: str
    preprocessing: Preprocessing
    checkpoint_sha256: str
    made_by: str

    def as_json(self) -> str:
        """Write as :meth:`of_json` reads it."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def of_json(cls, text: str, source: str) -> "ModelDescription":
        """Read the metadata of a file.

        Args:
            text: JSON.
            source: the file, for messages.

        Raises:
            UserError: it is incomplete, contradicts itself or is of another version.
        """
        fix = "export the model again with `counterpoise export`"
        try:
            found = msgspec.json.decode(text, type=cls)
        except msgspec.ValidationError as error:
            raise UserError(f"the metadata of {source}{where_and_why(error)}: {fix}") from error
        except msgspec.DecodeError as error:
            raise UserError(f"the metadata of {source} is not JSON ({error}): {fix}") from error
        if found.version != VERSION:
            raise UserError(
                f"{source} has metadata of version {found.version}, and this program reads "
                f"version {VERSION}: {fix}"
            )
        if len(found.score_thresholds) != len(found.class_names):
            raise UserError(
                f"{source} has {len(found.class_names)} classes and {len(found.score_thresholds)} "
                f"score thresholds: {fix}"
            )
        return found
