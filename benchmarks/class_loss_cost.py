"""Measure what recording the per-class loss costs in a training step.

    python benchmarks/class_loss_cost.py
    python benchmarks/class_loss_cost.py configs/quick_retinanet/focal.yaml --classes 80

Each step of a run is timed and, within it, what records the loss; the ratio of the two sums is
printed for every repetition. RetinaNet's own focal loss is computed by Detectron2, which returns a
sum alone: there, recording computes that of the foreground anchors again, and this is counted.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from torch import nn

from counterpoise.commands.console import silence_known_noise
from counterpoise.config.loading import load_config
from counterpoise.modeling.class_loss_log import PerClassLoss
from counterpoise.modeling.dense_loss import DenseClassificationLoss
from counterpoise.training.run_record import hardware

ROOT = Path(__file__).resolve().parents[1]


class Clock:
    """Sums the time of the outermost calls of the functions that it wraps."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self._running = False

    def read(self) -> float:
        """Seconds, after all work of the device is done."""
        if self.device.type != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    def wrap(self, function: Callable) -> Callable:
        """The same function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._running:
                return function(*args, **kwargs)
            self._running, started = True, self.read()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += self.read() - started
                self._running = False

        return timed


def batch(images: int, classes: int, height: int, width: int, boxes: int = 20) -> list[dict]:
    """Random images with random boxes."""
    result = []
    for _ in range(images):
        corner = torch.rand(boxes, 2) * torch.tensor([width * 0.6, height * 0.6])
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.cat([corner, corner + 8 + torch.rand(boxes, 2) * 80], 1))
        instances.gt_classes = torch.randint(classes, (boxes,))
        pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        result.append({"image": pixels, "height": height, "width": width, "instances": instances})
    return result


def steps_and_recording(model: nn.Module, optimizer: Any, images: list[dict], clock: Clock,
                        steps: int) -> tuple[float, float]:  # fmt: skip
    """Seconds of some training steps, and of the recording in them and at their end."""
    recorders = [module for module in model.modules() if isinstance(module, PerClassLoss)]
    clock.seconds, started = 0.0, clock.read()
    take = clock.wrap(lambda: [recorder.take().tolist() for recorder in recorders])
    for _ in range(steps):
        optimizer.zero_grad()
        sum(model(images).values()).backward()
        optimizer.step()
    take()
    return clock.read() - started, clock.seconds


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ROOT / "configs" / "quick" / "focal_weights.yaml"
    parser.add_argument("config", nargs="?", type=Path, default=default)
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="per repetition (default 20)")
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()

    silence_known_noise()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cfg = load_config([args.config], ["MODEL.WEIGHTS", "", "MODEL.DEVICE", device.type])
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = args.classes
    # Weights and alpha of a dataset are counted once; here there is no dataset.
    cfg.BALANCE.CLASS_WEIGHTS.SOURCE = "list"
    cfg.BALANCE.CLASS_WEIGHTS.VALUES = [1.0] * args.classes
    cfg.BALANCE.DENSE_LOSS.ALPHA_SOURCE = "fixed"
    torch.manual_seed(0)
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    height = cfg.INPUT.MIN_SIZE_TRAIN[0]
    images = batch(cfg.SOLVER.IMS_PER_BATCH, args.classes, height, height * 4 // 3)

    clock = Clock(device)
    PerClassLoss.add = clock.wrap(PerClassLoss.add)
    DenseClassificationLoss.log = clock.wrap(DenseClassificationLoss.log)
    rows = []
    with EventStorage():
        for _ in range(3):
            steps_and_recording(model, optimizer, images, clock, 1)  # warm up
        for repetition in range(1, args.repetitions + 1):
            total, recording = steps_and_recording(model, optimizer, images, clock, args.steps)
            per_step = total / args.steps * 1000, recording / args.steps * 1000
            rows.append([repetition, *per_step, f"{recording / total:.3%}"])
    print(f"{args.config.parent.name}/{args.config.stem}, {args.classes} classes, {hardware()}\n")
    print(tabulate(rows, ["repetition", "step (ms)", "recording (ms)", "ratio"], floatfmt=".3f"))


if __name__ == "__main__":
    main()
