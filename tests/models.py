"""Small models and batches that the tests share."""

import copy
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from counterpoise.config.loading import load_config

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"

NEUTRAL = (
    "BALANCE.ROI_LOSS.NAME", "cross_entropy",
    "BALANCE.CLASS_WEIGHTS.SOURCE", "none",
    "BALANCE.ANCHOR_SAMPLER.NAME", "random",
)  # fmt: skip
#: An iteration in which metrics are logged.
LOGGED = 19
STOCK = (
    "MODEL.PROPOSAL_GENERATOR.NAME", "RPN",
    "MODEL.ROI_HEADS.NAME", "StandardROIHeads",
)  # fmt: skip

#: Heads of Detectron2 other than the standard ones, with what the quick model needs for them.
CASCADE = (
    "MODEL.ROI_HEADS.NAME", "CascadeROIHeads",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True",
)  # fmt: skip
C4 = (
    "MODEL.ROI_HEADS.NAME", "Res5ROIHeads",
    "MODEL.BACKBONE.NAME", "build_resnet_backbone",
    "MODEL.RESNETS.DEPTH", "18",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "64",
    "MODEL.RPN.IN_FEATURES", "res4",
    "MODEL.ROI_HEADS.IN_FEATURES", "res4",
    "MODEL.ANCHOR_GENERATOR.SIZES", "[[16, 32]]",
)  # fmt: skip


def quick_config(*overrides: str, classes: int = 3) -> CfgNode:
    """The quick model on the CPU with random weights and a small FPN."""
    cfg = load_config(
        [CONFIGS / "quick" / "base.yaml"],
        [
            "MODEL.DEVICE", "cpu",
            "MODEL.WEIGHTS", "",
            "MODEL.ROI_HEADS.NUM_CLASSES", str(classes),
            "MODEL.FPN.OUT_CHANNELS", "16",
            "MODEL.ROI_BOX_HEAD.FC_DIM", "32",
            *overrides,
        ],
    )  # fmt: skip
    cfg.freeze()
    return cfg


def build(cfg: CfgNode, seed: int = 0) -> nn.Module:
    """Build a model under a seed."""
    torch.manual_seed(seed)
    return build_model(cfg)


def batch(
    boxes: tuple[int, ...] = (5, 2), classes: int = 3, size: int = 96, seed: int = 0
) -> list[dict]:
    """Images (3, size, size) with the given numbers of random boxes."""
    generator = torch.Generator().manual_seed(seed)
    images = []
    for number in boxes:
        corner = torch.rand(number, 2, generator=generator) * size * 0.6
        extent = 8 + torch.rand(number, 2, generator=generator) * size * 0.3
        instances = Instances((size, size))
        instances.gt_boxes = Boxes(torch.cat([corner, corner + extent], dim=1))
        instances.gt_classes = torch.randint(classes, (number,), generator=generator)
        pixels = torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8)
        images.append({"image": pixels, "height": size, "width": size, "instances": instances})
    return images


def losses_and_gradients(model: nn.Module, images: list[dict], seed: int = 1) -> tuple[dict, dict]:
    """One training step without an optimiser, under a seed."""
    model.train()
    model.zero_grad()
    torch.manual_seed(seed)
    losses = model(copy.deepcopy(images))
    sum(losses.values()).backward()
    gradients: dict[str, Tensor] = {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }
    return {name: value.detach() for name, value in losses.items()}, gradients
