"""Features that a config names and its backbone does not have."""

from pathlib import Path

import pytest
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from counterpoise.config.loading import load_config
from counterpoise.config.validation import check_config
from counterpoise.errors import UserError
from counterpoise.modeling.features import feature_errors_explained

CONFIGS = Path(__file__).parent.parent / "configs"


def config(name: str, key: str, value: str) -> CfgNode:
    cfg = load_config([CONFIGS / name], [key, value, "MODEL.DEVICE", "cpu"])
    check_config(cfg)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = 3
    return cfg


@pytest.mark.parametrize(
    "name, key, value, said",
    [
        (
            "quick/baseline.yaml", "MODEL.ROI_HEADS.IN_FEATURES", "['p9']",
            r"ROI_HEADS\.IN_FEATURES names 'p9'.*known: p2",
        ),
        (
            "quick/baseline.yaml", "MODEL.RPN.IN_FEATURES", "['p2', 'p3', 'p4', 'p5', 'p7']",
            r"RPN\.IN_FEATURES names 'p7'.*known: p2",
        ),
        (
            "quick_retinanet/focal.yaml", "MODEL.RETINANET.IN_FEATURES",
            "['p2', 'p4', 'p5', 'p6', 'p7']", r"RETINANET\.IN_FEATURES names 'p2'.*known: p3",
        ),
        (
            "quick/baseline.yaml", "MODEL.ROI_HEADS.IN_FEATURES", "['p2', 'p4']",
            r"IN_FEATURES is \['p2', 'p4'\].* strides double, out of p2 \(stride 4\), p3",
        ),
        (
            "quick/baseline.yaml", "MODEL.ROI_HEADS.IN_FEATURES", "[]",
            r"ROI_HEADS\.IN_FEATURES is \[\], expected features",
        ),
        (
            "r50_fpn/baseline.yaml", "MODEL.FPN.IN_FEATURES", "['res9']",
            r"OUT_FEATURES \['res2', 'res3', 'res4', 'res5'\] and MODEL\.FPN\.IN_FEATURES "
            r"\['res9'\]",
        ),
        (
            "r50_fpn/baseline.yaml", "MODEL.RESNETS.OUT_FEATURES", "['res9']",
            r"MODEL\.RESNETS\.OUT_FEATURES \['res9'\].* such as 'res2' to 'res5'",
        ),
    ],
)  # fmt: skip
def test_features_that_the_backbone_lacks_are_refused_by_key(name, key, value, said):
    cfg = config(name, key, value)
    with pytest.raises(UserError, match=said), feature_errors_explained(cfg):
        build_model(cfg)


def test_other_errors_of_a_building_are_left_alone():
    cfg = config("quick/baseline.yaml", "SEED", "1")
    with pytest.raises(KeyError, match="mine"), feature_errors_explained(cfg):
        raise KeyError("mine")
