"""What an inspection is about: a registered dataset or a folder, and the splits beside it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from counterpoise.datasets import (
    DatasetSpec,
    cache_folder,
    dataset_names,
    parse_specs,
    read_class_names,
)
from counterpoise.errors import UserError, did_you_mean
from counterpoise.inspection.folders import ROLES, detect_folder


@dataclass(frozen=True)
class Target:
    """Datasets to inspect.

    Attributes:
        name: as the user gave it; of a folder its last part, made fit for a dataset name.
        splits: role (``train``, ``val``, ``test`` or None) by dataset name, the inspected one
            first.
        specs: the custom datasets among them, and others of the config.
        classes: class list of the custom datasets; None lets each use its own.
        datasets: for a folder the ``DATASETS`` node that defines its splits, otherwise empty.
        notes: what was left out, one sentence each.
    """

    name: str
    splits: dict[str, str | None]
    specs: dict[str, DatasetSpec]
    classes: list[str] | None
    datasets: dict[str, Any]
    notes: tuple[str, ...] = ()


def find_target(name_or_folder: str, cfg: CfgNode, outside_files: bool = False) -> Target:
    """Find the dataset or folder that the user names; a dataset of the config comes first.

    Args:
        name_or_folder: a name in ``DATASETS.CUSTOM``, a folder, or a name in ``DatasetCatalog``.
        cfg: of :func:`counterpoise.config.loading.load_config`.
        outside_files: whether the files of a folder may lie outside of it; a dataset of the config
            has its own ``OUTSIDE_FILES``.

    Raises:
        UserError: there is neither, or the folder holds no dataset that is known.
    """
    cache = cache_folder(cfg.DATASETS.CACHE)
    specs = parse_specs(cfg.DATASETS.CUSTOM, cache)
    path = Path(name_or_folder).expanduser()
    if name_or_folder in {*specs, *dataset_names(specs)}:
        return _named(name_or_folder, specs, cfg)
    if path.is_dir():
        return _folder(path, cache, outside_files)
    if path.is_file():
        raise UserError(f"{path} is a file: give the folder of the dataset, or a dataset's name")
    if name_or_folder in DatasetCatalog:
        return _named(name_or_folder, specs, cfg)
    known = did_you_mean(name_or_folder, {*specs, *dataset_names(specs)} or DatasetCatalog.list())
    where = "" if specs else " (a dataset of your own needs the --config-file that defines it)"
    raise UserError(f"there is no dataset and no folder called '{name_or_folder}'{where}; {known}")


def _named(name: str, specs: Mapping[str, DatasetSpec], cfg: CfgNode) -> Target:
    roles: dict[str, str | None] = {}
    for role in ROLES:
        for dataset in cfg.DATASETS.get(role.upper(), ()):
            roles.setdefault(dataset, role)
    subject = name
    if name in specs and specs[name].holdout:  # its two parts are registered, not the whole
        parts = dict(zip(specs[name].parts, ("train", "val"), strict=True))
        roles = parts | roles
        subject = next(iter(parts))
    # The classes are those of training, so that what training would leave out is invalid here.
    own = {part: spec for spec in specs.values() for part in spec.parts}
    trained = [own[dataset] for dataset in cfg.DATASETS.TRAIN if dataset in own]
    classes = _union(trained) if subject in roles and trained else None
    return Target(
        name=name,
        splits={subject: roles.get(subject), **{k: v for k, v in roles.items() if k != subject}},
        specs=dict(specs),
        classes=classes,
        datasets={},
    )


def _folder(path: Path, cache: Path | None, outside_files: bool) -> Target:
    found = detect_folder(path, outside_files)
    name = re.sub(r"\W+", "_", path.resolve().name).strip("_") or "data"
    custom = {f"{name}_{split}" if split else name: e for split, e in found.entries.items()}
    roles = {
        dataset: split if split in ROLES else None
        for dataset, split in zip(custom, found.entries, strict=True)
    }
    specs = parse_specs(custom, cache)
    subject, *others = custom
    by_role = {role: dataset for dataset, role in roles.items()}
    tests = [
        by_role[role] for role in ("test", "val") if role in by_role and role != roles[subject]
    ]
    datasets = {"CUSTOM": custom, "TRAIN": [subject], "TEST": tests[:1] or others[:1]}
    if tests[1:]:
        datasets["VAL"] = tests[1:]
    return Target(
        name=name,
        splits=roles,
        specs=specs,
        classes=_union([specs[subject]]),
        datasets=datasets,
        notes=tuple(found.notes),
    )


def _union(specs: list[DatasetSpec]) -> list[str]:
    return list(dict.fromkeys(name for spec in specs for name in read_class_names(spec)))
