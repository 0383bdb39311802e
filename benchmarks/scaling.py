"""Measure how a training step and the evaluation grow, and what a large run would communicate.

    python benchmarks/scaling.py                        # a few minutes on two quiet cores
    python benchmarks/scaling.py --reduced --turns 3    # small images and fewer detections

A training step of the quick model in its full configuration (focal loss, class weights, OHEM) is
measured against the number of classes, of proposals that train the box head, of anchors and of
pixels; the evaluation with 1,000 resamples against detections. One quantity grows at a time, and
its values take turns. A time is a median, the ratio the median of the ratios to the first value
within a turn, and the slope d log(time) / d log(quantity) since the row above: 1 is linear. Memory
is what a step allocates at once, without model and optimizer.

The last table is arithmetic: parameters of configs/large and bytes that its processes exchange.
Tables are printed; ``--plot FILE`` draws the ratios.
"""

import argparse
import io
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from tabulate import tabulate

from anchor_labelling import peak_megabytes, seconds
from counterpoise.commands.console import silence_known_noise
from counterpoise.config.loading import load_config
from counterpoise.evaluation.scoring import evaluate_arrays
from counterpoise.training.run_record import hardware
from evaluation_speed import large_set
from training_step import ROOT, synthetic_images, training_step

CLASSES = (3, 20, 80, 365, 1203)
PROPOSALS = (64, 128, 256, 512, 1024)
#: Anchors at each place: three aspect ratios by this number of scales.
SCALES = (1, 3, 9, 27)
#: Shorter side of the images in px; the longer one is 4/3 of it.
SIDES, REDUCED_SIDES = (120, 240, 480, 960), (64, 128, 256)
#: Images of the evaluation, with 100 detections each.
EVALUATED, REDUCED_EVALUATED = (50, 500, 5000), (20, 100, 500)

#: Processes, images of all of them in a step, and images that are evaluated.
PROCESSES, BATCH, VALIDATION = 64, 128, {"Objects365": 80_000, "Open Images": 41_620}


@dataclass(frozen=True)
class Point:
    """A value of the quantity that grows, and what was measured there."""

    value: int
    seconds: float
    ratio: float
    megabytes: float | None


def grow(
    runs: dict[int, Callable[[], object]], turns: int, with_memory: bool = True
) -> list[Point]:
    """Time calls in turns, by the value of the quantity that grows."""
    for run in runs.values():
        run()  # warm up
    taken: dict[int, list[float]] = {value: [] for value in runs}
    for _ in range(turns):
        for value, run in runs.items():
            taken[value].append(seconds(run, "cpu"))
    first = next(iter(taken.values()))
    return [
        Point(
            value,
            median(times),
            median(ours / theirs for ours, theirs in zip(times, first, strict=True)),
            peak_megabytes(runs[value], "cpu") if with_memory else None,
        )
        for value, times in taken.items()
    ]


def full_step(
    side: int, classes: int = 3, proposals: int = 128, scales: int = 1
) -> Callable[[], float]:
    """A training step on two images of `side` x 4/3 `side`."""
    sizes = [[base * 2 ** (i / scales) for i in range(scales)] for base in (16, 32, 64, 128, 256)]
    cfg = load_config(
        [ROOT / "configs" / "quick" / "focal_weights_ohem.yaml"],
        [
            "MODEL.WEIGHTS", "",
            "MODEL.DEVICE", "cpu",
            "MODEL.ROI_HEADS.NUM_CLASSES", str(classes),
            "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", str(proposals),
            "MODEL.RPN.POST_NMS_TOPK_TRAIN", "2000",
            "MODEL.ANCHOR_GENERATOR.SIZES", str(sizes),
            "BALANCE.CLASS_WEIGHTS.SOURCE", "list",
            "BALANCE.CLASS_WEIGHTS.VALUES", str([1.0] * classes),
            "BALANCE.CLASS_WEIGHTS.BACKGROUND", "one",
        ],
    )  # fmt: skip
    return training_step(cfg, synthetic_images(2, side, side * 4 // 3))


def evaluation(images: int) -> Callable[[], object]:
    """The whole evaluation of 100 detections on each of some images."""
    return partial(evaluate_arrays, *large_set(images))


def measure(reduced: bool, turns: int) -> dict[str, list[Point]]:
    """Every quantity's points."""
    side = REDUCED_SIDES[1] if reduced else SIDES[1]
    sides = REDUCED_SIDES if reduced else SIDES
    places = 2 * sum(-(-side // s) * -(-side * 4 // 3 // s) for s in (4, 8, 16, 32, 64))
    found = {}
    with EventStorage():
        for name, runs in (
            ("classes", lambda: {k: full_step(side, classes=k) for k in CLASSES}),
            ("proposals an image", lambda: {n: full_step(side, proposals=n) for n in PROPOSALS}),
            ("anchors", lambda: {3 * places * n: full_step(side, scales=n) for n in SCALES}),
            ("pixels an image", lambda: {s * (s * 4 // 3): full_step(s) for s in sides}),
        ):
            found[name] = grow(runs(), turns)
    images = REDUCED_EVALUATED if reduced else EVALUATED
    runs = {100 * n: evaluation(n) for n in images}
    found["evaluated detections"] = grow(runs, min(turns, 3), with_memory=False)
    return found


def as_rows(points: Sequence[Point]) -> list[tuple[str, ...]]:
    """Cells of a table."""
    rows = []
    for before, point in zip([None, *points], points, strict=False):
        slope = ""
        if before is not None:
            growth = math.log(point.value / before.value)
            slope = f"{math.log(point.ratio / before.ratio) / growth:.2f}"
        memory = ("", "")
        if point.megabytes is not None:
            memory = (f"{point.megabytes:.1f}", f"{point.megabytes / points[0].megabytes:.2f}")
        rows.append(
            (f"{point.value:,}", f"{point.seconds:.3f}", f"{point.ratio:.2f}", slope, *memory)
        )
    return rows


def communication() -> list[tuple[str, str]]:
    """What the processes of configs/large exchange, by arithmetic."""
    rows = []
    for classes in (365, 601):
        cfg = load_config(
            [ROOT / "configs" / "large" / "objects365.yaml"],
            ["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", str(classes)],
        )
        trained = [p.numel() for p in build_model(cfg).parameters() if p.requires_grad]
        size = 4 * sum(trained)
        ring = 2 * (PROCESSES - 1) / PROCESSES * size
        rows += [
            (f"parameters trained, {classes} classes", f"{sum(trained):,}"),
            (f"gradients a process, {classes} classes", f"{size / 1e6:.1f} MB"),
            (f"sent by each process, {classes} classes", f"{ring / 1e6:.1f} MB a step"),
        ]
    box = [123.45678901, 67.89012345, 210.98765432, 109.87654321]
    found = [
        {"image_id": i, "category_id": i % 365, "bbox": [x + i for x in box], "score": 1 / (i + 2)}
        for i in range(10_000)
    ]
    a_detection = len(pickle.dumps(found)) / len(found)
    rows.append(("bytes of a gathered detection", f"{a_detection:.0f}"))
    for name, images in VALIDATION.items():
        total = images * 100 * a_detection
        rows.append((f"detections of {name}, at most", f"{total / 1e6:,.0f} MB"))
    return rows


def plot(found: dict[str, list[Point]]) -> bytes:
    """PNG with a log-log panel for each quantity."""
    figure = Figure(figsize=(13, 3), layout="constrained", dpi=80)
    for axes, (name, points) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        values = [p.value for p in points]
        axes.loglog(values, [p.ratio for p in points], "o-", label="time")
        if points[0].megabytes is not None:
            memory = [p.megabytes / points[0].megabytes for p in points]
            axes.loglog(values, memory, "s-", label="memory")
        linear = [v / values[0] for v in values]
        axes.loglog(values, linear, ":", color="gray", label="linear")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("ratio to the first value")
    figure.axes[0].legend()
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5, help="of the values (default 5)")
    parser.add_argument("--threads", type=int, help="of torch (default: as many as it takes)")
    parser.add_argument("--reduced", action="store_true", help="small images, fewer detections")
    parser.add_argument("--plot", type=Path, help="PNG to write")
    args = parser.parse_args(arguments)
    silence_known_noise()
    if args.threads:
        torch.set_num_threads(args.threads)
    found = measure(args.reduced, args.turns)
    print(f"{hardware()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, points in found.items():
        headers = (name, "seconds (median)", "ratio", "slope", "memory (MB)", "ratio")
        print("\n" + tabulate(as_rows(points), headers, tablefmt="github", disable_numparse=True))
    headers = (f"{PROCESSES} processes, {BATCH} images a step", "")
    print("\n" + tabulate(communication(), headers, tablefmt="github", disable_numparse=True))
    if args.plot:
        args.plot.write_bytes(plot(found))


if __name__ == "__main__":
    main()
