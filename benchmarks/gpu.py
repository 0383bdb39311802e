"""Fill the GPU columns of docs/performance.md: one command on a machine with a GPU.

    python benchmarks/gpu.py                     # CUDA device 0, about ten minutes
    python benchmarks/gpu.py --device cpu        # tiny sizes, to see that it runs

Measured are the training step of stock Detectron2 and of this project's full configuration in each
precision, the classification losses, labelling and sampling of anchors, and inference. Weights and
images are random and nothing is fetched. The sides of a comparison take turns; a time is a median
over turns, a ratio the median of the ratios to the first side within a turn. Peak memory is what a
call allocates at once on top of what was there before it (model and optimizer).

The tables are printed and written to ``gpu.md``, every measurement is a line of ``gpu.jsonl``.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tabulate import tabulate

from anchor_labelling import SIDES as SAMPLERS
from anchor_labelling import STRIDES, build_rpn, peak_megabytes, random_image, seconds
from anchor_labelling import step as label_and_sample
from counterpoise.commands.console import silence_known_noise
from counterpoise.config.loading import load_config
from counterpoise.modeling.acceleration import accelerate
from counterpoise.training.run_record import hardware
from loss_speed import sides as loss_sides
from training_step import (
    BFLOAT16,
    CHANNELS_LAST,
    FULL,
    FUSED,
    ROOT,
    STOCK,
    common_overrides,
    synthetic_images,
    training_step,
)

#: Overrides of a side's precision; float16 is for GPUs.
PRECISIONS = {
    "float32": [],
    "bfloat16": BFLOAT16,
    "float16": ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", "float16"],
}


@dataclass(frozen=True)
class Sizes:
    """What is measured on a device.

    Attributes:
        model: folder of configs/.
        height, width: of the images in px.
        batches: images at once; the training step takes the last.
        losses: rows and columns of the logits.
        boxes: on the image whose anchors are labelled.
        smallest: side in px of the smallest anchors.
    """

    model: str
    height: int
    width: int
    batches: tuple[int, ...]
    losses: tuple[tuple[int, int], ...]
    boxes: tuple[int, ...]
    smallest: int


GPU = Sizes("r50_fpn", 800, 1344, (1, 4), ((512, 81), (8192, 81), (8192, 1204)), (5, 20, 100), 32)
TINY = Sizes("quick", 96, 128, (1, 2), ((64, 4),), (2,), 16)


@dataclass(frozen=True)
class Measurement:
    """One side of a comparison.

    Attributes:
        part, case, side: what was measured.
        milliseconds: median over turns; `lowest` and `highest` are its range.
        ratio: to the first side.
        peak_megabytes: None where it was not measured.
        images_per_second: None where no images are counted.
    """

    part: str
    case: str
    side: str
    milliseconds: float
    lowest: float
    highest: float
    ratio: float
    peak_megabytes: float
    images_per_second: float | None = None


def compare(
    part: str,
    case: str,
    runs: dict[str, Callable],
    device: str,
    turns: int,
    images: int | None = None,
) -> Iterator[Measurement]:
    """Time the sides of a comparison in turns."""
    for run in runs.values():
        for _ in range(2):
            run()  # warm up
    taken: dict[str, list[float]] = {side: [] for side in runs}
    for _ in range(turns):
        for side, run in runs.items():
            taken[side].append(1000 * seconds(run, device))
    first = next(iter(taken.values()))
    for side, times in taken.items():
        ratio = median(ours / theirs for ours, theirs in zip(times, first, strict=True))
        middle = median(times)
        yield Measurement(
            part, case, side, middle, min(times), max(times), ratio,
            peak_megabytes(runs[side], device), images and 1000 * images / middle,
        )  # fmt: skip


def training_steps(sizes: Sizes, device: str, turns: int) -> Iterator[Measurement]:
    """Forward pass, backward pass and optimizer, by configuration and precision."""
    images = synthetic_images(sizes.batches[-1], sizes.height, sizes.width)
    case = f"{sizes.model}, {len(images)} images of {sizes.height} x {sizes.width}"
    runs = {}
    for precision, overrides in PRECISIONS.items():
        if precision == "float16" and device == "cpu":
            continue
        for side, keys in (
            ("stock", STOCK), ("full", FULL),
            ("full, fast", [*FULL, *CHANNELS_LAST, *FUSED]),
        ):  # fmt: skip
            cfg = load_config(
                [ROOT / "configs" / sizes.model / "base.yaml"],
                [*common_overrides(device), *keys, *overrides],
            )
            runs[f"{side}, {precision}"] = training_step(cfg, images)
    yield from compare("training step", case, runs, device, turns, len(images))


def losses(sizes: Sizes, device: str, turns: int) -> Iterator[Measurement]:
    """Classification losses, forward and backward."""

    def run(loss_of: Callable, logits: torch.Tensor) -> None:
        logits.grad = None
        loss_of(logits).backward()

    for samples, classes in sizes.losses:
        logits, sides = loss_sides(samples, classes, device)
        runs = {side: partial(run, loss_of, logits) for side, loss_of in sides.items()}
        yield from compare("loss", f"{samples:,} x {classes:,}", runs, device, turns)


def anchor_samplers(sizes: Sizes, device: str, turns: int) -> Iterator[Measurement]:
    """Labelling and sampling of an image's anchors."""
    rpns = {side: build_rpn(side, sizes.smallest, device) for side in SAMPLERS}
    maps = [torch.zeros(1, 1, -(-sizes.height // s), -(-sizes.width // s), device=device)
            for s in STRIDES]  # fmt: skip
    anchors = rpns["stock"].anchor_generator(maps)
    total = sum(map(len, anchors))
    logits = torch.randn(total, device=device)
    for boxes in sizes.boxes:
        image = random_image(boxes, sizes.height, sizes.width, device)
        runs = {s: label_and_sample(rpn, anchors, image, logits) for s, rpn in rpns.items()}
        case = f"{total:,} anchors, {boxes} boxes"
        yield from compare("anchor sampler", case, runs, device, turns)


def inference(sizes: Sizes, device: str, turns: int) -> Iterator[Measurement]:
    """Detections of a model with random weights, by batch and precision."""

    @torch.inference_mode()
    def run(model: torch.nn.Module, images: list[dict]) -> None:
        model(images)

    models = {}
    for side, overrides in (
        ("stock, float32", STOCK),
        ("full, float32", FULL),
        ("full, channels last, float32", [*FULL, *CHANNELS_LAST]),
        ("full, channels last, bfloat16", [*FULL, *CHANNELS_LAST, "TEST.PRECISION", "bfloat16"]),
    ):
        cfg = load_config(
            [ROOT / "configs" / sizes.model / "base.yaml"],
            [*common_overrides(device), *overrides],
        )
        torch.manual_seed(0)
        models[side] = build_model(cfg).eval()
        accelerate(models[side], cfg)
    for batch in sizes.batches:
        images = synthetic_images(batch, sizes.height, sizes.width)
        runs = {side: partial(run, model, images) for side, model in models.items()}
        case = f"{sizes.model}, {batch} at once of {sizes.height} x {sizes.width}"
        yield from compare("inference", case, runs, device, turns, batch)


PARTS = (training_steps, losses, anchor_samplers, inference)


def as_tables(found: list[Measurement], title: str) -> str:
    """Markdown with a table for each part."""
    texts = [f"# {title}"]
    for part in dict.fromkeys(m.part for m in found):
        rows = [
            (m.case, m.side, f"{m.milliseconds:.2f}", f"{m.lowest:.2f}-{m.highest:.2f}",
             f"{m.ratio:.2f}", f"{m.peak_megabytes:,.1f}",
             "" if m.images_per_second is None else f"{m.images_per_second:.1f}")
            for m in found if m.part == part
        ]  # fmt: skip
        headers = ("case", "side", "ms (median)", "range", "ratio", "peak (MB)", "images/s")
        texts.append(f"## {part.capitalize()}")
        texts.append(tabulate(rows, headers, tablefmt="github", disable_numparse=True))
    return "\n\n".join(texts) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu (default cuda)")
    parser.add_argument("--turns", type=int, default=15, help="per comparison (default 15)")
    parser.add_argument(
        "--out", type=Path, default=Path("output/gpu"), help="folder of the results"
    )
    args = parser.parse_args(arguments)
    if args.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit(
            "PyTorch sees no GPU here: run this on a machine with one, or give --device cpu for "
            "tiny sizes that show that it runs"
        )
    silence_known_noise()
    sizes, card = TINY, "CPU, tiny sizes"
    if args.device != "cpu":
        torch.cuda.set_device(torch.device(args.device))
        sizes, card = GPU, torch.cuda.get_device_name()
    args.out.mkdir(parents=True, exist_ok=True)
    about = {"card": card, "hardware": hardware(), "torch": torch.__version__}
    torch.manual_seed(0)
    found = []
    with EventStorage(), (args.out / "gpu.jsonl").open("w") as lines:
        for part in PARTS:
            for measurement in part(sizes, args.device, args.turns):
                found.append(measurement)
                lines.write(json.dumps(asdict(measurement) | about) + "\n")
                lines.flush()  # kept, should a later part want more memory than there is
    tables = as_tables(found, f"{card}, {hardware()}, torch {torch.__version__}")
    (args.out / "gpu.md").write_text(tables)
    print(tables)


if __name__ == "__main__":
    main()
