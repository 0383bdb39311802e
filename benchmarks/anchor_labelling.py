"""Measure labelling and sampling of an image's anchors against stock Detectron2.

    python benchmarks/anchor_labelling.py

On each line an image of the named size, boxes with sides of 16 to 400 px at random places, and the
RPN of Detectron2, of this project with random sampling, and with OHEM. The three take turns; times
are medians, ratios medians of the ratios to stock within a turn. Peak memory is what a call
allocates on top of its inputs, at its highest. Labels are compared first: under one seed, random
sampling must choose the anchors of stock, and match them with the same boxes.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator import RPN, build_proposal_generator
from detectron2.structures import Boxes, Instances
from tabulate import tabulate
from torch.profiler import ProfilerActivity, profile

from counterpoise.commands.console import silence_known_noise
from counterpoise.config.loading import load_config
from counterpoise.training.run_record import hardware

ROOT = Path(__file__).resolve().parents[1]
STRIDES = (4, 8, 16, 32, 64)
#: Name, height and width in px, and side of the smallest anchors.
IMAGES = (("R50-FPN", 800, 1344, 32), ("quick", 240, 400, 16))
SIDES = {"stock": "RPN", "random": "BalancedRPN", "ohem": "BalancedRPN"}


def build_rpn(side: str, smallest: int, device: str) -> RPN:
    """The RPN of a side, with anchors from `smallest` px on, doubled from level to level."""
    cfg = load_config(
        [ROOT / "configs" / "quick" / "base.yaml"],
        [
            "MODEL.WEIGHTS", "",
            "MODEL.DEVICE", device,
            "MODEL.PROPOSAL_GENERATOR.NAME", SIDES[side],
            "BALANCE.ANCHOR_SAMPLER.NAME", "ohem" if side == "ohem" else "random",
            "MODEL.ANCHOR_GENERATOR.SIZES", str([[smallest * 2**i] for i in range(5)]),
        ],
    )  # fmt: skip
    names = cfg.MODEL.RPN.IN_FEATURES
    shapes = {n: ShapeSpec(channels=4, stride=s) for n, s in zip(names, STRIDES, strict=True)}
    return build_proposal_generator(cfg, shapes).to(device)


def random_image(boxes: int, height: int, width: int, device: str) -> Instances:
    """Boxes whose sides are log-uniform."""
    sides = 16 * torch.exp(torch.rand(boxes, 2) * math.log(400 / 16))
    corner = torch.rand(boxes, 2) * (torch.tensor([width, height]) - sides).clamp(min=0)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.cat([corner, corner + sides], dim=1)).to(device)
    instances.gt_boxes.clip((height, width))
    return instances


def step(rpn: RPN, anchors: list[Boxes], image: Instances, logits: torch.Tensor) -> Callable:
    """What a training step does with one image until the sampled labels and boxes are known."""

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        (labels,), (boxes,) = rpn.label_and_sample_anchors(anchors, [image])
        if hasattr(rpn, "anchor_sampler"):
            labels = rpn.anchor_sampler(labels, logits, anchors)
        return labels, boxes

    return run


def seconds(run: Callable, device: str) -> float:
    """Time of a call, all work of the device included."""
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_megabytes(run: Callable, device: str) -> float:
    """The most memory in MB that a call holds at once, its results included."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = profiled.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak / 1e6


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--boxes", type=int, nargs="+", default=[1, 5, 20, 100])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    silence_known_noise()
    torch.set_num_threads(args.threads)
    rows = []
    for name, height, width, smallest in IMAGES:
        rpns = {side: build_rpn(side, smallest, args.device) for side in SIDES}
        maps = [
            torch.zeros(1, 1, -(-height // s), -(-width // s), device=args.device) for s in STRIDES
        ]
        anchors = rpns["stock"].anchor_generator(maps)
        total = sum(map(len, anchors))
        for boxes in args.boxes:
            torch.manual_seed(boxes)
            image = random_image(boxes, height, width, args.device)
            logits = torch.randn(total, device=args.device)
            runs = {side: step(rpn, anchors, image, logits) for side, rpn in rpns.items()}
            chosen = []
            for side in ("stock", "random"):
                torch.manual_seed(0)
                chosen.append(runs[side]())
            if not all(map(torch.equal, *chosen)):
                raise SystemExit(f"{name}, {boxes} boxes: labels or boxes differ from stock's")
            times = {side: [] for side in runs}
            for _ in range(args.turns):
                for side, run in runs.items():
                    times[side].append(seconds(run, args.device))
            row = [name, f"{total:,}", boxes, f"{median(times['stock']) * 1000:.1f}"]
            for side in ("random", "ohem"):
                pairs = zip(times[side], times["stock"], strict=True)
                ratio = median(ours / stock for ours, stock in pairs)
                row += [f"{median(times[side]) * 1000:.1f}", f"{ratio:.3f}"]
            row += [f"{peak_megabytes(run, args.device):.1f}" for run in runs.values()]
            rows.append(row)
    header = ["model", "anchors", "boxes", "stock [ms]", "random [ms]", "ratio", "OHEM [ms]",
              "ratio", "stock [MB]", "random [MB]", "OHEM [MB]"]  # fmt: skip
    print(f"\n{hardware()}, {args.threads} threads, {args.device}\n")
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
