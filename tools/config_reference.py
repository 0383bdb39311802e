"""Print ``docs/config.md`` from the declarations of the config keys.

Usage: ``python tools/config_reference.py > docs/config.md``
"""

import re
from collections.abc import Iterable, Mapping

from counterpoise.config.declaration import Choices, Key, declared
from counterpoise.config.detectron2_keys import DETECTRON2_KEYS
from counterpoise.config.keys import SECTIONS
from counterpoise.config.launcher_keys import LAUNCHER_SECTIONS
from counterpoise.config.validation import OTHER_TASKS, SAMPLER_KEYS, WITHOUT_REGISTRY

INTRODUCTION = """\
# Config keys

Keys that Counterpoise adds to [Detectron2's](https://detectron2.readthedocs.io/modules/config.html).
Every value is checked before anything long begins, and a mistyped key or name is answered with the
nearest one. This page is made by `python tools/config_reference.py > docs/config.md` from the
declarations in `keys.py` and `launcher_keys.py` of `plugin/counterpoise/config/`.

A name in a registry may be one of yours: see "In your own script" in the README."""

LAUNCHER = """\
## Keys of `counterpoise train` and `train_net.py`

`add_counterpoise_config`, for scripts of your own, adds the keys above and changes none of
Detectron2's. The programs have these beside them, and other defaults for the two `NUM_CLASSES`."""

FILES = """\
## Config files

`--config-file` may be given more than once: later files override earlier ones, and `KEY VALUE`
pairs override all. A file may build on others by `_BASE_`. Paths are relative to the file that
names them, and environment variables in them are expanded.

Where no file of that path is here, a name stands for a file of Counterpoise
(`quick/focal_weights.yaml`), or else for one of the installed Detectron2's model zoo
(`COCO-Detection/retinanet_R_50_FPN_1x.yaml`), on the command line and under `_BASE_`:

    counterpoise train --config-file COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml \\
        --config-file my_data.yaml MODEL.ROI_HEADS.NAME BalancedROIHeads \\
        BALANCE.ROI_LOSS.NAME cross_entropy BALANCE.CLASS_WEIGHTS.SOURCE none

(without the second line of keys, with focal loss and class weights, the defaults of `BALANCE`)

- The number of classes that such a file states is left out with a notice: it is that of your data.
- Its schedule is made for COCO and 8 GPUs: set `SOLVER.IMS_PER_BATCH`, `BASE_LR`, `MAX_ITER` and
  `STEPS`.
- It may compute values by the tag `!!python/object/apply:eval`. In any other file the tags that
  run code are refused, and never run.
- A model with masks trains on COCO data whose boxes all have one, or with `MODEL.MASK_ON False`;
  boxes alone are evaluated. Models without classed boxes (proposals, semantic and panoptic
  segmentation) and LazyConfigs (`.py`) are answered in one sentence.

## Keys of Detectron2

All keep their meaning. Of some there is more to say:

- `DATALOADER.SAMPLER_TRAIN` is `TrainingSampler`, or `RepeatFactorTrainingSampler` with a
  `REPEAT_THRESHOLD` above 0 (`BALANCE.IMAGE_SAMPLER` has the median as a threshold, and other
  rules); the other samplers read keys that no default defines.
- `MODEL.DEVICE` `cuda` becomes `cpu` with a notice where no GPU is.
- `MODEL.KEYPOINT_ON`, `MODEL.LOAD_PROPOSALS` and `MODEL.MASK_ON` are refused on training data that
  has no keypoints, proposals or masks.
- `SOLVER.AMP.ENABLED` needs a GPU for `SOLVER.AMP.PRECISION` `float16` only.
- `TEST.AUG.ENABLED` lets a two-stage model see every image at all `MIN_SIZES` and mirrored,
  wherever it detects: in evaluation, `counterpoise thresholds` and `counterpoise predict`."""

RANGES = """\
What Detectron2 would meet with an assertion, or not at all, is refused at the start:
"""


def row(name: str, key: Key) -> str:
    """One line of a table."""
    values = ""
    if isinstance(key.allowed, Choices):
        values = ", ".join(f"`{known}`" for known in key.allowed.known)
        values += "" if isinstance(key.allowed.names, tuple) else ", or your own"
    elif key.allowed is not None:
        values = str(key.allowed)
    default = key.default if not isinstance(key.default, Mapping) else dict(key.default)
    shown = default if isinstance(default, str) and default else repr(default)
    source = re.sub(r"arXiv:([\d.]+\d)", r"[arXiv:\1](https://arxiv.org/abs/\1)", key.source)
    return f"| `{name}` | `{shown}` | {values} | {key.meaning} | {source} |"


def table(rows: Iterable[str]) -> str:
    """A table with the heading of its columns."""
    return "\n".join(
        ["| key | default | values | meaning | source |", "|---|---|---|---|---|", *rows]
    )


def reference() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for section in SECTIONS:
        rows = table(row(key.name, key) for key in section.keys)
        parts.append(f"## `{section.name}`\n\n{section.meaning}\n\n{rows}")
    launcher = table(row(name, key) for name, key in declared(LAUNCHER_SECTIONS).items())
    return "\n\n".join([*parts, f"{LAUNCHER}\n\n{launcher}", FILES, ranges()]) + "\n"


def ranges() -> str:
    """The values that keys of Detectron2 may have."""
    rows = []
    for name, allowed in DETECTRON2_KEYS.items():
        values = str(allowed)
        if isinstance(allowed, Choices):
            known = [*allowed.known, *WITHOUT_REGISTRY.get(name, ())]
            usable = [n for n in known if (name, n) not in OTHER_TASKS and n not in SAMPLER_KEYS]
            values = ", ".join(f"`{each}`" for each in usable)
        rows.append(f"| `{name}` | {values} |")
    return "\n".join([RANGES, "| key | values |", "|---|---|", *rows])


if __name__ == "__main__":
    print(reference(), end="")
