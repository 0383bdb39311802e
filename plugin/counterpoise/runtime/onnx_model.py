"""An exported detector in ONNX Runtime."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from counterpoise.errors import UserError
from counterpoise.runtime.description import METADATA_KEY, ModelDescription
from counterpoise.runtime.images import InputImage, read_pixels
from counterpoise.runtime.results import Predictions
from counterpoise.utils.images import UnreadableImageError, read_image_size
from counterpoise.utils.progress import progress


def require_onnx_package(name: str) -> Any:
    """Import a package of the extra ``onnx``.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"the package {name} is not installed: `pip install counterpoise[onnx]`, or "
            f"`pip install {name}`"
        ) from error


class OnnxDetector:
    """A file of ``counterpoise export --format onnx``, ready to detect.

    Attributes:
        description: the file's metadata.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: of the file.

        Raises:
            UserError: ONNX Runtime is not installed, or the file is missing or another one.
        """
        if not path.is_file():
            raise UserError(f"--model {path} does not exist: give a file of `counterpoise export`")
        runtime = require_onnx_package("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors; its warnings are about its own optimiser
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no common base class
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"--model {path} cannot be read as an ONNX model ({reason}): give a file of "
                "`counterpoise export --format onnx`"
            ) from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in metadata:
            raise UserError(
                f"--model {path} does not say what its classes and its preprocessing are: give a "
                "file of `counterpoise export --format onnx`"
            )
        self.description = ModelDescription.of_json(metadata[METADATA_KEY], f"--model {path}")

    def detect(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Detect objects in an image of any size.

        Args:
            pixels: (H, W, 3), uint8, RGB.

        Returns:
            boxes (N, 4), XYXY in pixels of the image, scores (N,) and classes (N,), by descending
            score.
        """
        prepare = self.description.preprocessing
        height, width = pixels.shape[:2]
        size = prepare.resized(width, height)
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
        given = np.asarray(image)
        if prepare.colours == "BGR":
            given = given[:, :, ::-1]
        boxes, scores, classes = self._session.run(None, {"image": np.ascontiguousarray(given)})
        scale = np.array([width / size[0], height / size[1]] * 2, dtype=np.float32)
        boxes = np.clip(boxes * scale, 0, [width, height, width, height])
        kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return boxes[kept], scores[kept], classes[kept]

    def predict(
        self, images: Sequence[InputImage], min_score: float = 0.0
    ) -> Iterator[Predictions]:
        """Look at images; one that cannot be read is yielded with its error.

        Args:
            images: to look at.
            min_score: detections below it are left out.
        """
        with progress(None, "predicting", "image", len(images)) as bar:
            for number, image in enumerate(images):
                try:
                    size = read_image_size(image.path)
                    pixels = read_pixels(image.path)
                except (UnreadableImageError, FileNotFoundError) as error:
                    yield Predictions(image, (0, 0), (), str(error))
                else:
                    found = self.detect(pixels)
                    yield Predictions(image, size, coco_results(number, *found, min_score))
                bar.update()


def coco_results(
    image_id: int, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, min_score: float
) -> tuple[dict[str, Any], ...]:
    """Put detections into COCO's form of results.

    Args:
        image_id: of the image.
        boxes: (N, 4), XYXY.
        scores: (N,).
        classes: (N,).
        min_score: detections below it are left out.
    """
    corner, extent = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    return tuple(
        {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
        for box, score, category in zip(
            np.hstack([corner, extent]).tolist(), scores.tolist(), classes.tolist(), strict=True
        )
        if score >= min_score
    )
