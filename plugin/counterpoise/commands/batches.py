"""``counterpoise batches``: training images as the model sees them, and how long they take."""

import argparse
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng

from counterpoise.commands.configs import config_of
from counterpoise.config.preparation import prepare
from counterpoise.errors import UserError
from counterpoise.pages.drawing import draw_boxes
from counterpoise.pages.figures import image_uri, palette
from counterpoise.pages.rendering import render
from counterpoise.pages.sections import Gallery, Picture, Section, Text
from counterpoise.training.trainer import BalancedTrainer
from counterpoise.utils.files import write_atomically
from counterpoise.utils.table import Table
from counterpoise.utils.text import counted

Image = dict[str, Any]


def run(args: argparse.Namespace) -> None:
    """Draw the first images of a training, count their boxes and time their loading.

    Raises:
        UserError: an argument, the config or a dataset cannot be used.
    """
    if args.images < 1:
        raise UserError(f"--images is {args.images}, expected at least 1")
    cfg = config_of(args)
    cfg.DATALOADER.NUM_WORKERS = 0  # so that the time is that of one worker
    classes = prepare(cfg, splits=("TRAIN",))
    cfg.freeze()
    seed_all_rng(cfg.SEED if cfg.SEED >= 0 else None)
    loader = iter(BalancedTrainer.build_train_loader(cfg))
    start = time.perf_counter()
    batches = list(itertools.islice(loader, -(-args.images // cfg.SOLVER.IMS_PER_BATCH)))
    loaded = list(itertools.chain.from_iterable(batches))
    each = 1000 * (time.perf_counter() - start) / len(loaded)
    images = loaded[: args.images]
    boxes = Counter(c for image in images for c in image["instances"].gt_classes.tolist())
    found = [
        Text(
            f"{counted(len(images), 'image')} with {counted(boxes.total(), 'box')}, "
            f"{each:.0f} ms of one worker each. A training keeps up with its step where "
            f"DATALOADER.NUM_WORKERS is at least {each * cfg.SOLVER.IMS_PER_BATCH:.0f} / the "
            f"step's milliseconds ({counted(cfg.SOLVER.IMS_PER_BATCH, 'image')} a step)."
        ),
        Table(("class", "boxes"), [(name, boxes[i]) for i, name in enumerate(classes)]),
    ]
    pictures = [_picture(image, classes, cfg) for image in images]
    title = f"Training images of {', '.join(cfg.DATASETS.TRAIN)}"
    page = render(title, found, [Section("images", "As the model sees them", [Gallery(pictures)])])
    print(found[0].text, found[1].as_text(), sep="\n\n")
    print(f"\n{write_atomically(args.out / 'batches.html', page)}")


def _picture(image: Image, classes: Sequence[str], cfg: CfgNode) -> Picture:
    pixels = image["image"].numpy().transpose(1, 2, 0)
    if cfg.INPUT.FORMAT == "BGR":
        pixels = pixels[..., ::-1]
    found, colours = image["instances"], palette(len(classes))
    kinds = found.gt_classes.tolist()
    drawn = draw_boxes(
        np.ascontiguousarray(pixels),
        found.gt_boxes.tensor.numpy(),
        [classes[kind] for kind in kinds],
        [colours[kind] for kind in kinds],
    )
    height, width = found.image_size
    return Picture(image_uri(drawn), f"{width} x {height}", image["file_name"])
