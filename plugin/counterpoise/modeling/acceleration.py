"""How a model computes: memory layout, ROIAlign and precision, as fast as this machine can.

``MODEL.SPEED: stock`` computes as Detectron2 does, bit for bit. ``auto`` sets the keys that are
faster on this machine and change results by rounding only: ``MODEL.CHANNELS_LAST``,
``MODEL.ROI_ALIGN``, ``SOLVER.FUSED``, ``MODEL.RPN.HEAD_NAME`` on a CPU and, where the hardware
multiplies bfloat16, ``SOLVER.AMP``. Inference stays in float32 unless ``TEST.PRECISION`` says
otherwise.
"""

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import Tensor, nn

from counterpoise.modeling.roi_align import (
    DeterministicROIAlign,
    ExactROIAlign,
    GatheredROIAlign,
    use_roi_align,
)
from counterpoise.modeling.rpn_head import SparseGradientRPNHead

SPEEDS = ("stock", "auto")
ROI_ALIGNS = ("torchvision", "gather")
DENSE_RPN_HEAD, SPARSE_RPN_HEAD = StandardRPNHead.__name__, SparseGradientRPNHead.__name__
PRECISIONS = ("bfloat16", "float16")
TEST_PRECISIONS = ("float32", "bfloat16")

#: Flags of /proc/cpuinfo, of x86 and of ARM, for instructions that multiply bfloat16.
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}

#: What ``MODEL.SPEED: auto`` does not leave as it is, where it is asked for beside it.
OVERRULED = {
    "MODEL.CHANNELS_LAST": False,
    "MODEL.ROI_ALIGN": "torchvision",
    "SOLVER.FUSED": False,
    "SOLVER.AMP.ENABLED": False,
}

logger = logging.getLogger(__name__)


def choose_speed(cfg: CfgNode) -> None:
    """Set the keys that ``MODEL.SPEED: auto`` leaves to this machine, in place.

    Args:
        cfg: with the keys of the launcher and a ``MODEL.DEVICE`` that is here.
    """
    if cfg.MODEL.SPEED != "auto":
        return
    device = torch.device(cfg.MODEL.DEVICE)
    cfg.MODEL.CHANNELS_LAST = True
    cfg.MODEL.ROI_ALIGN = "gather"
    cfg.SOLVER.FUSED = True
    if cfg.MODEL.RPN.HEAD_NAME in (DENSE_RPN_HEAD, SPARSE_RPN_HEAD):
        few = device.type == "cpu" and cfg.BALANCE.ANCHOR_SAMPLER.NAME != "all"
        cfg.MODEL.RPN.HEAD_NAME = SPARSE_RPN_HEAD if few else DENSE_RPN_HEAD
    if not cfg.SOLVER.AMP.ENABLED:  # a precision that is asked for stays
        cfg.SOLVER.AMP.ENABLED = multiplies_bfloat16(device)
        cfg.SOLVER.AMP.PRECISION = "bfloat16"
    logger.info(
        "MODEL.SPEED auto on this machine: channels last, gathered ROIAlign, %s, fused optimizer, "
        "training in %s",
        cfg.MODEL.RPN.HEAD_NAME,
        cfg.SOLVER.AMP.PRECISION if cfg.SOLVER.AMP.ENABLED else "float32",
    )


def multiplies_bfloat16(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether bfloat16 saves time on a device, because its hardware multiplies it.

    Args:
        device: a CPU or GPU of this machine.
        cpuinfo: what Linux says of the CPUs; elsewhere nothing is known, and the answer is no.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not cpuinfo.is_file():
        return False
    return not BFLOAT16_FLAGS.isdisjoint(cpuinfo.read_text().split())


def accelerate(model: nn.Module, cfg: CfgNode) -> None:
    """Let a model keep its maps, pool its boxes and infer as its config says.

    The keys of its ``state_dict`` stay.

    Args:
        model: of ``build_model``.
        cfg: with the keys of the launcher.
    """
    if cfg.MODEL.CHANNELS_LAST:
        model.to(memory_format=torch.channels_last)
    roi_align = _roi_align_of(cfg)
    if roi_align is not None:
        for module in model.modules():
            if isinstance(module, ROIPooler):
                use_roi_align(module, roi_align)
    if cfg.TEST.PRECISION == "bfloat16":
        infer_in_bfloat16(model, torch.device(cfg.MODEL.DEVICE))


def _roi_align_of(cfg: CfgNode) -> type[ExactROIAlign] | None:
    """The layer that is to take the place of Detectron2's, None where that stays."""
    if cfg.SOLVER.DETERMINISTIC and torch.device(cfg.MODEL.DEVICE).type != "cpu":
        return DeterministicROIAlign
    if cfg.MODEL.ROI_ALIGN == "gather":
        return GatheredROIAlign
    if cfg.SOLVER.AMP.ENABLED or cfg.TEST.PRECISION != "float32":
        return ExactROIAlign
    return None


def use_numbered_gpu(device: torch.device) -> None:
    """Let this process work on the GPU that a device such as ``cuda:1`` numbers.

    What asks for the current GPU, such as a checkpoint for its random numbers, means it then.
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def compute_deterministically() -> None:
    """Let this process take the kernels whose sums have one order, from now on.

    Once a GPU has begun to multiply matrices it is too late for cuBLAS.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as torch's documentation asks for
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # only to find mistakes, and slow
    torch.backends.cudnn.benchmark = False


def trains_in_bfloat16(cfg: CfgNode) -> bool:
    """Whether the forward pass casts itself, so that the plain trainer without scaler fits."""
    return cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.PRECISION == "bfloat16"


def trains_in_float16(cfg: CfgNode) -> bool:
    """Whether training runs under autocast to float16, with a scaler of the loss."""
    return cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.PRECISION == "float16"


def train_in_bfloat16(model: nn.Module, device: torch.device) -> None:
    """Run a model's forward passes under autocast while it trains.

    Args:
        model: possibly wrapped for several processes.
        device: that it is on.
    """
    _Autocast(device, training=True).around(model)
    if device.type == "cpu":
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1 and module.stride != (1, 1):
                # For this gradient oneDNN has only its reference code, ten times as slow.
                _NoAutocast(device, training=True).around(module)


def infer_in_bfloat16(model: nn.Module, device: torch.device) -> None:
    """Run a model's forward passes under autocast while it is in evaluation mode.

    Boxes are decoded, and scores computed, in float32. The last layers of a one-stage detector,
    which work on whole maps, round its logits to bfloat16; the box head's do not.

    Args:
        model: of ``build_model``.
        device: that it is on.
    """
    _Autocast(device, training=False).around(model)
    for module in model.modules():
        if isinstance(module, FastRCNNOutputLayers):
            # Rounded scores tie: all of the good detections would have the score 1.
            _NoAutocast(device, training=False).around(module)
        elif isinstance(module, DenseDetector):
            module.head.register_forward_hook(_outputs_in_float32)


def _outputs_in_float32(module: nn.Module, inputs: Any, outputs: Sequence[Sequence[Tensor]]) -> Any:
    """Cast the maps of a one-stage head, which are lists by feature level, where it infers."""
    return outputs if module.training else [[map.float() for map in part] for part in outputs]


class _Autocast:
    """Runs the forward passes of a module under autocast, while it trains or while it does not.

    An object in place of functions within a function: a model with those cannot be pickled.
    """

    def __init__(self, device: torch.device, training: bool) -> None:
        self.device = device
        self.training = training
        self._entered: list[contextlib.AbstractContextManager] = []

    def around(self, module: nn.Module) -> None:
        """Let a module run its forward passes within the context, also one that fails."""
        module.register_forward_pre_hook(self._enter)
        module.register_forward_hook(self._leave, always_call=True)

    def _context(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16)

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        applies = module.training == self.training
        self._entered.append(self._context() if applies else contextlib.nullcontext())
        self._entered[-1].__enter__()

    def _leave(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        if self._entered:
            self._entered.pop().__exit__(None, None, None)


class _NoAutocast(_Autocast):
    """Exempts the forward passes of a module of one input from autocast."""

    def around(self, module: nn.Module) -> None:
        """Let a module run its forward passes in float32, also one that fails."""
        super().around(module)
        module.register_forward_pre_hook(self._cast)

    def _context(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, enabled=False)

    def _cast(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        return (inputs[0].float(),) if module.training == self.training else None
