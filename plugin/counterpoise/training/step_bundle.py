"""A training step in a file: the weights, images and random state with which it began."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from counterpoise.errors import UserError
from counterpoise.modeling.safe_loading import load_tensors

#: Key of the running means that losses of the step are divided by, by module.
NORMALIZERS_KEY = "normalizers"

#: Files of steps in OUTPUT_DIR.
FILES = "stopped_at_*.pth"


def step_file(step: int, rank: int) -> str:
    """Name of the file of a step; that of the first process has no rank in it."""
    return f"stopped_at_{step}{f'.rank{rank}' if rank else ''}.pth"


def write_step(
    path: Path,
    weights: Mapping[str, Tensor],
    batch: list[dict[str, Any]],
    random_state: Mapping[str, Any],
    extra: Mapping[str, Any],
) -> Path:
    """Write a step; plain tensors, numbers and strings, which load without running code.

    Args:
        path: of the file.
        weights: ``state_dict`` of the model at the start of the step.
        batch: images with their instances, as the model took them.
        random_state: of all generators, see :mod:`counterpoise.training.random_state`.
        extra: further entries of the file.
    """
    images = [
        {
            "image": image["image"],
            "file_name": str(image.get("file_name", "")),
            "boxes": image["instances"].gt_boxes.tensor,
            "classes": image["instances"].gt_classes,
            "left_out": _left_out(image),
            "height": image["height"],
            "width": image["width"],
        }
        for image in batch
    ]
    content = {"model": dict(weights), "images": images, "random_state": random_state}
    torch.save({**content, **extra}, path)
    return path


def read_step(path: Path) -> dict[str, Any]:
    """Read what :func:`write_step` wrote, with the images as a model takes them under ``batch``.

    Raises:
        UserError: the file is missing or holds no step.
    """
    try:
        content = load_tensors(path)
        content["batch"] = [_as_input(image) for image in content["images"]]
        if not (isinstance(content["model"], dict) and isinstance(content["random_state"], dict)):
            raise TypeError("not the weights and random state of a step")
    except Exception as error:  # torch raises anything from KeyError to UnpicklingError here
        raise UserError(
            f"{path} cannot be read as a step ({type(error).__name__}): give a file "
            "stopped_at_*.pth that a stopped training left in its OUTPUT_DIR"
        ) from error
    return content


def _left_out(image: Mapping[str, Any]) -> list[str]:
    """What a model may have read besides boxes and classes, such as masks."""
    fields = set(image["instances"].get_fields()) - {"gt_boxes", "gt_classes"}
    return sorted(fields | ({"proposals"} & image.keys()))


def _as_input(image: Mapping[str, Any]) -> dict[str, Any]:
    instances = Instances(tuple(image["image"].shape[-2:]))
    instances.gt_boxes = Boxes(image["boxes"])
    instances.gt_classes = image["classes"]
    kept = {key: image[key] for key in ("image", "file_name", "height", "width")}
    return {**kept, "instances": instances}
