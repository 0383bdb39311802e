"""What sets a config apart from the baseline and from the defaults."""

from typing import NamedTuple

from detectron2.config import CfgNode

from counterpoise.config.keys import training_config
from counterpoise.config.tree import flat_leaves
from counterpoise.config.validation import unread_sections

#: Values under which a part of Counterpoise does what Detectron2 does.
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
    "BALANCE.ANCHOR_SAMPLER.NAME": "random",
    "BALANCE.ANCHOR_SAMPLER.NORMALIZER": "batch",
    "BALANCE.ROI_SAMPLER.NAME": "random",
    "BALANCE.SCORE_THRESHOLDS": "",
}


class Difference(NamedTuple):
    """A key whose value differs."""

    key: str
    """With dots."""
    own: str
    """Value of the run."""
    other: str | None
    """Value that it is compared with; None where the other config has no such key."""


def from_baseline(cfg: CfgNode) -> list[Difference]:
    """Compare a config with its baseline: the same with every part of Counterpoise neutral.

    Parts that no component of the model reads are left out.

    Args:
        cfg: of a run.
    """
    unread = unread_sections(cfg)
    own = dict(flat_leaves(cfg))
    return [
        Difference(key, shown(own[key]), shown(neutral))
        for key, neutral in NEUTRAL.items()
        if key.split(".")[1] not in unread and own[key] != neutral
    ]


def from_defaults(cfg: CfgNode) -> list[Difference]:
    """Compare a config with :func:`counterpoise.config.keys.training_config`."""
    defaults = dict(flat_leaves(training_config()))
    return [
        Difference(key, shown(value), shown(defaults[key]) if key in defaults else None)
        for key, value in flat_leaves(cfg)
        if key not in defaults or value != defaults[key]
    ]


def shown_values(cfg: CfgNode) -> dict[str, str]:
    """All values of a config as text, by dotted key."""
    return {key: shown(value) for key, value in flat_leaves(cfg)}


def shown(value: object) -> str:
    """Text as it stands, but an empty one so that it can be seen; everything else as in Python."""
    return value if isinstance(value, str) and value else repr(value)
