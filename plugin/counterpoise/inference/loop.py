"""Running a trained model over images."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from detectron2.evaluation.evaluator import inference_context
from torch import nn

from counterpoise.utils.progress import progress


def infer(
    model: nn.Module, loader: Iterable[list[dict[str, Any]]], total: int, description: str
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Run a model over batches and hand on each batch with its outputs.

    Args:
        model: with Detectron2's input and output format.
        loader: of batches.
        total: number of images.
        description: of the progress bar on standard error, which shows the remaining time.
    """
    with inference_context(model), progress(None, description, "image", total) as bar:
        for batch in loader:
            with torch.no_grad():
                outputs = model(batch)
            yield batch, outputs
            bar.update(len(batch))
