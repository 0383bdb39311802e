"""Time a training step against stock Detectron2's, as ratios within one run.

    python benchmarks/training_step.py                  # the quick model
    python benchmarks/training_step.py --model r50_fpn --height 384 --width 512

The sides take turns, step by step, on the same synthetic images: stock Detectron2 in float32
(cross-entropy, random sampling), this project's full configuration (focal loss, class weights,
OHEM) computed as stock does, and the same with each part of ``MODEL.SPEED: auto`` and with all. All
sides use SGD, the optimizer that Detectron2 has. The medians and their ratios to stock are printed.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from tabulate import tabulate

from counterpoise.commands.console import silence_known_noise
from counterpoise.config.loading import load_config
from counterpoise.modeling.acceleration import (
    accelerate,
    train_in_bfloat16,
    trains_in_bfloat16,
    trains_in_float16,
)
from counterpoise.training.optimizer import optimizer_of
from counterpoise.training.run_record import hardware

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 3

STOCK = ["MODEL.PROPOSAL_GENERATOR.NAME", "RPN", "MODEL.ROI_HEADS.NAME", "StandardROIHeads"]
FULL = [
    "BALANCE.ANCHOR_SAMPLER.NAME", "ohem",
    "BALANCE.CLASS_WEIGHTS.SOURCE", "list",
    "BALANCE.CLASS_WEIGHTS.VALUES", str([1.0] * CLASSES),
]  # fmt: skip
BFLOAT16 = ["SOLVER.AMP.ENABLED", "True"]
CHANNELS_LAST = ["MODEL.CHANNELS_LAST", "True"]
FUSED = ["SOLVER.FUSED", "True"]
PARTS = {
    "gathered ROIAlign": ["MODEL.ROI_ALIGN", "gather"],
    "channels last": CHANNELS_LAST,
    "sparse gradient of the RPN": ["MODEL.RPN.HEAD_NAME", "SparseGradientRPNHead"],
    "fused optimizer": FUSED,
}
ALL_PARTS = [setting for part in PARTS.values() for setting in part]
SIDES = {
    "stock Detectron2": STOCK,
    "stock, bfloat16": [*STOCK, *BFLOAT16],
    "full configuration": FULL,
    **{f"full, {name}": [*FULL, *part] for name, part in PARTS.items()},
    "full, all of these": [*FULL, *ALL_PARTS],
    "full, all and bfloat16": [*FULL, *ALL_PARTS, *BFLOAT16],
}


def synthetic_images(number: int, height: int, width: int, boxes: int = 12) -> list[dict]:
    """Random pixels with random boxes."""
    generator = torch.Generator().manual_seed(0)
    images = []
    for _ in range(number):
        corner = torch.rand(boxes, 2, generator=generator) * torch.tensor([width, height]) * 0.7
        extent = 15 + torch.rand(boxes, 2, generator=generator) * height / 4
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.cat([corner, corner + extent], dim=1))
        instances.gt_classes = torch.randint(CLASSES, (boxes,), generator=generator)
        shape = (3, height, width)
        pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        images.append({"image": pixels, "height": height, "width": width, "instances": instances})
    return images


def common_overrides(device: str) -> list[str]:
    """Config overrides of every side with a model."""
    return [
        "MODEL.WEIGHTS", "", "MODEL.DEVICE", device,
        "MODEL.ROI_HEADS.NUM_CLASSES", str(CLASSES),
        "SOLVER.OPTIMIZER", "SGD",
        "SOLVER.BASE_LR", "1e-9",  # random weights must not diverge
    ]  # fmt: skip


def training_step(cfg: CfgNode, images: list[dict]) -> Callable[[], float]:
    """Build a model and return a function that trains it for one step and returns the seconds."""
    torch.manual_seed(0)
    device = torch.device(cfg.MODEL.DEVICE)
    model = build_model(cfg).train()
    accelerate(model, cfg)
    if trains_in_bfloat16(cfg):
        train_in_bfloat16(model, device)
    optimizer = optimizer_of(cfg, model)
    float16 = trains_in_float16(cfg)
    scaler = torch.amp.GradScaler(device.type, enabled=float16)

    def synchronize() -> float:
        if device.type != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step() -> float:
        started = synchronize()
        with torch.autocast(device.type, torch.float16, enabled=float16):
            loss = sum(model(images).values())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return synchronize() - started

    return step


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="quick", help="folder of configs/ (default quick)")
    parser.add_argument("--height", type=int, default=240, help="of the images (default 240)")
    parser.add_argument("--width", type=int, default=320, help="of the images (default 320)")
    parser.add_argument("--steps", type=int, default=9, help="per side (default 9)")
    parser.add_argument("--threads", type=int, help="of torch (default: as many as it takes)")
    args = parser.parse_args()
    silence_known_noise()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = synthetic_images(2, args.height, args.width)
    common = [*common_overrides(device), "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", "2"]
    steps = {}
    for name, overrides in SIDES.items():
        cfg = load_config([ROOT / "configs" / args.model / "base.yaml"], [*common, *overrides])
        steps[name] = training_step(cfg, images)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    with EventStorage():
        for step in steps.values():
            step()  # warm up
        for _ in range(args.steps):
            for name, step in steps.items():
                seconds[name].append(step())
    stock = statistics.median(seconds["stock Detectron2"])
    rows = [
        (name, statistics.median(taken), f"{min(taken):.3f}-{max(taken):.3f}",
         statistics.median(taken) / stock)
        for name, taken in seconds.items()
    ]  # fmt: skip
    print(
        f"{args.model}, 2 images of {args.height} x {args.width}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {hardware()}\n"
    )
    headers = ("side", "seconds (median)", "range", "ratio to stock")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=".3f"))


if __name__ == "__main__":
    main()
