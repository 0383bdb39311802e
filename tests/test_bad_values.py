"""Every key that the program reads refuses values that it cannot use, by name, before it starts."""

import pytest

from counterpoise.config.declaration import Choices, Interval, Numbers, declared
from counterpoise.config.detectron2_keys import DETECTRON2_KEYS
from counterpoise.config.keys import SECTIONS
from counterpoise.config.launcher_keys import LAUNCHER_SECTIONS
from counterpoise.config.loading import load_config
from counterpoise.config.tree import flat_leaves
from counterpoise.config.validation import check_config
from counterpoise.errors import UserError
from models import C4, CASCADE, quick_config

DEFAULTS = dict(flat_leaves(load_config([])))
ALLOWED = {
    **{key: entry.allowed for key, entry in declared((*SECTIONS, *LAUNCHER_SECTIONS)).items()},
    **{key: allowed for key, allowed in DETECTRON2_KEYS.items() if key in DEFAULTS},
}

NUMBERS = ["-1e9", "-2", "-0.5", "1e400", "float('nan')", "'text'", "None", "[]", "{}"]
LISTS = ["()", "(0, 'a')", "((),)", "(-1e9,)", "'text'", "1e400", "(float('nan'),) * 4", "None"]


def spoilt(key: str) -> list[str]:
    """Values that a key does not allow, as they are typed."""
    allowed, default = ALLOWED[key], DEFAULTS.get(key)
    if isinstance(default, bool):
        return ["2", "maybe", "None", "[True]"]
    if isinstance(allowed, Choices):
        names = ["nonsense", "", "None"] if isinstance(default, str) else ["-3", "nonsense"]
        return [name for name in names if name not in allowed.known]
    if isinstance(default, (list, tuple)) and isinstance(allowed, (Interval, Numbers)):
        may_be_empty = isinstance(allowed, Interval) or allowed.empty
        return [value for value in LISTS if not (value == "()" and may_be_empty)]
    if isinstance(allowed, Interval):
        numbers = [v for v in ("-1e9", "-2", "-0.5") if float(v) not in allowed]
        beyond = [str(allowed.high + 1)] if allowed.high < 1e300 else []
        return [*numbers, *beyond, *NUMBERS[3:]]
    return []


CASES = [(key, value) for key in ALLOWED for value in spoilt(key)]


def test_there_are_hundreds_of_cases():
    assert len(CASES) > 700
    assert len({key for key, _ in CASES}) > 100


@pytest.mark.parametrize("key", sorted({key for key, _ in CASES}))
def test_a_value_that_cannot_be_used_is_refused_by_its_key(key):
    for value in spoilt(key):
        with pytest.raises(UserError) as raised:
            check_config(load_config([], [key, value]))
        sentence = str(raised.value)
        assert key in sentence and "\n" not in sentence and len(sentence) < 600, value


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", "(96,)"],
         "'range' draws from the smallest to the largest size: give two"),
        (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", "(96, 64)"],
         "give two, such as"),
        (["INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE", "absolute"],
         "SIZE is [0.9, 0.9], but TYPE 'absolute' takes two whole numbers of pixels"),
        (["INPUT.CROP.ENABLED", "True", "INPUT.CROP.SIZE", "[2, 2]"], "two shares of the image"),
        (["INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE", "absolute_range", "INPUT.CROP.SIZE",
          "[600, 384]"], "the smaller one first"),
        (["MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64]]"], "SIZES has 2 lists, but MODEL.RPN.IN_"),
        (["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[1], [1], [1], [1], [1, 2]]"],
         "gives [1, 1, 1, 1, 2] anchors a place"),
        (["MODEL.RPN.IOU_LABELS", "[0, 1]"], "MODEL.RPN.IOU_LABELS is [0, 1], but IOU_THRESHOLDS"),
        (["MODEL.ROI_HEADS.IOU_THRESHOLDS", "[0.3, 0.5]"], "make 3 ranges: give each a label"),
        (["MODEL.ROI_BOX_HEAD.NUM_FC", "0"], "are both 0, so that the head has no layer"),
        (["MODEL.ROI_BOX_HEAD.NAME", "FastRCNNFCHead"], "did you mean 'FastRCNNConvFCHead'"),
        (["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", "1.0"],
         "SOLVER.BASE_LR_END is 1.0, above BASE_LR"),
        (["MODEL.ROI_HEADS.IOU_LABELS", "[0, 2]"], "IOU_LABELS is [0, 2], expected 1 for an"),
        (["MODEL.META_ARCHITECTURE", "BalancedRetinaNet", "MODEL.RETINANET.IOU_LABELS", "[0, 1]"],
         "MODEL.RETINANET.IOU_LABELS is [0, 1], but IOU_THRESHOLDS"),
        (["MODEL.ROI_HEADS.NAME", "BalancedCascadeROIHeads"],
         "set MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True"),
        ([*CASCADE, "MODEL.ROI_BOX_CASCADE_HEAD.IOUS", "(0.5, 0.6)"],
         "has 2 IOUS and 3 BBOX_REG_WEIGHTS"),
        ([*CASCADE, "MODEL.ROI_HEADS.IOU_THRESHOLDS", "[0.6]"],
         "IOUS begins with 0.5, but MODEL.ROI_HEADS.IOU_THRESHOLDS is [0.6]"),
        (["MODEL.ROI_HEADS.NAME", "BalancedRes5ROIHeads"], "which reads one feature"),
        (["MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.NAME", "MaskHead"],
         "MODEL.ROI_MASK_HEAD.NAME is 'MaskHead', did you mean"),
        (["MODEL.FPN.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", "100"],
         "MODEL.FPN.OUT_CHANNELS is 100: give a multiple of 32"),
        (["MODEL.ROI_BOX_HEAD.NORM", "GN", "MODEL.ROI_BOX_HEAD.NUM_CONV", "1",
          "MODEL.ROI_BOX_HEAD.CONV_DIM", "100"], "MODEL.ROI_BOX_HEAD.CONV_DIM is 100"),
        ([*C4, "MODEL.RESNETS.RES2_OUT_CHANNELS", "256"], "set MODEL.RESNETS.RES2_OUT_CHANNELS 64"),
    ],
)  # fmt: skip
def test_values_that_do_not_go_together_are_refused(overrides, said):
    with pytest.raises(UserError) as raised:
        check_config(quick_config(*overrides))
    assert said in str(raised.value)


@pytest.mark.parametrize(
    "key, value", [("INPUT.CROP.SIZE", "[2, 2]"), ("INPUT.MIN_SIZE_TRAIN", "(64, 96, 128)")]
)
def test_values_that_nothing_combines_are_left_alone(key, value):
    check_config(quick_config(key, value))
