"""The memory of a long training does not grow, in the main process and in a loading worker."""

import json

import pytest

from interruptions import train_until
from models import CONFIGS
from runs import NO_TEST, write_dataset

#: A network of one convolution, and a line with the memory every 50 iterations: of the main
#: process and of its worker, in KB, without files, which other processes may share or not.
OWN = """
import json, multiprocessing, os
from pathlib import Path
from detectron2.engine import hooks
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

class Tiny(Backbone):
    def __init__(self):
        super().__init__()
        self.layer = Conv2d(3, 8, 8, stride=8)

    def forward(self, images):
        return {{"tiny": self.layer(images)}}

    def output_shape(self):
        return {{"tiny": ShapeSpec(channels=8, stride=8)}}

@BACKBONE_REGISTRY.register()
def build_tiny(cfg, shape):
    return Tiny()

def memory(pid):
    lines = Path(f"/proc/{{pid}}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous"))

timed = hooks.IterationTimer.after_step
def measured(self):
    timed(self)
    if self.trainer.iter % 50 == 49:
        (worker,) = multiprocessing.active_children()
        with open({file!r}, "a") as file:
            print(json.dumps([memory(os.getpid()), memory(worker.pid)]), file=file)
hooks.IterationTimer.after_step = measured
"""
TINY = [
    "MODEL.DEVICE", "cpu",
    "MODEL.WEIGHTS", "",
    "MODEL.BACKBONE.NAME", "build_tiny",
    "MODEL.RPN.IN_FEATURES", "['tiny']",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "16",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN", "32",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", "16",
    "MODEL.ANCHOR_GENERATOR.SIZES", "[[16]]",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[1.0]]",
    "MODEL.ROI_HEADS.IN_FEATURES", "['tiny']",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8",
    "MODEL.ROI_BOX_HEAD.NUM_FC", "1",
    "MODEL.ROI_BOX_HEAD.FC_DIM", "8",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "2",
    "INPUT.MIN_SIZE_TRAIN", "32",
    "INPUT.COLOR_JITTER", "0.2",
    "DATALOADER.NUM_WORKERS", "1",
    "SOLVER.IMS_PER_BATCH", "1",
    "SOLVER.STEPS", "()",
    "SOLVER.CHECKPOINT_PERIOD", "100",
    "SOLVER.CHECKPOINTS_KEPT", "2",
    *NO_TEST,
]  # fmt: skip


@pytest.mark.slow
def test_memory_is_flat_over_2000_steps(tmp_path):
    data = write_dataset(tmp_path / "shapes")
    own = tmp_path / "own.py"
    own.write_text(OWN.format(file=str(tmp_path / "memory")))
    files = ["--config-file", str(CONFIGS / "quick" / "focal_weights_ohem.yaml")]
    files += ["--config-file", str(data), f"--import={own}"]
    out = ["SOLVER.MAX_ITER", "2000", "OUTPUT_DIR", str(tmp_path / "out")]
    ended = train_until([*files, *TINY, *out], tmp_path / "log", seconds=1500)
    assert ended.code == 0, ended.output[-3000:]
    measured = [json.loads(line) for line in (tmp_path / "memory").read_text().splitlines()]
    assert len(measured) == 40
    for name, values in zip(("main", "worker"), zip(*measured, strict=True), strict=True):
        early, late = min(values[15:25]), min(values[30:])
        assert late - early < 2000, f"{name}: {late - early} KB in 750 steps"
