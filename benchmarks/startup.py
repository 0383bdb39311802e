"""Time the start of a training up to its first batch, against Detectron2's own loader.

    python benchmarks/startup.py                       # 100,000 images with 7 boxes each, COCO form
    python benchmarks/startup.py --images 5000

It makes a dataset of small JPEG files in a temporary folder. Three sides take turns, each from a
prepared config to the first batch of two images: Detectron2's loader of the same COCO file, which
opens no image and checks no box; this project's first start, which does both and writes its cache;
and its later starts. The memory is what the records take in the process that trains.
"""

import argparse
import gc
import io
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.data.datasets import register_coco_instances
from PIL import Image
from tabulate import tabulate

from counterpoise.commands.console import silence_known_noise
from counterpoise.config.loading import load_config
from counterpoise.config.preparation import prepare
from counterpoise.datasets import load_dataset
from counterpoise.datasets.fingerprint import SETTLING_NS
from counterpoise.training.run_record import hardware
from counterpoise.training.trainer import BalancedTrainer, training_table

CLASSES = 80
BOXES = 7  # per image, as in COCO
WIDTH, HEIGHT = 64, 48
STOCK = "startup_stock"
OWN = "startup_own"


def make_dataset(folder: Path, images: int) -> None:
    """Write a COCO file, and a JPEG file per image."""
    rng = np.random.default_rng(0)
    pixels = io.BytesIO()
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 120, np.uint8)).save(pixels, "JPEG")
    (folder / "images").mkdir()
    for i in range(images):
        (folder / "images" / f"{i:012d}.jpg").write_bytes(pixels.getvalue())
    corners = rng.uniform(0, 30, (images * BOXES, 2)).round(2)
    extents = rng.uniform(2, 18, (images * BOXES, 2)).round(2)
    classes = rng.integers(1, CLASSES + 1, images * BOXES)
    content = {
        "images": [
            {"id": i, "file_name": f"{i:012d}.jpg", "width": WIDTH, "height": HEIGHT}
            for i in range(images)
        ],
        "annotations": [
            {"id": k + 1, "image_id": k // BOXES, "category_id": c, "bbox": [x, y, w, h],
             "area": w * h, "iscrowd": 0}
            for k, ((x, y), (w, h), c) in enumerate(
                zip(corners.tolist(), extents.tolist(), classes.tolist(), strict=True)
            )
        ],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)],
    }  # fmt: skip
    (folder / "instances.json").write_text(json.dumps(content))


def config(folder: Path) -> CfgNode:
    """A config of the quick model on the dataset."""
    own = f"DATASETS.CUSTOM.{OWN}"
    return load_config(
        ["quick/focal.yaml"],
        [
            f"{own}.FORMAT", "coco", f"{own}.IMAGES", str(folder / "images"),
            f"{own}.ANNOTATIONS", str(folder / "instances.json"),
            "DATASETS.TRAIN", f"('{OWN}',)", "DATASETS.CACHE", str(folder / "cache"),
            "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2",
            "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu",
        ],
    )  # fmt: skip


def forget() -> None:
    """Take both datasets out of the catalogues, and what was read of them out of memory."""
    for name in (STOCK, OWN):
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)
    DatasetCatalog.register(STOCK, lambda: [{"annotations": []}])
    MetadataCatalog.get(STOCK).thing_classes = ["x"]
    load_dataset(STOCK)  # drops the records of names that are gone
    DatasetCatalog.pop(STOCK)
    MetadataCatalog.pop(STOCK)
    gc.collect()


def start_stock(folder: Path) -> object:
    """Detectron2's training loader, as its own train_net.py builds it."""
    cfg = config(folder)
    register_coco_instances(STOCK, {}, str(folder / "instances.json"), str(folder / "images"))
    cfg.DATASETS.TRAIN = (STOCK,)
    loader = build_detection_train_loader(cfg)
    next(iter(loader))
    return loader


def start_own(folder: Path) -> object:
    """What ``counterpoise train`` does with the data before the first step."""
    cfg = config(folder)
    prepare(cfg)
    training_table(cfg)
    loader = BalancedTrainer.build_train_loader(cfg)
    next(iter(loader))
    return loader


def start_own_first(folder: Path) -> object:
    """The same without a cache."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    return start_own(folder)


def seconds_of(start: Callable[[Path], object], folder: Path) -> tuple[float, float]:
    """Time one start from a clean state: seconds on the clock, and of the processor."""
    forget()
    started, used = time.perf_counter(), time.process_time()
    start(folder)
    return time.perf_counter() - started, time.process_time() - used


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000, help="default 100,000")
    parser.add_argument("--starts", type=int, default=5, help="per side (default 5)")
    args = parser.parse_args()
    silence_known_noise()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    sides = {
        "Detectron2's loader": start_stock,
        "first start": start_own_first,
        "later start": start_own,
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dataset(folder, args.images)
        time.sleep(SETTLING_NS / 1e9 + 0.1)  # files that have just changed are not cached
        for _ in range(args.starts):
            for side, start in sides.items():
                seconds[side].append(seconds_of(start, folder))
        records, _ = load_dataset(OWN)
        nbytes = records.nbytes
        cached = sum(path.stat().st_size for path in (folder / "cache").iterdir())
    medians = {name: np.median(taken, axis=0) for name, taken in seconds.items()}
    stock = medians["Detectron2's loader"]
    rows = [
        (side, clock, f"{min(seconds[side])[0]:.2f}-{max(seconds[side])[0]:.2f}", clock / stock[0],
         processor, processor / stock[1])
        for side, (clock, processor) in medians.items()
    ]  # fmt: skip
    print(f"{args.images:,} images, {args.images * BOXES:,} boxes, one thread, {hardware()}\n")
    headers = ("side", f"seconds (median of {args.starts})", "range", "ratio to Detectron2",
               "processor (s)", "ratio")  # fmt: skip
    print(tabulate(rows, headers, tablefmt="github", floatfmt=".2f"))
    print(
        f"\nrecords: {nbytes / args.images:.0f} bytes an image in memory, "
        f"{cached / args.images:.0f} in the cache file"
    )


if __name__ == "__main__":
    main()
