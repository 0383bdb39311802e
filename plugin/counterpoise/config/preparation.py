"""From a loaded config to one that can be built: datasets registered, classes and device known."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from counterpoise.config.schedule import drawn_images, set_length
from counterpoise.config.unread_keys import unread_keys
from counterpoise.config.validation import check_config
from counterpoise.datasets import (
    DatasetSpec,
    cache_folder,
    dataset_names,
    load_dataset,
    parse_specs,
    read_class_names,
    register_datasets,
)
from counterpoise.datasets.counting import training_records
from counterpoise.datasets.packed import annotations_of
from counterpoise.datasets.registration import missing_file
from counterpoise.errors import UserError, did_you_mean
from counterpoise.modeling.acceleration import choose_speed, trains_in_float16
from counterpoise.modeling.architectures import head_section
from counterpoise.modeling.score_thresholds import ScoreThresholds, known_class_names
from counterpoise.modeling.training_record import read_training_record

logger = logging.getLogger(__name__)


#: What to do about a split that a command needs and that names no dataset.
FIXES = {
    "TRAIN": "add a file of configs/datasets with --config-file, or name a dataset",
    "TEST": "name a dataset, whose images are looked at",
    "VAL": "name a dataset to choose on, whose images are not in DATASETS.TRAIN or DATASETS.TEST "
    "(HOLDOUT and HOLDOUT_TEST of a dataset of your own split one folder into all three)",
}


def prepare(
    cfg: CfgNode, eval_only: bool = False, splits: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Check a config, register its custom datasets and fill in what follows from the data.

    It sets the ``NUM_CLASSES`` of ``MODEL.ROI_HEADS`` and ``MODEL.RETINANET`` and the length that
    ``SOLVER.EPOCHS`` asks for, makes a path in ``MODEL.WEIGHTS`` absolute, and sets
    ``MODEL.DEVICE`` where the device is not there.

    Args:
        cfg: of :func:`counterpoise.config.loading.load_config`; changed in place.
        eval_only: take the classes from the checkpoint ``MODEL.WEIGHTS`` and do not look at the
            training data.
        splits: keys of ``DATASETS``, in capitals, that must name datasets which exist; none at all
            for work on images outside any dataset. By default ``TEST``, which may be empty, or in
            training ``TRAIN``, and ``TEST`` and ``VAL`` which may be empty.

    Returns:
        the class names, in order.

    Raises:
        UserError: a value, a dataset or the checkpoint does not allow to go on.
    """
    check_config(cfg)
    specs = parse_specs(cfg.DATASETS.CUSTOM, cache_folder(cfg.DATASETS.CACHE))
    asked = used = _used_splits(cfg, eval_only, splits)
    record = read_training_record(cfg.MODEL.WEIGHTS) if eval_only else None
    if record is None and not used:
        used = ("TEST",)  # which then has to say what the classes are
    _check_dataset_names(cfg, specs, used)
    if record is not None:
        classes = _trained_class_names(cfg, specs, used, record["class_names"])
    else:
        classes = _custom_class_names(cfg, specs, used if eval_only else ("TRAIN",))
    register_datasets(specs, classes=classes, bad_records=cfg.DATASETS.BAD_RECORDS)
    _check_files(cfg, specs, asked)
    _check_proposal_files(cfg, specs, asked)
    if classes is None:
        classes = _catalog_class_names(cfg, used)
    _set_num_classes(cfg, classes)
    _check_score_thresholds(cfg, classes, eval_only)
    if Path(cfg.MODEL.WEIGHTS).is_file():
        cfg.MODEL.WEIGHTS = str(Path(cfg.MODEL.WEIGHTS).absolute())
    use_a_device_that_is_here(cfg)
    choose_speed(cfg)
    if not eval_only:
        if cfg.SOLVER.EPOCHS:
            filtered = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
            records = training_records(cfg.DATASETS.TRAIN, filtered)
            set_length(cfg, drawn_images(cfg, len(records)))
        for said in unread_keys(cfg):
            logger.warning(said)
        _warn_of_frozen_statistics(cfg)
        _check_half_precision(cfg)
        _check_annotations(cfg)
    return tuple(classes)


def _used_splits(cfg: CfgNode, eval_only: bool, splits: Sequence[str] | None) -> tuple[str, ...]:
    """Keys of ``DATASETS`` that :func:`prepare` looks at.

    Raises:
        UserError: one that is needed is empty, or there are no weights to evaluate.
    """
    if splits is None:
        needed = () if eval_only else ("TRAIN",)
        used = ("TEST",) if eval_only else ("TRAIN", "TEST", "VAL")
    else:
        needed = used = tuple(splits)
    if eval_only and not cfg.MODEL.WEIGHTS:
        raise UserError(
            "MODEL.WEIGHTS is empty: give the path of a checkpoint, such as MODEL.WEIGHTS "
            "output/mine/model_final.pth"
        )
    for split in needed:
        if not cfg.DATASETS[split]:
            raise UserError(f"DATASETS.{split} is empty: {FIXES[split]}")
    return used


def _set_num_classes(cfg: CfgNode, classes: Sequence[str]) -> None:
    head = head_section(cfg)
    stated = cfg.MODEL[head].NUM_CLASSES
    if stated not in (0, len(classes)):
        raise UserError(
            f"MODEL.{head}.NUM_CLASSES is {stated}, but the data has {len(classes)} classes "
            f"({', '.join(classes)}): set it to {len(classes)}, or to 0 to follow the data"
        )
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = len(classes)


def use_a_device_that_is_here(cfg: CfgNode) -> None:
    """Set ``MODEL.DEVICE`` to the CPU, with a warning, where it is a GPU and none is here."""
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s, but no GPU is here: using cpu", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"


def _check_dataset_names(
    cfg: CfgNode, specs: dict[str, DatasetSpec], used: tuple[str, ...]
) -> None:
    custom = dataset_names(specs)
    for split in used:
        names = list(cfg.DATASETS[split])
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(
                f"DATASETS.{split} names '{twice}' twice: name it once; to show images more often, "
                "use BALANCE.IMAGE_SAMPLER or more SOLVER.EPOCHS"
            )
        for name in names:
            if name not in custom and name not in DatasetCatalog:
                known = custom or DatasetCatalog.list()
                raise UserError(f"DATASETS.{split} names '{name}', {did_you_mean(name, known)}")


def _check_files(cfg: CfgNode, specs: dict[str, DatasetSpec], used: tuple[str, ...]) -> None:
    """Refuse datasets that Detectron2 knows by name, and whose files are not here."""
    custom = dataset_names(specs)
    for split in used:
        for name in (name for name in cfg.DATASETS[split] if name not in custom):
            if path := missing_file(name):
                raise UserError(
                    f"DATASETS.{split} names '{name}', but {path} does not exist: set "
                    f"DATASETS.{split} to data of your own, or export DETECTRON2_DATASETS as "
                    "the folder of Detectron2's datasets"
                )


def _check_proposal_files(
    cfg: CfgNode, specs: dict[str, DatasetSpec], used: tuple[str, ...]
) -> None:
    """Refuse a model that reads proposals from files, where the data has none."""
    if not cfg.MODEL.LOAD_PROPOSALS:
        return
    custom = dataset_names(specs)
    for split in used:
        names, files = cfg.DATASETS[split], cfg.DATASETS.get(f"PROPOSAL_FILES_{split}", ())
        own = next((name for name in names if name in custom), None)
        if own is None and len(files) == len(names):
            continue
        reason = (
            f"{own} is a custom dataset, for which there are no files of proposals"
            if own is not None
            else f"DATASETS.PROPOSAL_FILES_{split} has {len(files)} files for {len(names)} datasets"
        )
        raise UserError(
            f"MODEL.LOAD_PROPOSALS is True, but {reason}: set it to False and "
            "MODEL.PROPOSAL_GENERATOR.NAME to 'BalancedRPN'"
        )


def _warn_of_frozen_statistics(cfg: CfgNode) -> None:
    """Say that Detectron2's ResNets do not train from random weights as they are configured."""
    is_resnet = "resnet" in cfg.MODEL.BACKBONE.NAME
    if is_resnet and not cfg.MODEL.WEIGHTS and cfg.MODEL.RESNETS.NORM == "FrozenBN":
        logger.warning(
            "MODEL.WEIGHTS is empty, but MODEL.RESNETS.NORM 'FrozenBN' keeps the statistics of "
            "trained weights, without which a training diverges: set MODEL.WEIGHTS, or NORM to "
            "'BN' and MODEL.BACKBONE.FREEZE_AT to 0"
        )


def _check_half_precision(cfg: CfgNode) -> None:
    on_gpu = cfg.MODEL.DEVICE.startswith("cuda")
    if trains_in_float16(cfg) and not on_gpu:
        raise UserError(
            f"SOLVER.AMP.PRECISION is 'float16', but the model is on the device "
            f"{cfg.MODEL.DEVICE}, and float16 trains on a GPU only: set it to 'bfloat16'"
        )


def _check_annotations(cfg: CfgNode) -> None:
    """Refuse to train heads for masks or keypoints on boxes that have none."""
    for key, needed, what in (
        ("MASK_ON", "segmentation", "masks"),
        ("KEYPOINT_ON", "keypoints", "keypoints"),
    ):
        if not cfg.MODEL[key]:
            continue
        for name in cfg.DATASETS.TRAIN:
            boxes = bare = encoded = 0
            for record in load_dataset(name)[0]:
                for annotation in annotations_of(record):
                    boxes += 1
                    bare += not annotation.get(needed)
                    encoded += isinstance(annotation.get(needed), dict)
            if bare:
                raise UserError(
                    f"MODEL.{key} is True, but {bare} of {boxes} boxes of {name} have "
                    f"no {what}: set it to False to train on the boxes"
                )
            if encoded and cfg.INPUT.MASK_FORMAT == "polygon":
                raise UserError(
                    f"INPUT.MASK_FORMAT is 'polygon', but {name} has run-length encoded masks: "
                    "set it to 'bitmask'"
                )
            if key == "MASK_ON" and encoded < boxes:
                _check_cut_polygons(cfg, name)
        logger.warning("MODEL.%s is True: %s are trained, boxes alone are evaluated", key, what)


def _check_cut_polygons(cfg: CfgNode, name: str) -> None:
    """Refuse to cut the polygons of a dataset off without what Detectron2 needs for it."""
    for key, cuts in (
        ("INPUT.CROP.ENABLED", cfg.INPUT.CROP.ENABLED),
        ("INPUT.SCALE_JITTER", cfg.INPUT.SCALE_JITTER),
    ):
        if cuts and find_spec("shapely") is None:
            raise UserError(
                f"{key} cuts the polygons of {name}, for which Detectron2 needs the package "
                f"shapely, which is not installed: install it, or leave {key} out"
            )


def _trained_class_names(
    cfg: CfgNode, specs: dict[str, DatasetSpec], used: tuple[str, ...], trained: Sequence[str]
) -> list[str]:
    """Class list of a checkpoint, which the datasets must not contradict."""
    own = _spec_by_name(specs)
    for name in (name for split in used for name in cfg.DATASETS[split]):
        stated = own[name].classes if name in own else ()
        if stated and set(stated) != set(trained):
            raise UserError(
                f"DATASETS.CUSTOM.{own[name].name}.CLASSES is [{', '.join(stated)}], but "
                f"MODEL.WEIGHTS was trained on [{', '.join(trained)}]: leave CLASSES out to take "
                "the classes of the checkpoint"
            )
    return list(trained)


def _custom_class_names(
    cfg: CfgNode, specs: dict[str, DatasetSpec], splits: tuple[str, ...]
) -> list[str] | None:
    """Class list of the custom datasets; None where none of them is used."""
    own = _spec_by_name(specs)
    names = [name for split in splits for name in cfg.DATASETS[split]]
    chosen = list(dict.fromkeys(own[name] for name in names if name in own))
    if not chosen:
        return None
    return list(dict.fromkeys(name for spec in chosen for name in read_class_names(spec)))


def _spec_by_name(specs: dict[str, DatasetSpec]) -> dict[str, DatasetSpec]:
    return {name: spec for spec in specs.values() for name in spec.parts}


def _catalog_class_names(cfg: CfgNode, used: tuple[str, ...]) -> list[str]:
    names = [name for split in used for name in cfg.DATASETS[split]]
    if not names:
        raise UserError(
            f"MODEL.WEIGHTS '{cfg.MODEL.WEIGHTS}' has no record of its classes and "
            f"DATASETS.{used[0]} is empty: give a checkpoint of train_net.py, or name a dataset "
            "with the same classes"
        )
    # Detectron2's COCO loader names the classes on reading.
    return list(MetadataCatalog.get(names[0]).get("thing_classes") or load_dataset(names[0])[1])


def _check_score_thresholds(cfg: CfgNode, classes: Sequence[str], eval_only: bool) -> None:
    """Refuse thresholds of other classes, checkpoint or calibration before a model is built."""
    path = cfg.BALANCE.SCORE_THRESHOLDS
    if not path:
        return
    source = f"BALANCE.SCORE_THRESHOLDS {path}"
    thresholds = ScoreThresholds.read(Path(path))
    thresholds.for_classes(classes, source)
    # Without names in the catalogue a model takes the order of the file.
    if known_class_names(cfg) is None and thresholds.class_names != tuple(classes):
        raise UserError(
            f"{source} lists the classes in another order than the model: "
            f"put them in the order {', '.join(classes)}"
        )
    if not eval_only and thresholds.checkpoint is not None:
        raise UserError(
            f"the thresholds of {source} were chosen on the checkpoint {thresholds.checkpoint}, "
            "and a training makes another one: train with BALANCE.SCORE_THRESHOLDS '', then choose "
            "thresholds for the new checkpoint with `counterpoise thresholds`"
        )
    if eval_only:
        thresholds.check_model(cfg, source)
