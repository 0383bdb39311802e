"""Datasets and files of runs, each spoilt in one way: the cases of test_bad_inputs.py."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Spoil = Callable[[Path], Any]

XML = """<annotation><filename>{0}.png</filename><size><width>60</width><height>40</height></size>
<object><name>cat</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>30</xmax><ymax>30</ymax></bndbox>
</object></annotation>"""


def write_images(folder: Path, count: int = 3) -> None:
    """Images 0.png, 1.png, ... of 60 x 40 pixels."""
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(np.full((40, 60, 3), 40 * i, np.uint8)).save(folder / f"{i}.png")


def write_coco(root: Path) -> dict[str, Any]:
    """Write a COCO dataset of three images; return its entry in DATASETS.CUSTOM."""
    write_images(root / "images")
    images = [{"id": i, "file_name": f"{i}.png", "width": 60, "height": 40} for i in range(3)]
    boxes = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 25, 25], "iscrowd": 0}
        for i in range(3)
    ]
    content = {
        "images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}],
    }  # fmt: skip
    (root / "labels.json").write_text(json.dumps(content))
    return {
        "FORMAT": "coco",
        "IMAGES": str(root / "images"),
        "ANNOTATIONS": str(root / "labels.json"),
    }


def write_voc(root: Path) -> dict[str, Any]:
    """Write a VOC dataset of three images; return its entry in DATASETS.CUSTOM."""
    write_images(root / "images")
    (root / "xml").mkdir()
    for i in range(3):
        (root / "xml" / f"{i}.xml").write_text(XML.format(i))
    return {"FORMAT": "voc", "IMAGES": str(root / "images"), "ANNOTATIONS": str(root / "xml")}


def write_yolo(root: Path) -> dict[str, Any]:
    """Write a YOLO dataset of three images; return its entry in DATASETS.CUSTOM."""
    write_images(root / "images" / "train")
    (root / "labels" / "train").mkdir(parents=True)
    for i in range(3):
        (root / "labels" / "train" / f"{i}.txt").write_text("0 0.5 0.5 0.3 0.3\n")
    (root / "data.yaml").write_text("{names: [cat], nc: 1, train: images/train}\n")
    return {"FORMAT": "yolo", "DATA_YAML": str(root / "data.yaml"), "SPLIT": "train"}


WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}

#: What stands in place of a whole file.
CONTENTS = {
    "empty": b"",
    "null bytes": b"\0" * 50,
    "no text": bytes(range(128, 256)),
    "UTF-16": "{}".encode("utf-16"),
    "list": b"[]",
    "mapping": b"{}",
    "null": b"null",
    "number": b"1e999",
    "text": b'"words"',
    "words": b"not what belongs here",
    "open bracket": b'{"images": [',
    "nested": b"[" * 20_000,
    "nested mappings": b'{"a":' * 5_000,
    "nested tags": b"<a>" * 20_000,
    "long line": b"9" * 200_000,
    "entity": b'<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>',
    "outside entity": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><a>&b;</a>',
    "alias bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"\n".join(
        b"%c: &%c [%s]" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(9)
    ),
    "python tag": b"!!python/object/apply:os.system ['touch /tmp/owned']",
}


def replaced(relative: str, content: bytes) -> Spoil:
    return lambda root: (root / relative).write_bytes(content)


def half(relative: str) -> Spoil:
    def spoil(root: Path) -> None:
        data = (root / relative).read_bytes()
        (root / relative).write_bytes(data[: len(data) // 2])

    return spoil


def removed(relative: str) -> Spoil:
    return lambda root: (root / relative).unlink()


def as_folder(relative: str) -> Spoil:
    def spoil(root: Path) -> None:
        (root / relative).unlink()
        (root / relative).mkdir()

    return spoil


def as_pipe(relative: str) -> Spoil:
    def spoil(root: Path) -> None:
        (root / relative).unlink()
        os.mkfifo(root / relative)

    return spoil


def linked(relative: str, target: str) -> Spoil:
    def spoil(root: Path) -> None:
        (root / relative).unlink()
        (root / relative).symlink_to(target)

    return spoil


def of_every_file(files: dict[str, str]) -> dict[str, Spoil]:
    """Cases for each file of a folder; keys are what it is called."""
    cases = {}
    for called, relative in files.items():
        cases |= {f"{called}: {name}": replaced(relative, c) for name, c in CONTENTS.items()}
        cases |= {
            f"{called}: half of it": half(relative),
            f"{called}: missing": removed(relative),
            f"{called}: a folder": as_folder(relative),
            f"{called}: a pipe": as_pipe(relative),
            f"{called}: a link to itself": linked(relative, Path(relative).name),
            f"{called}: a device": linked(relative, "/dev/zero"),
        }
    return cases


def coco(part: str, values: dict[str, Any]) -> Spoil:
    """Change the first entry of one of the lists."""

    def spoil(root: Path) -> None:
        path = root / "labels.json"
        content = json.loads(path.read_text())
        content[part][0] |= values
        path.write_text(json.dumps(content))

    return spoil


def coco_list(part: str, value: Any) -> Spoil:
    """Put another value in the place of a list."""

    def spoil(root: Path) -> None:
        path = root / "labels.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {part: value}))

    return spoil


ODD = {
    "null": None, "text": "x", "list": [], "mapping": {}, "huge": 10**30, "negative": -1,
    "fraction": 0.5, "NaN": float("nan"), "infinity": float("inf"), "true": True,
    "control": "a\x1b[31m", "surrogate": "a\ud800", "null byte": "a\0b",
}  # fmt: skip
BOXES = {
    "three numbers": [1, 2, 3], "five numbers": [1, 2, 3, 4, 5], "texts": ["a"] * 4,
    "nulls": [None] * 4, "zero width": [1, 1, 0, 5], "negative": [1, 1, -5, 5],
    "outside": [500, 500, 5, 5], "NaN": [float("nan")] * 4, "infinity": [float("inf")] * 4,
    "huge": [1e300, 1e300, 1e308, 1e308], "nested": [[1, 1, 5, 5]], "mapping": {"x": 1},
}  # fmt: skip
NAMES = {
    "up": "../../0.png", "absolute": "/etc/passwd", "folder": ".", "empty": "", "long": "a" * 5000,
    "device": "/dev/zero", "windows": "C:\\x\\0.png\\..", "url": "http://x/0.png",
}  # fmt: skip
COCO_CASES = {
    **of_every_file({"labels.json": "labels.json", "an image": "images/0.png"}),
    **{f"image id {n}": coco("images", {"id": v}) for n, v in ODD.items() if n != "negative"},
    **{f"image width {n}": coco("images", {"width": v}) for n, v in ODD.items() if n != "null"},
    **{f"file_name {n}": coco("images", {"file_name": v}) for n, v in (ODD | NAMES).items()},
    **{f"image_id {n}": coco("annotations", {"image_id": v}) for n, v in ODD.items()},
    **{f"category_id {n}": coco("annotations", {"category_id": v}) for n, v in ODD.items()
       if n != "true"},
    **{f"bbox {n}": coco("annotations", {"bbox": v}) for n, v in (BOXES | ODD).items()},
    **{f"iscrowd {n}": coco("annotations", {"iscrowd": v}) for n, v in ODD.items()
       if n not in ("null", "true")},
    **{f"category name {n}": coco("categories", {"name": v})
       for n, v in {"empty": "", "null": None, "list": [], "mapping": {}, "control": "a\x1b[31m",
                    "surrogate": "\ud800"}.items()},
    **{f"{part} {n}": coco_list(part, v) for part in ("images", "annotations", "categories")
       for n, v in {"null": None, "text": "x", "mapping": {}, "numbers": [1],
                    "lists": [[]]}.items()},
    "no images at all": coco_list("images", []),
    "no categories at all": coco_list("categories", []),
    "10,001 boxes": lambda root: coco_list(
        "annotations",
        [{"id": i, "image_id": 0, "category_id": 1, "bbox": [1, 1, 5, 5]} for i in range(10_001)],
    )(root),
}  # fmt: skip


def xml(old: str, new: str) -> Spoil:
    def spoil(root: Path) -> None:
        path = root / "xml" / "0.xml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return spoil


NUMBERS = {"words": "x", "NaN": "nan", "infinity": "inf", "empty": "", "negative": "-1e9",
           "huge": "1e308", "digits": "9" * 5000}  # fmt: skip
VOC_CASES = {
    **of_every_file({"an XML": "xml/0.xml", "an image": "images/0.png"}),
    **{f"xmin {n}": xml("<xmin>5", f"<xmin>{v}") for n, v in NUMBERS.items() if n != "negative"},
    **{f"xmax {n}": xml("<xmax>30", f"<xmax>{v}") for n, v in NUMBERS.items() if n != "huge"
       and n != "digits"},
    **{f"width {n}": xml("<width>60", f"<width>{v}") for n, v in NUMBERS.items()},
    "no name": xml("<name>cat</name>", ""),
    "empty name": xml("<name>cat", "<name> "),
    "no bndbox": xml("bndbox", "box"),
    "another root": xml("annotation>", "notes>"),
    "turned box": xml("<xmax>30", "<xmax>2"),
    "other size": xml("<width>60", "<width>61"),
}  # fmt: skip


def label(text: str) -> Spoil:
    return replaced("labels/train/0.txt", text.encode())


def data_yaml(text: str) -> Spoil:
    return replaced("data.yaml", text.encode())


LABELS = ("0", "0 0.5 0.5 0.1", "0 0.5 0.5 0.1 0.1 0.9", "x 0.5 0.5 0.1 0.1", "1 0.5 0.5 0.1 0.1",
          "-1 0.5 0.5 0.1 0.1", "0.5 0.5 0.5 0.1 0.1", "nan 0.5 0.5 0.1 0.1", "0 nan 0.5 0.1 0.1",
          "0 inf 0.5 0.1 0.1", "0 0.5 0.5 0 0.1", "0 0.5 0.5 -0.1 0.1", "0 5 5 0.1 0.1",
          "0 1e308 1e308 1e308 1e308", "1e999 0.5 0.5 0.1 0.1", "0 0,5 0,5 0,1 0,1",
          "0;0.5;0.5;0.1;0.1", "0 0.5 0.5 0.1 x\x1b[31m")  # fmt: skip
YAMLS = ("names: 3", "names: {}", "names: {1: a}", "names: [a, a]", "names: [[a]]", "names: [no]",
         "names: ['']", "{names: [cat], nc: 2}", "{names: [cat], nc: x}",
         "{names: [cat], train: 5}", "{names: [cat], train: [5]}", "{names: [cat], train: gone}",
         "{names: [cat], train: /etc/passwd}", f"{{names: [cat], train: {40 * '../'}}}",
         "{names: [cat], names: [dog]}", "names: ['a\x1b[31m']", 'names: ["\\ud800"]',
         "&a [*a]", "names: &a [*a]", "{? [1]: 2}", "a: b: c", "names: !!python/name:os.system ''",
         )  # fmt: skip
YOLO_CASES = {
    **of_every_file({
        "data.yaml": "data.yaml", "a label": "labels/train/0.txt", "an image": "images/train/0.png",
    }),
    **{f"label {text!r}": label(text) for text in LABELS},
    **{f"yaml {text!r}": data_yaml(text) for text in YAMLS},
    "label without image": lambda root: (root / "labels/train/9.txt").write_text("0 .5 .5 .1 .1"),
    "no labels at all": lambda root: shutil.rmtree(root / "labels"),
    "no images at all": lambda root: shutil.rmtree(root / "images"),
}  # fmt: skip

DATASET_CASES = {"coco": COCO_CASES, "voc": VOC_CASES, "yolo": YOLO_CASES}

#: The file of each format whose bytes are changed at random.
ANNOTATIONS = {"coco": "labels.json", "voc": "xml/0.xml", "yolo": "labels/train/0.txt"}


def mutated(data: bytes, seed: int) -> bytes:
    """Change, insert, remove or repeat some bytes."""
    rng, changed = random.Random(seed), bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(changed) + 1)
        action = rng.randrange(4)
        if action == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif action == 1:
            changed[at:at] = rng.choice([b"{", b"]", b'"', b"-", b"e9", b"\\u", b"<", b"&", b"\0"])
        elif action == 2:
            del changed[at : at + rng.randint(1, 30)]
        else:
            changed[at:at] = changed[at : at + rng.randint(1, 60)]
    return bytes(changed)
