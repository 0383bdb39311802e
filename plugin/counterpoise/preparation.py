"""From a loaded config to one that can be built: datasets registered, classes and device known."""

import logging

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from counterpoise.checkpoint import read_record
from counterpoise.datasets import (
    DatasetSpec,
    dataset_names,
    parse_specs,
    read_class_names,
    register_datasets,
)
from counterpoise.errors import UserError, did_you_mean
from counterpoise.validation import RETINANETS, check_config

logger = logging.getLogger(__name__)


def prepare(cfg: CfgNode, eval_only: bool = False) -> None:
    """Check a config, register its custom datasets and fill in what follows from the data.

    It sets the ``NUM_CLASSES`` of ``MODEL.ROI_HEADS`` and ``MODEL.RETINANET``, and ``MODEL.DEVICE``
    where the device is not there.

    Args:
        cfg: of :func:`counterpoise.config.load_config`; changed in place.
        eval_only: take the classes from the checkpoint ``MODEL.WEIGHTS`` and do not look at the
            training data.

    Raises:
        UserError: a value, a dataset or the checkpoint does not allow to go on.
    """
    check_config(cfg)
    specs = parse_specs(cfg.DATASETS.CUSTOM)
    used = ("TEST",) if eval_only else ("TRAIN", "TEST")
    _check_dataset_names(cfg, specs, used)
    classes = _class_names(cfg, specs, eval_only)
    register_datasets(specs, classes=classes, bad_records=cfg.DATASETS.BAD_RECORDS)
    if classes is None:
        classes = _catalog_class_names(cfg, used)
    head = "RETINANET" if cfg.MODEL.META_ARCHITECTURE in RETINANETS else "ROI_HEADS"
    stated = cfg.MODEL[head].NUM_CLASSES
    if stated not in (0, len(classes)):
        raise UserError(
            f"MODEL.{head}.NUM_CLASSES is {stated}, but the data has {len(classes)} classes "
            f"({', '.join(classes)}): set it to {len(classes)}, or to 0 to follow the data"
        )
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = len(classes)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s, but no GPU is here: using cpu", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"


def _check_dataset_names(
    cfg: CfgNode, specs: dict[str, DatasetSpec], used: tuple[str, ...]
) -> None:
    custom = dataset_names(specs)
    for split in used:
        names = cfg.DATASETS[split]
        if split == "TRAIN" and not names:
            raise UserError(
                "DATASETS.TRAIN is empty: add a file of configs/datasets with --config-file, or "
                "name a dataset"
            )
        for name in names:
            if name not in custom and name not in DatasetCatalog:
                known = custom or DatasetCatalog.list()
                raise UserError(f"DATASETS.{split} names '{name}', {did_you_mean(name, known)}")


def _class_names(cfg: CfgNode, specs: dict[str, DatasetSpec], eval_only: bool) -> list[str] | None:
    """Class list of the custom datasets; None where none of them is used."""
    own = {name: spec for spec in specs.values() for name in spec.parts}
    if eval_only and (record := read_record(cfg.MODEL.WEIGHTS)) is not None:
        trained = list(record["class_names"])
        for name in cfg.DATASETS.TEST:
            stated = own[name].classes if name in own else ()
            if stated and set(stated) != set(trained):
                raise UserError(
                    f"DATASETS.CUSTOM.{own[name].name}.CLASSES is [{', '.join(stated)}], but "
                    f"MODEL.WEIGHTS was trained on [{', '.join(trained)}]: leave CLASSES out to "
                    "take the classes of the checkpoint"
                )
        return trained
    sources = cfg.DATASETS.TEST if eval_only else cfg.DATASETS.TRAIN
    chosen = list(dict.fromkeys(own[name] for name in sources if name in own))
    if not chosen:
        return None
    return list(dict.fromkeys(name for spec in chosen for name in read_class_names(spec)))


def _catalog_class_names(cfg: CfgNode, used: tuple[str, ...]) -> list[str]:
    for split in used:
        for name in cfg.DATASETS[split]:
            metadata = MetadataCatalog.get(name)
            if not metadata.get("thing_classes"):
                DatasetCatalog.get(name)  # Detectron2's COCO loader names the classes on reading
            if not metadata.get("thing_classes"):
                raise UserError(
                    f"dataset '{name}' has no class names: set MetadataCatalog.get('{name}')."
                    "thing_classes where it is registered"
                )
            return list(metadata.thing_classes)
    raise UserError("DATASETS.TEST is empty: name a dataset to evaluate on")
