"""Time the counting of many boxes in each format, and its memory.

    python benchmarks/counting.py                        # 1,000,000 boxes, 100 an image
    python benchmarks/counting.py --boxes 10000000       # ten times the time and the disk

It makes a dataset per format in a temporary folder and takes four times: parsing alone, which is
the format's own parser over all files without any use of what it gives; a first start, which reads,
checks, packs and counts; a later start from the cache; and the counting of records that are there.
The memory is the growth of the process in the first start, and the peak of the counting.
"""

import argparse
import io
import json
import logging
import multiprocessing
import resource
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import msgspec
import numpy as np
from detectron2.data import DatasetCatalog
from PIL import Image
from tabulate import tabulate

from counterpoise.commands.console import silence_known_noise
from counterpoise.datasets import count_classes, load_dataset, parse_specs, register_datasets
from counterpoise.datasets.fingerprint import SETTLING_NS
from counterpoise.training.run_record import hardware

PER_IMAGE = 100
CLASSES = 20
WIDTH, HEIGHT = 64, 48


def make(form: str, folder: Path, boxes: int) -> dict[str, str]:
    """Write a dataset; return its node of ``DATASETS.CUSTOM``."""
    images, labels = folder / "images", folder / "labels"
    images.mkdir()
    labels.mkdir()
    pixels = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT)).save(pixels, "JPEG")
    rng = np.random.default_rng(0)
    names = [f"class{i}" for i in range(CLASSES)]
    (folder / "classes.txt").write_text("\n".join(names))
    coco = (folder / "instances.json").open("w")
    coco.write('{"annotations": [')
    for i in range(boxes // PER_IMAGE):
        (images / f"{i:08d}.jpg").write_bytes(pixels.getvalue())
        corners = rng.integers(1, 30, (PER_IMAGE, 2)).tolist()
        extents = rng.integers(2, 18, (PER_IMAGE, 2)).tolist()
        classes = (rng.integers(0, CLASSES, PER_IMAGE)).tolist()
        objects = list(zip(classes, corners, extents, strict=True))
        if form == "coco":
            texts = (
                f'{{"id": {i * PER_IMAGE + k}, "image_id": {i}, "category_id": {c}, '
                f'"bbox": [{x}, {y}, {w}, {h}], "area": {w * h}, "iscrowd": 0}}'
                for k, (c, (x, y), (w, h)) in enumerate(objects)
            )
            coco.write((", " if i else "") + ", ".join(texts))
        elif form == "voc":
            texts = (
                f"<object><name>{names[c]}</name><difficult>0</difficult><bndbox><xmin>{x}</xmin>"
                f"<ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
                for c, (x, y), (w, h) in objects
            )
            xml = f"<annotation><filename>{i:08d}.jpg</filename>{''.join(texts)}</annotation>"
            (labels / f"{i:08d}.xml").write_text(xml)
        else:
            lines = (
                f"{c} {(x + w / 2) / WIDTH:.6f} {(y + h / 2) / HEIGHT:.6f} "
                f"{w / WIDTH:.6f} {h / HEIGHT:.6f}\n"
                for c, (x, y), (w, h) in objects
            )
            (labels / f"{i:08d}.txt").write_text("".join(lines))
    images_list = [{"id": i, "file_name": f"{i:08d}.jpg"} for i in range(boxes // PER_IMAGE)]
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    coco.write(f'], "images": {json.dumps(images_list)}, "categories": {json.dumps(categories)}}}')
    coco.close()
    annotations = folder / "instances.json" if form == "coco" else labels
    return {"FORMAT": form, "IMAGES": str(images), "ANNOTATIONS": str(annotations)}


def parse_alone(form: str, folder: Path) -> None:
    """Run the parser of a format over all files."""
    if form == "coco":
        msgspec.json.decode((folder / "instances.json").read_bytes())
    for path in (folder / "labels").iterdir():
        if form == "voc":
            fromstring(path.read_bytes())
        elif form == "yolo":
            for line in path.read_text().splitlines():
                list(map(float, line.split()))


def timed(task: Any, *arguments: Any) -> float:
    """Seconds that a function takes."""
    started = time.perf_counter()
    task(*arguments)
    return time.perf_counter() - started


def start(node: dict[str, str], cache: Path) -> None:
    """Read a dataset, or take it from its cache, and count it."""
    DatasetCatalog.pop("counted", None)
    register_datasets(parse_specs({"counted": node}, cache), classes=None)
    count_classes(["counted"])


def peak_of_process() -> float:
    """Largest memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(form: str, folder: Path, node: dict[str, str], boxes: int, queue: Any) -> None:
    """Measure one format in a process of its own, and put a row of the table."""
    logging.disable(logging.WARNING)
    before = peak_of_process()
    first = timed(start, node, folder / "cache")
    grown = peak_of_process() - before
    later = timed(start, node, folder / "cache")
    counting = timed(count_classes, ["counted"])
    tracemalloc.start()
    count_classes(["counted"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held = load_dataset("counted")[0].nbytes
    parsing = timed(parse_alone, form, folder)
    queue.put(
        (form, parsing, first, first / parsing, later, 1000 * counting, grown / boxes,
         held / boxes, peak / 1e6)
    )  # fmt: skip


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--boxes", type=int, default=1_000_000, help="default 1,000,000")
    parser.add_argument("--formats", nargs="+", default=["coco", "voc", "yolo"])
    args = parser.parse_args()
    silence_known_noise()
    context = multiprocessing.get_context("spawn")
    rows = []
    for form in args.formats:
        with tempfile.TemporaryDirectory() as name:
            node = make(form, Path(name), args.boxes)
            time.sleep(SETTLING_NS / 1e9 + 0.1)  # files that have just changed are not cached
            queue = context.SimpleQueue()
            arguments = (form, Path(name), node, args.boxes, queue)
            process = context.Process(target=measure, args=arguments)
            process.start()
            rows.append(queue.get())
            process.join()
    print(f"{args.boxes:,} boxes in {args.boxes // PER_IMAGE:,} images, {hardware()}\n")
    headers = ("format", "parsing (s)", "first start (s)", "ratio", "later start (s)",
               "counting (ms)", "grown (bytes a box)", "held (bytes a box)",
               "counting (MB)")  # fmt: skip
    floats = ("", ".2f", ".2f", ".2f", ".2f", ".1f", ".0f", ".0f", ".1f")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=floats))


if __name__ == "__main__":
    main()
