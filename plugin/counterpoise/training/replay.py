"""A kept training step once more: which losses, layers and gradients are not finite."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from counterpoise.errors import UserError
from counterpoise.modeling.acceleration import (
    accelerate,
    train_in_bfloat16,
    trains_in_bfloat16,
    trains_in_float16,
    use_numbered_gpu,
)
from counterpoise.modeling.dense_loss import DenseClassificationLoss
from counterpoise.modeling.roi_loss import ClassificationLoss
from counterpoise.modeling.training_record import RECORD_KEY, counts_of
from counterpoise.modeling.training_state import load_training_state
from counterpoise.modeling.weight_sources import ClassTable
from counterpoise.training.freezing import freeze_all_but_classifier, freeze_statistics
from counterpoise.training.number_guard import gives_up
from counterpoise.training.random_state import set_random_state
from counterpoise.training.step_bundle import NORMALIZERS_KEY, read_step


@dataclass
class Replay:
    """What a step computes.

    Attributes:
        images: files of the batch, with their numbers of boxes.
        losses: by name.
        error: what the model raised in place of losses, or "".
        layers: whose output is not finite though their input is, in the order of the computation.
        parameters: that are not finite.
        gradients: names of the parameters whose gradient is not finite.
    """

    images: list[tuple[str, int]] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)
    error: str = ""
    layers: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    gradients: list[str] = field(default_factory=list)


def replay(cfg: CfgNode, path: Path) -> Replay:
    """Repeat the forward and backward pass of a step.

    Args:
        cfg: of the run, with its number of classes.
        path: of the step.

    Raises:
        UserError: the file holds no step, one of another model, or one of masks and the like, of
            which it keeps nothing.
    """
    step = read_step(path)
    left_out = {name for image in step["images"] for name in image.get("left_out", ())}
    if left_out:
        raise UserError(
            f"{path} is a step with {', '.join(sorted(left_out))}, of which a file of a step keeps "
            "nothing: only a step of boxes and classes can be repeated"
        )
    device = torch.device(cfg.MODEL.DEVICE)
    use_numbered_gpu(device)
    model = _model_of(cfg, step, path)
    batch = step["batch"]
    result = Replay(
        images=[(image["file_name"], len(image["instances"])) for image in batch],
        parameters=[n for n, p in model.named_parameters() if not p.isfinite().all()],
    )
    for name, module in model.named_modules():
        if not any(module.children()):
            module.register_forward_hook(_recorder(name, result.layers))
    set_random_state(step["random_state"])
    # bfloat16 is a part of the model; float16 is around it, as in Detectron2's trainer.
    float16 = torch.autocast(device.type, torch.float16, enabled=trains_in_float16(cfg))
    with EventStorage(), float16:
        try:
            losses = model(batch)
        except (FloatingPointError, AssertionError) as error:
            if not gives_up(error):
                raise
            result.error = str(error)
            return result
    result.losses = {name: value.item() for name, value in losses.items()}
    sum(losses.values()).backward()
    result.gradients = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]
    return result


def _model_of(cfg: CfgNode, step: Mapping[str, Any], path: Path) -> nn.Module:
    """The model as it was at the start of the step of a file, in training mode."""
    model = build_model(cfg)
    if cfg.SOLVER.TRAINABLE == "classifier":
        freeze_all_but_classifier(model)
    try:
        model.load_state_dict(step["model"])
    except RuntimeError as error:
        raise UserError(
            f"{path} is a step of another model ({str(error).splitlines()[0]}): give the "
            "config.yaml of its run with --config-file"
        ) from error
    load_training_state(model, step.get(NORMALIZERS_KEY, {}))
    _use_record(model, step[RECORD_KEY])
    accelerate(model, cfg)
    if trains_in_bfloat16(cfg):
        train_in_bfloat16(model, torch.device(cfg.MODEL.DEVICE))
    model.train()
    if cfg.SOLVER.TRAINABLE == "classifier":
        freeze_statistics(model)
    return model


def _recorder(name: str, found: list[str]) -> Any:
    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if _all_finite(inputs) and not _all_finite(output):
            found.append(name)

    return record


def _all_finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, dict):
        return all(map(_all_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_all_finite, value))
    return True


def _use_record(model: nn.Module, record: dict[str, Any]) -> None:
    weights = torch.tensor(record["weights"]) if record["weights"] else None
    table = ClassTable(counts_of(record), weights)
    for module in model.modules():
        if isinstance(module, (ClassificationLoss, DenseClassificationLoss)):
            module.use_table(table)
