"""Advice that follows from an inspection by plain rules, with the config lines to copy."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode

from counterpoise.config.keys import training_config
from counterpoise.config.tree import deep_merge
from counterpoise.config.unread_keys import STOCK_COMPONENTS
from counterpoise.inspection.anchor_changes import LEAST_GAIN, Anchors
from counterpoise.inspection.anchors import UNMATCHED_CLASS, Coverage, Fit
from counterpoise.inspection.results import Inspection, Recommendation, Split
from counterpoise.modeling.architectures import RETINANETS
from counterpoise.utils.text import listed, percent

# The rules' thresholds are judgement, and stand in every reason that they lead to.
BALANCED = 3  # boxes of the most over those of the least frequent class
LONG_TAIL = 60  # from here on inv_sqrt, sqrt(60) to 1, spreads wider than log, 7.8 to 1 at most
MOST_STACKED = 60  # boxes of the most over those of the least frequent class, on the demo
FEW_BOXES = 10
MOST_GROWTH = 2.0  # of an epoch by repeat-factor sampling
FEWEST_EPOCHS, ENOUGH_EPOCHS = 3, 8
NEARLY_ALL = 0.9  # of the classes
HELD_OUT = 0.2  # of the images, where there is no other split
MOST_PIXELS = 4.0  # times those of the config, that are advised without a second thought


def recommend(
    inspection: Inspection, cfg: CfgNode, custom: Sequence[str], relistable: Sequence[str]
) -> tuple[Recommendation, ...]:
    """Derive advice from what was found.

    Args:
        inspection: without recommendations yet.
        cfg: the config that would be trained.
        custom: entries of ``DATASETS.CUSTOM`` that the splits come from, which config lines can
            change.
        relistable: those of them whose ``CLASSES`` may be shortened, since their labels name the
            classes and do not number them by that list.

    Returns:
        what concerns the data first, then the schedule, the loss and the anchors; where most boxes
        have no anchor, the anchors before all else.
    """
    if not inspection.subject.boxes:
        nothing = f"{inspection.subject.name} has no usable box, so nothing can be trained on it"
        return (*_data(inspection), Recommendation("Add boxes", nothing))
    others = tuple(_data(inspection))
    if _is_whole_training_set(inspection):
        others += (
            *_trust(inspection, custom, relistable),
            *_length(inspection, cfg),
            *_loss(inspection, cfg, removable=bool(relistable)),
        )
    else:
        others += (
            Recommendation(
                "Inspect what is trained on for advice on the training",
                f"{inspection.subject.name} is not the whole training set of this config, so "
                "nothing follows from its classes for the loss and the length.",
            ),
        )
    anchors = tuple(_anchors(inspection, cfg))
    is_first = inspection.anchors is not None and inspection.anchors.overall.at_50 < 0.5
    return anchors + others if is_first else others + anchors


def _is_whole_training_set(inspection: Inspection) -> bool:
    trained = [split for split in inspection.splits if split.role == "train"]
    return trained in ([], [inspection.subject]) and inspection.subject.role in (None, "train")


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Config lines of nested settings, with short mappings and lists on one line."""
    return yaml.safe_dump(
        dict(settings), sort_keys=False, default_flow_style=None, allow_unicode=True, width=88
    )


def combined_config(
    custom: Mapping[str, Any], splits: Sequence[Split], advice: Iterable[Recommendation]
) -> str:
    """One YAML of all settings.

    Args:
        custom: ``DATASETS.CUSTOM`` node of a folder, or empty.
        splits: of the inspection.
        advice: optional ones are left out.
    """
    merged: dict[str, Any] = {}
    wanted = [one.settings for one in advice if not one.optional]
    for settings in [_datasets(custom, splits) if custom else {}, *wanted]:
        deep_merge(merged, settings)
    return as_yaml(merged) if merged else ""


def _datasets(custom: Mapping[str, Any], splits: Sequence[Split]) -> dict[str, Any]:
    """The splits of a folder with what is trained, tested and tuned on; without boxes none is."""
    subject, *others = splits
    with_boxes = [split for split in others if split.boxes]
    named = [split for role in ("test", "val") for split in with_boxes if split.role == role]
    tests = named or with_boxes[:1]
    node = {
        "CUSTOM": dict(custom),
        "TRAIN": [*subject.datasets],
        "TEST": [name for split in tests[:1] for name in split.datasets],
    }
    if tests[1:]:
        node["VAL"] = [name for split in tests[1:] for name in split.datasets]
    return {"DATASETS": node}


def _data(inspection: Inspection) -> Iterator[Recommendation]:
    """What to fix in the data itself."""
    kinds = Counter(
        invalid.kind for source in inspection.invalid_annotations for invalid in source.annotations
    )
    if kinds:
        counts = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
        yield Recommendation(
            "Fix the invalid annotations",
            f"Records that cannot be used: {counts}. With skip they are left out and reported; "
            "once they are fixed, refuse keeps new ones from slipping in.",
            {"DATASETS": {"BAD_RECORDS": "skip"}},
        )
    for shared in inspection.duplicate_files.shared:
        if shared.first == shared.second:
            yield Recommendation(
                f"Remove the copies in {shared.first}",
                f"Files there that repeat the bytes of another one: {shared.images}. Their objects "
                "count twice.",
            )
        else:
            trained = {s.name for s in inspection.splits if s.role == "train"}
            harm = (
                "Their objects count twice."
                if {shared.first, shared.second} <= trained
                else "A score on images that were trained on says nothing."
            )
            yield Recommendation(
                f"Take the files that {shared.first} and {shared.second} share out of one of them",
                f"Files of {shared.first} with the same bytes as one of {shared.second}: "
                f"{shared.images}. {harm}",
            )
    for similar in inspection.near_duplicates.similar:
        yield Recommendation(
            f"Keep what looks alike in {similar.first} or {similar.second}, not in both",
            f"Images of {similar.second} that look like one of {similar.first}: "
            f"{len(similar.pairs)} of {similar.compared}. Augmented copies and frames of one video "
            "belong in one split, or the score on the other is too high.",
        )
    subject = inspection.subject
    if subject.empty_images and subject.boxes:
        share, many = subject.empty_images / subject.images, _mostly_empty(subject)
        yield Recommendation(
            "Leave most images without boxes out" if many else "Keep the images without boxes",
            f"Images without a box: {subject.empty_images} of {subject.images} ({percent(share)}). "
            + (
                "Being the majority, they would fill the batches with background."
                if many
                else "They show the model what background looks like; Detectron2 drops them "
                "unless told otherwise, and sampling by class never draws them."
            ),
            {"DATALOADER": {"FILTER_EMPTY_ANNOTATIONS": many}},
        )


def _mostly_empty(split: Split) -> bool:
    return split.empty_images > split.images / 2


def _trust(
    inspection: Inspection, custom: Sequence[str], relistable: Sequence[str]
) -> Iterator[Recommendation]:
    """Classes and splits that no score can be trusted for."""
    names, subject, others = inspection.class_names, inspection.subject, inspection.splits[1:]
    absent = [i for i, count in enumerate(subject.classes) if not count.boxes]
    without_boxes = _without_boxes_anywhere(inspection)
    nowhere = _removable(inspection)
    if nowhere:
        kept = [name for i, name in enumerate(names) if i not in nowhere]
        entries = {name: {"CLASSES": [*kept]} for name in relistable}
        yield Recommendation(
            "Leave the classes without boxes out of the class list",
            f"{_listed(names, nowhere)}: no box in any split, and class weights would treat such a "
            "class as the rarest of all."
            + ("" if entries else " Numbers in label files count the classes of that list."),
            {"DATASETS": {"CUSTOM": entries}} if entries else {},
        )
    if only_crowds := [i for i in without_boxes if i not in nowhere]:
        yield Recommendation(
            "Add boxes for the classes that have crowd regions only",
            f"{_listed(names, only_crowds)}: a crowd region is neither trained on nor counted as "
            "missed, so nothing is learnt of the class. It stays in the class list, without which "
            "its regions would be annotations of an unknown class.",
        )
    if untrained := [i for i in absent if i not in without_boxes]:
        yield Recommendation(
            "Add training boxes for the classes that have none",
            f"{_listed(names, untrained)}: no box in {subject.name}, but some in other splits, "
            "where they can only be missed.",
        )
    if few := [i for i, count in enumerate(subject.classes) if 0 < count.boxes < FEW_BOXES]:
        yield Recommendation(
            "Do not trust the AP of the smallest classes",
            f"{_listed(names, few)}: fewer than {FEW_BOXES} boxes in {subject.name}. Whatever the "
            "loss, such an AP is chance: collect more, or merge classes.",
        )
    for split in others:
        untested = [
            i
            for i, count in enumerate(split.classes)
            if subject.classes[i].boxes > count.boxes == 0
        ]
        if split.role in ("val", "test") and untested:
            yield Recommendation(
                f"Add boxes of the classes that {split.name} lacks",
                f"{_listed(names, untested)}: no box in {split.name}, so there is no AP for it.",
            )
    if _needs_holdout(inspection):
        yield _holdout(inspection, custom)


def _needs_holdout(inspection: Inspection) -> bool:
    return not any(split.boxes for split in inspection.splits[1:])


def _without_boxes_anywhere(inspection: Inspection) -> list[int]:
    return [
        i
        for i in range(len(inspection.class_names))
        if not any(split.classes[i].boxes for split in inspection.splits)
    ]


def _removable(inspection: Inspection) -> list[int]:
    """Classes that no annotation is of, not even a crowd region."""
    return [
        i
        for i in _without_boxes_anywhere(inspection)
        if not any(split.classes[i].crowds for split in inspection.splits)
    ]


def _holdout(inspection: Inspection, custom: Sequence[str]) -> Recommendation:
    subject, names = inspection.subject, inspection.subject.datasets
    only = "the only split" + (" with boxes" if len(inspection.splits) > 1 else "")
    title, reason = "Set a part aside for evaluation", f"{subject.name} is {only}. "
    if (with_boxes := subject.images - subject.empty_images) < 2:
        reason += (
            f"Its images with boxes: {with_boxes}. One to train on and another to test on are the "
            "least that is needed: label more images, and inspect again."
        )
        return Recommendation(title, reason)
    settings = {
        "DATASETS": {
            "CUSTOM": {name: {"HOLDOUT": HELD_OUT} for name in names},
            "TRAIN": [f"{name}_train" for name in names],
            "TEST": [f"{name}_val" for name in names],
        }
    }
    reason += "HOLDOUT takes a fifth of its images, with rare classes on both sides."
    return Recommendation(title, reason, settings if set(names) <= set(custom) else {})


def _loss(inspection: Inspection, cfg: CfgNode, removable: bool) -> Iterator[Recommendation]:
    names, counts = inspection.class_names, [c.boxes for c in inspection.subject.classes]
    present = [i for i in inspection.by_boxes if counts[i]]
    ratio = inspection.subject.imbalance
    if len(present) == 1 or ratio <= BALANCED:
        reason = (
            "There is one class, so no class is rarer than another."
            if len(present) == 1
            else f"The most frequent class has {ratio:.1f} times the boxes of the rarest, which is "
            f"at most {BALANCED}: class weights would change little."
        )
        yield Recommendation("Train the baseline", reason, _loss_settings(cfg, balanced=True))
        return
    most, least = present[0], present[-1]
    skew = (
        f"'{names[most]}' has {counts[most]} boxes and '{names[least]}' {counts[least]}, which is "
        f"{ratio:.1f} to 1. "
    )
    doubt = (
        "Whether it helps depends on the data and on how long you train: compare both runs with "
        "`counterpoise compare` before you decide."
    )
    if cfg.MODEL.META_ARCHITECTURE in RETINANETS:
        # inv_sqrt has no weight for a class without training boxes that stays in the class list.
        nowhere = _removable(inspection)
        stays = any(not counts[i] and not (removable and i in nowhere) for i in range(len(names)))
        rule = "inv_sqrt" if ratio > LONG_TAIL and not stays else "log"
        yield Recommendation(
            "Use focal loss with an alpha per class, and train the baseline beside it",
            f"{skew}{_spread_of(rule, ratio, inspection)}{doubt}",
            _loss_settings(cfg, rule=rule),
        )
    else:
        stacked = (
            f"The first two both favour rare classes, which was measured up to {MOST_STACKED} "
            "boxes to 1: where they gain less than others lose, take one of them. "
            if ratio > MOST_STACKED
            else ""
        )
        yield Recommendation(
            "Sample images by class and adjust the logits, and train the baseline beside it",
            f"{skew}Of what docs/results.md compares, class-aware sampling with logit-adjusted "
            "cross-entropy and prime sample attention raised rare classes on three datasets, while "
            f"focal loss with class weights lowered them on one. {stacked}Images without boxes are "
            f"then not drawn. {doubt}",
            _loss_settings(cfg),
        )
    if ratio > LONG_TAIL:
        yield from _repeat_factor_sampling(inspection, cfg)


def _length(inspection: Inspection, cfg: CfgNode) -> Iterator[Recommendation]:
    """How often the config that was given would show each image, with the advice on the data."""
    subject, solver = inspection.subject, cfg.SOLVER
    if not _names_model(cfg) or solver.EPOCHS:
        return
    images = subject.images
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS or _mostly_empty(subject):
        images -= subject.empty_images
    if _needs_holdout(inspection):
        images = max(round(images * (1 - HELD_OUT)), 1)
    epochs = solver.MAX_ITER * solver.IMS_PER_BATCH / images
    if epochs < FEWEST_EPOCHS:
        yield Recommendation(
            "Train longer",
            f"SOLVER.MAX_ITER {solver.MAX_ITER} in batches of {solver.IMS_PER_BATCH} shows each of "
            f"the {images} images {epochs:.1f} times. With SOLVER.EPOCHS it follows from their "
            "number. Four to twelve epochs in place of one to four raised AP on every data set of "
            "docs/results.md.",
            {"SOLVER": {"EPOCHS": float(ENOUGH_EPOCHS)}},
        )


def _spread_of(rule: str, ratio: float, inspection: Inspection) -> str:
    if rule == "inv_sqrt":
        return (
            "The rule log never weighs a class more than 7.8 times another; inv_sqrt spans "
            f"{ratio**0.5:.1f} to 1 here. effective_num is the other rule for a long tail. "
        )
    (log,) = (weights.spread for weights in inspection.weights if weights.rule == "log")
    return f"The weights of the rule log span {log:.1f} to 1. "


def _loss_settings(cfg: CfgNode, rule: str = "log", balanced: bool = False) -> dict[str, Any]:
    """Losses, class weights and sampling of images, with the components that read them.

    What the config that was given has and does not fit beside them is switched off.
    """
    architecture = cfg.MODEL.META_ARCHITECTURE
    normalizer = (
        {} if cfg.BALANCE.ROI_LOSS.NORMALIZER == "weight_sum" else {"NORMALIZER": "weight_sum"}
    )
    balance: dict[str, Any]
    if architecture in RETINANETS:
        balance = {"DENSE_LOSS": {"NAME": "sigmoid_focal"}}
        if not balanced:
            balance["DENSE_LOSS"]["ALPHA_SOURCE"] = "dataset"
            balance["CLASS_WEIGHTS"] = {"SOURCE": "dataset", "RULE": rule}
    elif balanced:
        balance = {"ROI_LOSS": {"NAME": "cross_entropy"} | normalizer}
    else:
        balance = {
            "IMAGE_SAMPLER": {"NAME": "class_aware"},
            "ROI_LOSS": {"NAME": "logit_adjusted"} | normalizer,
            "PISA": {"ENABLED": True},
        }
        balance |= _reset(cfg, "ANCHOR_SAMPLER") | _reset(cfg, "ROI_SAMPLER")
    if balanced or architecture not in RETINANETS:
        deep_merge(balance, _without_weights(cfg))
    if balanced:
        deep_merge(balance, _without_balancing(cfg))
    settings = _without_sampler(cfg) | {"BALANCE": balance}
    if architecture == "RetinaNet":
        stock: dict[str, Any] = {"META_ARCHITECTURE": "BalancedRetinaNet"}
    else:
        stock = {
            key: {"NAME": STOCK_COMPONENTS[cfg.MODEL[key].NAME]}
            for key in ("ROI_HEADS", "PROPOSAL_GENERATOR")
            if architecture not in RETINANETS and cfg.MODEL[key].NAME in STOCK_COMPONENTS
        }
    # A config without a model is completed by one of configs/, which has these components.
    return {"MODEL": stock} | settings if stock and _names_model(cfg) else settings


def _without_weights(cfg: CfgNode) -> dict[str, Any]:
    """Keys of BALANCE that switch class weights off."""
    if cfg.MODEL.META_ARCHITECTURE in RETINANETS:
        return {"DENSE_LOSS": {"ALPHA_SOURCE": "fixed"}} | _reset(cfg, "CLASS_WEIGHTS")
    return {"CLASS_WEIGHTS": {"SOURCE": "none"}}


def _reset(cfg: CfgNode, section: str) -> dict[str, Any]:
    """A section of BALANCE with the keys that the config has changed at their defaults."""
    own, default = cfg.BALANCE[section], training_config().BALANCE[section]
    node = {key: default[key] for key in own if own[key] != default[key]}
    return {section: node} if node else {}


def _without_balancing(cfg: CfgNode) -> dict[str, Any]:
    """Keys of BALANCE that switch off the sampling and weighting which the config switches on."""
    sections = ["IMAGE_SAMPLER", "PISA", "ANCHOR_SAMPLER", "ROI_SAMPLER"]
    return {key: node for each in sections for key, node in _reset(cfg, each).items()}


def _without_sampler(cfg: CfgNode) -> dict[str, Any]:
    """Settings that put Detectron2's plain sampler in place of another that the config names."""
    if cfg.DATALOADER.SAMPLER_TRAIN == "TrainingSampler":
        return {}
    node: dict[str, Any] = {"SAMPLER_TRAIN": "TrainingSampler"}
    if cfg.DATALOADER.REPEAT_THRESHOLD:
        node["REPEAT_THRESHOLD"] = 0.0
    return {"DATALOADER": node}


def _repeat_factor_sampling(inspection: Inspection, cfg: CfgNode) -> Iterator[Recommendation]:
    before = inspection.subject.imbalance
    fitting = [
        r
        for r in inspection.repeat_factors
        if 1 < r.epoch_growth <= MOST_GROWTH and r.imbalance < before
    ]
    if not fitting:
        return
    best = min(fitting, key=lambda r: (r.imbalance, r.threshold))
    yield Recommendation(
        "Or only repeat the images of rare classes",
        f"Repeat-factor sampling at {best.threshold:g} lowers the imbalance of the boxes from "
        f"{before:.0f} to {best.imbalance:.0f} and makes an epoch "
        f"{best.epoch_growth:.2f} times as long. It takes the place of the settings above.",
        _loss_settings(cfg, balanced=True)
        | {
            "DATALOADER": {
                "SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
                "REPEAT_THRESHOLD": best.threshold,
            }
        },
        optional=True,
    )


def _anchors(inspection: Inspection, cfg: CfgNode) -> Iterator[Recommendation]:
    anchors = inspection.anchors
    if anchors is None or not anchors.poor:
        return
    reason = (
        f"{_missed(anchors.overall)} of the boxes have no anchor at IoU 0.5 or more"
        f"{_affected(inspection, anchors)}, measured with {anchors.setting.model}. "
    )
    change, named = anchors.change, _names_model(cfg)
    if not named:
        reason += "Give your model's config with --config-file to measure its own anchors. "
    if change is None:
        yield _no_change(anchors, reason)
        return
    reason += f"With {change.what} it is {_missed(change.overall)}{_affected(inspection, change)}."
    if change.pixels > 1:
        reason += (
            f" The images then have {change.pixels:.1f} times the pixels, with which the time and "
            "memory of a step grow."
        )
    if change.pixels > MOST_PIXELS:
        reason += (
            " That is left to you: tiles that are cut from the images before training need fewer."
        )
    if not change.fits_head:
        reason += " The number of anchors changes, so that a trained RPN head no longer fits."
    if anchors.too_small and change.overall.at_50 < 0.5:
        reason += " More of them are reached by cutting the images into tiles before training."
    parts = [("INPUT", "the input size"), ("MODEL", "the anchors")]
    changed = " and ".join(words for key, words in parts if key in change.settings)
    optional = not named or change.pixels > MOST_PIXELS
    settings = _with_all_sizes(change.settings, cfg) if named else change.settings
    yield Recommendation(f"Change {changed}", reason, settings, optional)


def _with_all_sizes(settings: Mapping[str, Any], cfg: CfgNode) -> dict[str, Any]:
    """Scale every size that the config trains at, in place of the single one that was tried."""
    node = settings.get("INPUT")
    if node is None or not cfg.INPUT.MIN_SIZE_TEST:
        return dict(settings)
    factor = node["MIN_SIZE_TEST"] / cfg.INPUT.MIN_SIZE_TEST
    sizes = [round(size * factor) for size in cfg.INPUT.MIN_SIZE_TRAIN]
    return {**settings, "INPUT": {**node, "MIN_SIZE_TRAIN": sizes}}


def _affected(inspection: Inspection, fit: Fit) -> str:
    """Classes of which many boxes have no anchor, in brackets; none where there is one class."""
    present = [i for i, coverage in enumerate(fit.classes) if coverage.boxes]
    if len(present) == 1:
        return ""
    poor = [i for i in present if 1 - fit.classes[i].at_50 > UNMATCHED_CLASS]
    if len(poor) >= NEARLY_ALL * len(present):
        return f" (in {len(poor)} of {len(present)} classes more than {percent(UNMATCHED_CLASS)})"
    poor.sort(key=lambda i: fit.classes[i].at_50)
    shares = [f"'{inspection.class_names[i]}': {_missed(fit.classes[i])}" for i in poor]
    return f" ({listed(shares, 4)})" if poor else ""


def _no_change(anchors: Anchors, reason: str) -> Recommendation:
    inputs = f"images of a short side of up to {anchors.largest_input}"
    reason += (
        "None of the usual sizes and aspect ratios of anchors, with "
        f"{inputs if anchors.largest_input else 'images as they are'}, covers "
        f"{percent(LEAST_GAIN, 0)} more of the boxes, or half of those that a class misses, at no "
        "other's cost."
    )
    if not anchors.too_small:
        return Recommendation("Expect missed boxes where the anchors do not fit", reason)
    return Recommendation(
        "Cut the images into tiles before training",
        f"{reason} Most of these boxes are smaller than the smallest anchor: what is left is to "
        "cut the images into tiles, which are then resized to the size of the input.",
    )


def _missed(coverage: Coverage) -> str:
    return percent(1 - coverage.at_50)


def _names_model(cfg: CfgNode) -> bool:
    return cfg.MODEL != training_config().MODEL


def _listed(names: Sequence[str], indices: Sequence[int]) -> str:
    return listed([f"'{names[i]}'" for i in indices], 8)
