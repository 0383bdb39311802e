"""Writing a trained detector as an ONNX or TorchScript file that describes itself."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from counterpoise.errors import UserError
from counterpoise.export.graph import DetectionGraph
from counterpoise.runtime.description import METADATA_KEY, ModelDescription
from counterpoise.runtime.onnx_model import require_onnx_package
from counterpoise.utils.files import write_atomically

#: The first one in which ROIAlign has the half-pixel shift of Detectron2's ``ROIAlignV2``.
ONNX_OPSET = 16

#: Where a TorchScript file has the description, as JSON, among its extra files.
EXTRA_FILE = "counterpoise.json"

OUTPUTS = ("boxes", "scores", "classes")


def onnx_bytes(graph: DetectionGraph, description: ModelDescription) -> bytes:
    """The content of an ONNX file for images of any size.

    Raises:
        UserError: the package ``onnx`` is not installed, or an operator of the model is not in
            ONNX.
    """
    onnx = require_onnx_package("onnx")
    content = io.BytesIO()
    with torch.no_grad(), _quiet():
        try:
            torch.onnx.export(
                graph,
                (_example(graph),),
                content,
                # The exporter by tracing: by torch.export the same graph takes fifty times as long.
                dynamo=False,
                opset_version=ONNX_OPSET,
                input_names=["image"],
                output_names=list(OUTPUTS),
                dynamic_axes={"image": {0: "height", 1: "width"}}
                | {name: {0: "detections"} for name in OUTPUTS},
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"the model cannot be written as ONNX ({reason}): use --format torchscript"
            ) from error
    model = onnx.load_from_string(content.getvalue())
    onnx.helper.set_model_props(model, {METADATA_KEY: description.as_json()})
    model.producer_name, model.producer_version = "counterpoise", description.made_by.split()[-1]
    return model.SerializeToString()


def torchscript_bytes(graph: DetectionGraph, description: ModelDescription) -> bytes:
    """The content of a TorchScript file for images of any size."""
    content = io.BytesIO()
    with torch.no_grad(), _quiet():
        traced = torch.jit.trace(graph, (_example(graph),), check_trace=False)
        torch.jit.save(traced, content, _extra_files={EXTRA_FILE: description.as_json()})
    return content.getvalue()


#: Format -> name of its file beside the checkpoint, and what makes its content.
FORMATS: dict[str, tuple[str, Callable[[DetectionGraph, ModelDescription], bytes]]] = {
    "onnx": ("model.onnx", onnx_bytes),
    "torchscript": ("model.ts", torchscript_bytes),
}


def write_model(
    graph: DetectionGraph, description: ModelDescription, kind: str, path: Path
) -> Path:
    """Write a detector.

    Args:
        graph: of the detector; left in evaluation mode and without gradients.
        description: goes into the file.
        kind: a key of :data:`FORMATS`.
        path: of the file.

    Raises:
        UserError: see :func:`onnx_bytes`; or the file cannot be written.
    """
    # TorchScript keeps whether weights want gradients, and their results cannot become arrays then.
    graph = graph.eval().requires_grad_(False)
    return write_atomically(path, FORMATS[kind][1](graph, description))


def _example(graph: DetectionGraph) -> torch.Tensor:
    """An image whose sides are no multiples of what the graph pads to, so that it pads both."""
    step = max(graph.size_divisibility, 2)
    return torch.zeros(8 * step - 1, 10 * step - 1, 3, dtype=torch.uint8)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what tracing says of deprecated functions and of constants off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
