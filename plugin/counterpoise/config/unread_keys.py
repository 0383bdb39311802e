"""Keys that are set though nothing would read them, which a user is told of."""

from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode

from counterpoise.config.declaration import Choices, Key, ReadBy
from counterpoise.config.keys import DECLARED, training_config
from counterpoise.config.tree import value_at
from counterpoise.errors import UserError
from counterpoise.modeling import dense_loss
from counterpoise.modeling.architectures import RETINANETS

#: Components of Detectron2, and for each the one here that reads what it does not of ``BALANCE``.
STOCK_COMPONENTS = {
    "GeneralizedRCNN": "BalancedRetinaNet",
    "RPN": "BalancedRPN",
    "StandardROIHeads": "BalancedROIHeads",
    "Res5ROIHeads": "BalancedRes5ROIHeads",
    "CascadeROIHeads": "BalancedCascadeROIHeads",
}


def unread_sections(cfg: CfgNode) -> dict[str, tuple[str, str]]:
    """Parts of BALANCE that no component reads -> the key, and its value that would read it."""
    architecture = "MODEL.META_ARCHITECTURE"
    if cfg.MODEL.META_ARCHITECTURE not in RETINANETS:
        readers = {
            "ROI_LOSS": "MODEL.ROI_HEADS.NAME",
            "CLASS_WEIGHTS": "MODEL.ROI_HEADS.NAME",
            "ANCHOR_SAMPLER": "MODEL.PROPOSAL_GENERATOR.NAME",
            "ROI_SAMPLER": "MODEL.ROI_HEADS.NAME",
            "RPN_LOSS": "MODEL.PROPOSAL_GENERATOR.NAME",
            "CLASSIFIER": "MODEL.ROI_HEADS.NAME",
            "PISA": "MODEL.ROI_HEADS.NAME",
            "SCORE_THRESHOLDS": "MODEL.ROI_HEADS.NAME",
            "CALIBRATION": "MODEL.ROI_HEADS.NAME",
            "DENSE_LOSS": architecture,
        }
        balanced = STOCK_COMPONENTS | {"PrecomputedProposals": "BalancedRPN"}
        return {
            section: (key, balanced[value_at(cfg, key)])
            for section, key in readers.items()
            if value_at(cfg, key) in balanced
        }
    unread = dict.fromkeys(
        (
            "ROI_LOSS", "ANCHOR_SAMPLER", "ROI_SAMPLER", "RPN_LOSS", "CLASSIFIER", "PISA",
            "CALIBRATION",
        ),
        (architecture, "GeneralizedRCNN"),
    )  # fmt: skip
    dense = cfg.BALANCE.DENSE_LOSS
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        unread |= dict.fromkeys(
            ("DENSE_LOSS", "CLASS_WEIGHTS", "SCORE_THRESHOLDS"), (architecture, "BalancedRetinaNet")
        )
    elif dense.ALPHA_SOURCE == "fixed" and dense.NAME in dense_loss.BUILT_IN:
        unread["CLASS_WEIGHTS"] = ("BALANCE.DENSE_LOSS.ALPHA_SOURCE", "dataset")
    return unread


def refuse_unread_keys(cfg: CfgNode) -> None:
    """Refuse keys that were changed for components that never look at them, or for a part that is
    turned off.

    Raises:
        UserError: the key, why nothing reads it, and what to set.
    """
    defaults = training_config().BALANCE
    for section, (key, reader) in unread_sections(cfg).items():
        own, default = cfg.BALANCE[section], defaults[section]
        if isinstance(own, CfgNode):
            changed = [f"{section}.{k}" for k, v in own.items() if v != default[k]]
        else:
            changed = [section] if own != default else []
        if changed:
            raise UserError(
                f"BALANCE.{changed[0]} is set, but {key} is '{value_at(cfg, key)}', which "
                f"does not read it: set {key} to '{reader}'"
            )
    if said := next(_unread(cfg, refused=True), None):
        raise UserError(said)


def unread_keys(cfg: CfgNode) -> list[str]:
    """Say which keys are set though the loss, sampler or rule that is chosen does not read them.

    They are not refused, so that a config can be set up for several of these.

    Args:
        cfg: that :func:`refuse_unread_keys` has let pass.
    """
    return list(_unread(cfg, refused=False))


def _unread(cfg: CfgNode, refused: bool) -> Iterator[str]:
    """Sentences about the changed keys whose :class:`ReadBy` is not fulfilled."""
    for name, key in DECLARED.items():
        reader = key.read_by
        if reader is None or reader.refused != refused or value_at(cfg, name) == key.default:
            continue
        missing = _missing(cfg, name, key)
        if missing is not None:
            other, choice, needed = missing
            yield (
                f"{name} is {value_at(cfg, name)}, but {other} is {choice!r}, with which nothing "
                f"reads it: set that to {needed}, or this back to {key.default}"
            )


def _missing(cfg: CfgNode, name: str, key: Key) -> tuple[str, Any, ReadBy] | None:
    """The key by whose value another one is not read, that value, and what is needed instead."""
    reader = key.read_by
    if reader is None:
        return None
    other = f"{name.rpartition('.')[0]}.{reader.key}"
    choice, switch = value_at(cfg, other), DECLARED.get(other)
    if choice not in reader.values and not (switch and _is_the_users_own(choice, switch)):
        return other, choice, reader
    return _missing(cfg, other, switch) if switch else None


def _is_the_users_own(name: Any, key: Key) -> bool:
    """Whether a name is that of a registered part from outside, which may read every key."""
    if not isinstance(key.allowed, Choices) or isinstance(key.allowed.names, tuple):
        return False
    return not key.allowed.names.get(name).__module__.startswith("counterpoise.")
