"""What sets a config apart from the baseline and from the defaults."""

from detectron2.config import CfgNode

from counterpoise.config.keys import training_config
from counterpoise.config.tree import flat_leaves
from counterpoise.config.unread_keys import unread_sections
from counterpoise.utils.text import NONE

#: A key with dots, its value in a config, and the one that this is compared with.
Difference = tuple[str, str, str]

#: Values under which a part of Counterpoise does what Detectron2 does, and images are drawn alike.
NEUTRAL = {
    "BALANCE.ROI_LOSS.NAME": "cross_entropy",
    "BALANCE.ROI_LOSS.NORMALIZER": "weight_sum",
    "BALANCE.ROI_LOSS.LOSS_WEIGHT": 1.0,
    "BALANCE.ROI_LOSS.PRIOR_PROB": 0.0,
    "BALANCE.DENSE_LOSS.NAME": "sigmoid_focal",
    "BALANCE.DENSE_LOSS.ALPHA": 0.25,
    "BALANCE.DENSE_LOSS.ALPHA_SOURCE": "fixed",
    "BALANCE.DENSE_LOSS.GAMMA": 2.0,
    "BALANCE.CLASS_WEIGHTS.SOURCE": "none",
    "BALANCE.CLASSIFIER.NAME": "linear",
    "BALANCE.PISA.ENABLED": False,
    "BALANCE.RPN_LOSS.NAME": "cross_entropy",
    "BALANCE.ANCHOR_SAMPLER.NAME": "random",
    "BALANCE.ANCHOR_SAMPLER.NORMALIZER": "auto",
    "BALANCE.ANCHOR_SAMPLER.NEG_POS_UB": -1.0,
    "BALANCE.ROI_SAMPLER.NAME": "random",
    "BALANCE.IMAGE_SAMPLER.NAME": "none",
    "BALANCE.CALIBRATION.NAME": "none",
    "BALANCE.SCORE_THRESHOLDS": "",
    "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
    "INPUT.COLOR_JITTER": 0.0,
    "INPUT.SCALE_JITTER": [],
    "INPUT.MOSAIC.PROB": 0.0,
    "INPUT.MIXUP.PROB": 0.0,
    "INPUT.COPY_PASTE.PROB": 0.0,
    "MODEL.EMA.ENABLED": False,
}


def from_baseline(cfg: CfgNode) -> list[Difference]:
    """Compare a config with its baseline: the same with every part of Counterpoise neutral.

    Parts that no component of the model reads are left out.

    Args:
        cfg: of a run.
    """
    unread, own = unread_sections(cfg), shown_values(cfg)
    neutral = {key: shown(value) for key, value in NEUTRAL.items()}
    return [
        (key, own[key], value)
        for key, value in neutral.items()
        if key.split(".")[1] not in unread and own[key] != value
    ]


def from_defaults(cfg: CfgNode) -> list[Difference]:
    """Compare a config with :func:`counterpoise.config.keys.training_config`.

    A key that is not in the defaults has a hyphen for their value.
    """
    defaults = shown_values(training_config())
    return [
        (key, own, defaults.get(key, NONE))
        for key, own in shown_values(cfg).items()
        if own != defaults.get(key)
    ]


def shown_values(cfg: CfgNode) -> dict[str, str]:
    """All values of a config as text, by dotted key."""
    return {key: shown(value) for key, value in flat_leaves(cfg)}


def shown(value: object) -> str:
    """Text as it stands, but an empty one so that it can be seen; everything else as in Python.

    Tuples in a sequence are shown as the lists that YAML makes of them.
    """
    if isinstance(value, (list, tuple)):
        value = type(value)(list(own) if isinstance(own, tuple) else own for own in value)
    return value if isinstance(value, str) and value else repr(value)
