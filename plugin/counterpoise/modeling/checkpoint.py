"""A checkpointer that says what it could not load, and writes a checkpoint whole or not at all."""

import io
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor

from counterpoise.errors import RunFailed, UserError
from counterpoise.modeling.safe_loading import (
    check_pickle,
    load_tensors,
    local_checkpoint,
    refused_by_name,
)
from counterpoise.modeling.training_record import RECORD_KEY, is_record
from counterpoise.utils.files import durable_file
from counterpoise.utils.output_dir import BEST_CHECKPOINT, LAST_CHECKPOINT
from counterpoise.utils.text import counted

#: Key under which a checkpoint keeps averaged weights (``MODEL.EMA``) beside the raw ones.
AVERAGE_KEY = "averaged"

#: Layers whose rows belong to classes, by the end of their module's name, and how many rows they
#: have where Detectron2 makes them for all classes together.
CLASS_LAYERS = {"cls_score": None, "box_predictor.bbox_pred": 4, "mask_head.predictor": 1}

#: State that a loss keeps over the steps of a training.
LOSS_STATE = re.compile(r"(^|\.)(cls_loss|dense_loss)\.loss\.")

logger = logging.getLogger(__name__)


def trunk_names(names: Iterable[str]) -> list[str]:
    """Of the parameters of a model, those of its trunk, which is trained before.

    A pyramid belongs to Detectron2's backbone, too, and starts from random weights like the heads.
    """
    backbone = [name for name in names if name.startswith("backbone.")]
    return [name for name in backbone if name.startswith("backbone.bottom_up.")] or backbone


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Name the tensors that hold NaN or infinity; it waits for each device once.

    Args:
        state: tensors of any type by name, such as the ``state_dict`` of a model.
    """
    names: dict[torch.device, list[str]] = {}
    for name, value in state.items():
        if value.numel() and (value.is_floating_point() or value.is_complex()):
            names.setdefault(value.device, []).append(name)
    return [
        name
        for on_device in names.values()
        for name, finite in zip(
            on_device,
            torch.stack([state[name].isfinite().all() for name in on_device]).tolist(),
            strict=True,
        )
        if not finite
    ]


class BalancedCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer that never starts from random weights without saying so."""

    #: Refuse a checkpoint that lacks any parameter of the model.
    require_all = False
    #: Refuse a checkpoint that lacks a parameter which does not learn.
    require_frozen = False
    #: Take the averaged weights where a checkpoint has them; a resumed run takes the raw ones.
    use_average = True

    def load(self, path: str, checkpointables: Sequence[str] | None = None) -> dict[str, Any]:
        """Load as :class:`DetectionCheckpointer` does.

        Raises:
            UserError: the file is missing, or holds nothing that fits the model; with
                `require_all` also where a parameter is missing, and with `require_frozen` where
                one is that would stay random.
        """
        if path:
            local_checkpoint(path.split("?")[0])
        self._path, self._resumes = path, checkpointables is None and not self.require_all
        return super().load(path, checkpointables)

    def save(self, name: str, **kwargs: Any) -> None:
        """Save as :class:`DetectionCheckpointer` does, completely or not at all.

        ``last_checkpoint`` names the file afterwards, except for the best checkpoint, which a
        resumed run does not go on from.

        Raises:
            UserError: the file cannot be written; those that were there stay as they are.
            RunFailed: a weight is not finite; as above.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        path = Path(self.save_dir, f"{name}.pth")
        parts = {key: part.state_dict() for key, part in self.checkpointables.items()}
        model = self.model.state_dict()
        averaged = parts.get(AVERAGE_KEY, {}).get("model", {})
        weights = model | {f"{AVERAGE_KEY} {name}": value for name, value in averaged.items()}
        if broken := not_finite(weights):
            # Finite gradients can still lead there, where a step is too long for the type.
            raise RunFailed(
                f"{len(broken)} of {len(weights)} weights are not finite, such as {broken[0]}, so "
                f"{path} is not written, and the checkpoints before it are as they were: lower "
                "SOLVER.BASE_LR, or set SOLVER.CLIP_GRADIENTS.ENABLED True, in a new run that "
                "starts from one of them"
            )
        self.logger.info("Saving checkpoint to %s", path)
        try:
            with durable_file(path) as file:
                _torch_save({"model": model, **parts, **kwargs}, file)
            if path.name != BEST_CHECKPOINT:
                self.tag_last_checkpoint(path.name)
        except Exception as error:  # what a state holds can fail in any way when it is pickled
            reason = error.strerror if isinstance(error, OSError) else repr(error)
            raise UserError(
                f"{path} cannot be written ({reason}), and the checkpoints before it are as they "
                "were: see to the disk and continue with --resume"
            ) from error

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write ``last_checkpoint``, completely or not at all.

        Raises:
            OSError: it cannot be written.
        """
        with durable_file(Path(self.save_dir, LAST_CHECKPOINT)) as file:
            file.write(last_filename_basename.encode())

    def _load_file(self, filename: str) -> dict[str, Any]:
        with refused_by_name(f"MODEL.WEIGHTS {self._path}"):
            if filename.endswith(".pkl"):
                check_pickle(Path(filename))
            elif filename.endswith(".pyth"):  # Detectron2 leaves it to torch what may run
                load_tensors(filename)
            return super()._load_file(filename)

    def _torch_load(self, f: str) -> Any:
        return load_tensors(f)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if AVERAGE_KEY in checkpoint and not self._resumes:
            average = checkpoint.pop(AVERAGE_KEY)["model"]
            if self.use_average:
                checkpoint["model"] = average
            logger.info(
                "%s holds averaged weights (MODEL.EMA) beside the raw ones: the %s are taken",
                self._path, "averaged ones" if self.use_average else "raw ones",
            )  # fmt: skip
        model = checkpoint["model"]
        own = self.model.state_dict()
        if not any(key.removeprefix("module.") in own for key in model):
            # A plain backbone file, say of torchvision, knows no prefix "backbone.bottom_up.".
            checkpoint["matching_heuristics"] = True
        fresh = self._drop_class_layers(checkpoint)
        self._drop_state_of_other_losses(model, own)
        incompatible = super()._load_model(checkpoint)
        fresh += [key for key, *_ in incompatible.incorrect_shapes if key not in fresh]
        missing = {*incompatible.missing_keys, *fresh}
        # State of the loss is of no use to inference, and a checkpoint of another loss has none.
        buffers = {name for name, _ in self.model.named_buffers() if LOSS_STATE.search(name)}
        if missing & buffers:
            logger.info(
                "MODEL.WEIGHTS has no state of this loss, which starts anew: %s",
                ", ".join(sorted(missing & buffers)),
            )
        self._check_complete(own, missing - buffers)
        fresh = [key for key in fresh if key not in buffers]
        if fresh:
            logger.info(
                "MODEL.WEIGHTS is of other classes, so these layers start fresh: %s",
                ", ".join(sorted({key.rpartition(".")[0] for key in fresh})),
            )
        return incompatible

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """Spare weights that are known to be a trunk's the warnings of fvcore."""
        if not str(self._path).startswith("counterpoise://"):
            super()._log_incompatible_keys(incompatible)
            return
        layers = {key.rpartition(".")[0] for key in incompatible.missing_keys}
        logger.info(
            "MODEL.WEIGHTS %s has the trunk alone: %s start from random weights",
            self._path, counted(len(layers), "other layer"),
        )  # fmt: skip

    def _check_complete(self, own: Mapping[str, Any], missing: set[str]) -> None:
        if self.require_all and missing:
            shown = ", ".join(sorted(missing)[:3])
            raise UserError(
                f"MODEL.WEIGHTS {self._path} lacks {len(missing)} of {len(own)} parameters of this "
                f"model, such as {shown}: give the checkpoint of a training as MODEL.WEIGHTS, such "
                "as output/mine/model_final.pth, and the config that it was trained with"
            )
        frozen = {name for name, each in self.model.named_parameters() if not each.requires_grad}
        if self.require_frozen and missing & frozen:
            layers = sorted({key.rpartition(".")[0] for key in missing & frozen})
            raise UserError(
                f"MODEL.WEIGHTS {self._path} has no weights of this model and its classes for "
                f"{counted(len(layers), 'layer')} such as {layers[0]}, which SOLVER.TRAINABLE "
                "'classifier' would leave random: give the checkpoint of a training on the same "
                "classes, or set SOLVER.TRAINABLE all"
            )
        trunk = trunk_names(own)
        # Half, not all: some trunks grow layers that no checkpoint has, such as deformable offsets.
        if len(missing.intersection(trunk)) > len(trunk) / 2:
            raise UserError(
                f"MODEL.WEIGHTS {self._path} does not fit the backbone of this model: set "
                "MODEL.BACKBONE.NAME and MODEL.TORCHVISION.NAME to the network it was made for, or "
                "MODEL.WEIGHTS '' to start from random weights"
            )

    def _drop_state_of_other_losses(self, model: dict[str, Any], own: Mapping[str, Any]) -> None:
        """Take out what a loss has kept that this model does not learn with."""
        strange = [
            k for k in model if LOSS_STATE.search(k) and k.removeprefix("module.") not in own
        ]
        for key in strange:
            del model[key]
        if strange:
            logger.info(
                "MODEL.WEIGHTS holds the state of another loss, which is left out: %s",
                ", ".join(sorted(strange)),
            )

    def _drop_class_layers(self, checkpoint: dict[str, Any]) -> list[str]:
        """Take out layers whose rows stand for classes that this training set does not have."""
        record, own = checkpoint.get(RECORD_KEY), self.checkpointables.get(RECORD_KEY)
        if not is_record(record) or own is None:
            return []
        if tuple(record["class_names"]) == own.table.counts.names:
            return []
        num_classes = len(record["class_names"])
        fresh = [
            key
            for key, value in checkpoint["model"].items()
            if _is_by_class(key, value, num_classes) or LOSS_STATE.search(key)
        ]
        for key in fresh:
            del checkpoint["model"][key]
        return fresh


def _is_by_class(key: str, value: Tensor, num_classes: int) -> bool:
    """Whether the rows of a parameter belong to the classes of the model that it comes from."""
    layer = key.rpartition(".")[0]
    # The rows of a single class look like those for all classes.
    return any(
        layer.endswith(name) and (num_classes == 1 or len(value) != shared)
        for name, shared in CLASS_LAYERS.items()
    )


class _Failing(io.RawIOBase):
    """A file that keeps the error of a write, which torch's writer in C++ would abort with."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return size


def _torch_save(content: Mapping[str, Any], file: BinaryIO) -> None:
    """``torch.save`` that raises the OSError of a failed write."""
    failing = _Failing(file)
    torch.save(content, failing)
    if failing.error is not None:
        raise failing.error
