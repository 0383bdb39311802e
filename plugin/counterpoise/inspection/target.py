"""What an inspection is about: a registered dataset or a folder, and the splits beside it."""

import os
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
from counterpoise.datasets.registration import CustomLoader, missing_file
from counterpoise.errors import UserError, did_you_mean
from counterpoise.inspection.folders import ROLES, detect_folder, real_path


@dataclass(frozen=True)
class Target:
    """Datasets to inspect.

    Attributes:
        name: as the user gave it; of a folder its last part, made fit for a dataset name.
        splits: role (``train``, ``val``, ``test`` or None) by name, the inspected one first.
        members: names of the datasets that a split is made of, by its name; mostly its own.
        specs: the custom datasets among them, and others of the config.
        classes: class list of the custom datasets; None lets each use its own.
        custom: for a folder the ``DATASETS.CUSTOM`` node that defines its splits, otherwise empty.
        notes: what was left out or taken for what, one sentence each.
    """

    name: str
    splits: dict[str, str | None]
    members: dict[str, tuple[str, ...]]
    specs: dict[str, DatasetSpec]
    classes: list[str] | None
    custom: dict[str, Any]
    notes: tuple[str, ...] = ()


def find_target(name_or_folder: str, cfg: CfgNode, outside_files: bool = False) -> Target:
    """Find the dataset, folder or data.yaml that the user names; datasets of the config come first.

    Args:
        name_or_folder: a name in ``DATASETS.CUSTOM``, a folder, the data.yaml of a YOLO dataset,
            or a name in ``DatasetCatalog``.
        cfg: of :func:`counterpoise.config.loading.load_config`.
        outside_files: whether the files of a folder may lie outside of it; a dataset of the config
            has its own ``OUTSIDE_FILES``.

    Raises:
        UserError: there is neither, or the folder holds no dataset that is known.
    """
    cache = cache_folder(cfg.DATASETS.CACHE)
    specs = parse_specs(cfg.DATASETS.CUSTOM, cache)
    path = os.path.expanduser(name_or_folder)  # pathlib's fails for a user that is not there
    if name_or_folder in {*specs, *dataset_names(specs)}:
        return _named(name_or_folder, specs, cfg)
    if os.path.isdir(path) or os.path.isfile(path):
        return _folder(Path(path), cache, outside_files)
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
    if name in specs and specs[name].held_out:  # its parts are registered, not the whole
        parts = {part: part.rpartition("_")[2] for part in specs[name].parts}
        roles = parts | roles
        subject = next(iter(parts))
    # The classes are those of training, so that what training would leave out is invalid here.
    own = {part: spec for spec in specs.values() for part in spec.parts}
    notes = []
    for other in [role for role in roles if role != subject and role not in own]:
        if path := missing_file(other):
            del roles[other]
            notes.append(f"the config names {other}, too, but {path} does not exist")
    trained = [own[dataset] for dataset in cfg.DATASETS.TRAIN if dataset in own]
    classes = _union(trained) if subject in roles and trained else None
    splits = {subject: roles.get(subject), **{k: v for k, v in roles.items() if k != subject}}
    return Target(
        name=name,
        splits=splits,
        members={split: (split,) for split in splits},
        specs=dict(specs),
        classes=classes,
        custom={},
        notes=tuple(notes),
    )


def _folder(path: Path, cache: Path | None, outside_files: bool) -> Target:
    found = detect_folder(path, outside_files)
    named = real_path(path)
    if named.is_file():  # every data.yaml has that name, its folder one of its own
        named = named.parent if named.stem == "data" else named.with_suffix("")
    name = re.sub(r"\W+", "_", named.name).strip("_") or "data"
    if any(_is_taken(f"{name}_{part}" if part else name) for part in found.entries):
        name = f"my_{name}"
    dataset = {part: f"{name}_{part}" if part else name for part in found.entries}
    custom = {dataset[part]: entry for part, entry in found.entries.items()}
    specs = parse_specs(custom, cache)
    splits, members = {}, {}
    for role, parts in _by_role(found.roles):
        names = tuple(dataset[part] for part in parts)
        split = names[0] if len(names) == 1 else f"{name}_{role}"
        splits[split], members[split] = role, names
    subject = next(iter(members.values()))
    return Target(
        name=name,
        splits=splits,
        members=members,
        specs=specs,
        classes=_union([specs[dataset] for dataset in subject]),
        custom=custom,
        notes=tuple(found.notes),
    )


def _is_taken(name: str) -> bool:
    """Whether Detectron2, or a program around this one, has a dataset of this name."""
    return name in DatasetCatalog and not isinstance(DatasetCatalog[name], CustomLoader)


def _by_role(roles: Mapping[str, str | None]) -> list[tuple[str | None, list[str]]]:
    """Put parts of one role together, in the order of the first; without one each is alone."""
    together: dict[str, tuple[str | None, list[str]]] = {}
    for part, role in roles.items():
        together.setdefault(role or f" {part}", (role, []))[1].append(part)
    return list(together.values())


def _union(specs: list[DatasetSpec]) -> list[str]:
    return list(dict.fromkeys(name for spec in specs for name in read_class_names(spec)))
