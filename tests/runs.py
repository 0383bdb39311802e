"""Runs of the command line on a small dataset, shared by the tests."""

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from counterpoise.commands import console
from models import CONFIGS

SMALL = [
    "MODEL.DEVICE", "cpu",
    "MODEL.WEIGHTS", "",
    "MODEL.FPN.OUT_CHANNELS", "16",
    "MODEL.ROI_BOX_HEAD.FC_DIM", "32",
    "INPUT.MIN_SIZE_TRAIN", "64",
    "INPUT.MIN_SIZE_TEST", "64",
    "DATALOADER.NUM_WORKERS", "0",
    "SOLVER.MAX_ITER", "3",
    "SOLVER.STEPS", "()",
    "SOLVER.WARMUP_ITERS", "1",
    "SOLVER.CHECKPOINT_PERIOD", "2",
]  # fmt: skip

#: For a training that is not evaluated, which takes half of its time.
NO_TEST = ("DATASETS.TEST", "()")


def write_dataset(folder: Path, names=("disc", "bar"), images=8, seed=0) -> Path:
    """A COCO dataset of grey images with bright boxes, and the config that names it."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    records, annotations = [], []
    for i in range(images):
        pixels = rng.integers(40, 90, (64, 80, 3), dtype=np.uint8)
        for k in range(1 + i % 2):
            x, y = int(rng.integers(0, 50)), int(rng.integers(0, 40))
            pixels[y : y + 18, x : x + 22] = 160 + 60 * k
            annotations.append(
                {"id": len(annotations), "image_id": i, "category_id": k, "bbox": [x, y, 22, 18],
                 "area": 396, "iscrowd": 0}
            )  # fmt: skip
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        records.append({"id": i, "file_name": f"{i}.png", "width": 80, "height": 64})
    content = {
        "images": records,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
    }
    (folder / "labels.json").write_text(json.dumps(content))
    name = folder.name
    entry = {"FORMAT": "coco", "IMAGES": "images", "ANNOTATIONS": "labels.json", "HOLDOUT": 0.25}
    config = {
        "DATASETS": {"CUSTOM": {name: entry}, "TRAIN": [f"{name}_train"], "TEST": [f"{name}_val"]}
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(config))
    return folder / "data.yaml"


def train_net(data: Path, out: Path, *arguments: str, leaf="focal_weights_ohem") -> int:
    flags = [a for a in arguments if a.startswith("--")]
    overrides = [a for a in arguments if not a.startswith("--")]
    files = ["--config-file", str(CONFIGS / "quick" / f"{leaf}.yaml"), "--config-file", str(data)]
    return console.train_net([*flags, *files, *SMALL, "OUTPUT_DIR", str(out), *overrides])
