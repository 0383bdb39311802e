"""Loading of config files; messages name the file, the key and the nearest valid one."""

import ast
import copy
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from reprlib import repr as shown  # a value can be of any size
from typing import Any

import yaml
from detectron2.config import CfgNode

from counterpoise.config.keys import training_config
from counterpoise.config.packaged import closest_config, find_config
from counterpoise.config.tree import deep_merge, flat_leaves, nested, value_at
from counterpoise.config.zoo import ZooLoader, is_detectron2s, leave_out_its_data
from counterpoise.datasets.cache import AUTO, NONE
from counterpoise.datasets.json_fields import is_number
from counterpoise.datasets.spec import PATH_KEYS, SPEC_DEFAULTS
from counterpoise.errors import UserError, did_you_mean
from counterpoise.modeling.acceleration import OVERRULED
from counterpoise.utils.files import check_is_file
from counterpoise.utils.yaml_files import StrictLoader, load_yaml

#: Keys that list names of datasets, which may look like numbers.
SPLITS = ("DATASETS.TRAIN", "DATASETS.TEST", "DATASETS.VAL")


def load_config(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> CfgNode:
    """Merge config files and ``KEY VALUE`` overrides into the training defaults.

    Later files override earlier ones, overrides come last. A file may name others under
    ``_BASE_``. Paths of datasets, of ``DATASETS.CACHE`` and of ``BALANCE.SCORE_THRESHOLDS`` become
    absolute: relative to the file that names them or, in overrides, to the working directory;
    environment variables in them are expanded.

    Files of the installed Detectron2 may compute values with ``!!python/object/apply:eval``, as
    Detectron2 allows; what they say of its own datasets (the number of classes, expected results)
    is left out with a notice.

    Args:
        files: YAML files, possibly none; where no file of that path is here, the name of a config
            file of this package, such as ``quick/focal.yaml``, or of Detectron2's model zoo, such
            as ``COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml``.
        overrides: ``[key, value, key, value, ...]``, keys with dots.

    Returns:
        a config that is not frozen. Only :func:`check_config` looks into the values.

    Raises:
        UserError: a file, key or value is not usable; the message names it and the closest one.
    """
    cfg = training_config()
    for file in files:
        _merge(cfg, read_yaml(find_config(file)), str(file))
    _check_pairs(cfg, overrides)
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        tree = nested(key, value)
        make_paths_absolute(tree, Path.cwd(), f"override {key}")
        _merge(cfg, tree, "the command line")
    return cfg


def refuse_overruled(cfg: CfgNode, overrides: Sequence[str]) -> None:
    """Refuse overrides that :func:`counterpoise.config.preparation.prepare` would take back.

    Args:
        cfg: of :func:`load_config`.
        overrides: that it was loaded with.

    Raises:
        UserError: ``MODEL.SPEED`` is ``auto``, and one of its keys is switched off.
    """
    for key in overrides[::2] if cfg.MODEL.SPEED == "auto" else ():
        if key in OVERRULED and value_at(cfg, key) == OVERRULED[key]:
            raise UserError(
                f"the command line sets {key} {OVERRULED[key]}, which MODEL.SPEED auto overrules: "
                "add MODEL.SPEED stock and the other keys that you want, or leave it out"
            )


def _check_pairs(cfg: CfgNode, overrides: Sequence[str]) -> None:
    """Refuse overrides of which one lacks its value or is a config file, and name that one.

    Raises:
        UserError: they are no pairs.
    """
    known = {key for key, _ in flat_leaves(cfg)}
    for key, value in itertools.zip_longest(overrides[::2], overrides[1::2]):
        name, equals, given = key.partition("=")
        if equals and name in known:
            raise UserError(
                f"overrides come as KEY VALUE pairs, but there is '{key}': write {name} {given}"
            )
        if key.endswith((".yaml", ".yml")):
            raise UserError(
                f"overrides come as KEY VALUE pairs, but there is the file '{key}': write "
                f"--config-file {key}"
            )
        # A folder may have the name of a key, such as SEED.
        is_a_key = value in known and ("." in value or len(overrides) % 2 == 1)
        if value is None or (key in known and is_a_key):
            raise UserError(
                f"overrides come as KEY VALUE pairs, but '{key}' stands alone: add its value"
            )


def read_yaml(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a config file over its ``_BASE_`` files, its paths made absolute.

    Raises:
        UserError: a file is missing, is not a YAML mapping, runs code, or includes itself.
    """
    path = path.expanduser()
    if path.resolve() in seen:
        raise UserError(f"{path}: _BASE_ leads back to this file; remove one of the references")
    tree = read_mapping(path)
    bases = tree.pop("_BASE_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not (isinstance(bases, list) and all(isinstance(base, str) for base in bases)):
        raise UserError(f"{path}: _BASE_ must name a file or a list of files, got {shown(bases)}")
    make_paths_absolute(tree, path.resolve().parent, str(path))
    merged: dict[str, Any] = {}
    for base in bases:
        deep_merge(merged, read_yaml(find_config(base, path.parent), (*seen, path.resolve())))
    deep_merge(merged, tree)
    return merged


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping, as it stands.

    Raises:
        UserError: it is missing, is no mapping, or runs code.
    """
    if path.suffix == ".py":
        twin = path.with_suffix(".yaml")
        raise UserError(
            f"config file {path} is a LazyConfig in Python, which is not read here: give a YAML "
            + (f"file, such as {twin}" if find_config(twin).is_file() else "file in its place")
        )
    trusted = is_detectron2s(path)
    try:
        check_is_file(path)
        text = path.read_text(encoding="utf-8")
        tree = load_yaml(text, ZooLoader if trusted else StrictLoader)
    except OSError as error:
        raise UserError(
            f"config file {path} cannot be read: {error.strerror}, {closest_config(path)}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        tag = re.search(r"python/[\w:./]+", reason)
        if isinstance(error, yaml.constructor.ConstructorError) and tag:
            raise UserError(
                f"config file {path} holds the tag !!{tag[0]}, which can run code and is read only "
                "in files of the installed Detectron2: write out the value"
            ) from error
        raise UserError(f"config file {path} is not valid YAML: {reason}") from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError(f"config file {path} must hold 'KEY: value' pairs, got {shown(tree)}")
    if trusted:
        leave_out_its_data(tree, path)
    return tree


def make_paths_absolute(tree: dict[str, Any], folder: Path, origin: str) -> None:
    """Make the paths of datasets and score thresholds in one file absolute, in place.

    Args:
        tree: nested keys.
        folder: that relative paths start from.
        origin: what names them, for messages.

    Raises:
        UserError: an environment variable in one is not set.
    """
    balance, datasets = tree.get("BALANCE"), tree.get("DATASETS")
    if isinstance(balance, dict):
        _make_absolute(balance, "SCORE_THRESHOLDS", folder, f"{origin}: BALANCE")
    if isinstance(datasets, dict) and datasets.get("CACHE") not in (AUTO, NONE):
        _make_absolute(datasets, "CACHE", folder, f"{origin}: DATASETS")
    custom = datasets.get("CUSTOM") if isinstance(datasets, dict) else None
    for name, entry in (custom or {}).items() if isinstance(custom, dict) else ():
        for key in PATH_KEYS if isinstance(entry, dict) else ():
            _make_absolute(entry, key, folder, f"{origin}: DATASETS.CUSTOM.{name}")


def _make_absolute(node: dict[str, Any], key: str, folder: Path, origin: str) -> None:
    if isinstance(node.get(key), str) and node[key]:
        node[key] = str(folder / _expanded(node[key], f"{origin}.{key}"))


def _expanded(path: str, where: str) -> Path:
    # Detectron2 looks for its datasets in ./datasets where the variable is not set.
    known = {"DETECTRON2_DATASETS": str(Path("datasets").absolute())} | dict(os.environ)

    def value(match: re.Match[str]) -> str:
        variable = match[1] or match[2]
        if variable not in known:
            raise UserError(
                f"{where} is {path!r}, but the environment variable {variable} is not set: "
                f"export it or write the path in full"
            )
        return known[variable]

    expanded = Path(re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, path)).expanduser()
    # A relative value of a variable was meant from where the user stands, not from the file.
    return expanded.absolute() if path.startswith("$") else expanded


def _merge(cfg: CfgNode, tree: Mapping[str, Any], origin: str) -> None:
    """Merge as Detectron2 does, after checks whose messages name keys, types and `origin`."""
    checked = _checked(tree, cfg, cfg, origin)
    try:
        cfg.merge_from_other_cfg(CfgNode(checked))
    except (AssertionError, KeyError, ValueError) as error:
        reason = str(error.args[0]) if error.args else type(error).__name__
        raise UserError(f"{origin}: {' '.join(reason.split())}") from error


def _checked(
    tree: Mapping[str, Any], node: CfgNode, root: CfgNode, origin: str, prefix: str = ""
) -> dict[str, Any]:
    """Return a tree of known keys, each value of the type that `node` holds."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        full_key = f"{prefix}{key}"
        if full_key == "DATASETS.CUSTOM":
            result[key] = _checked_custom(value, node.CUSTOM, root, origin)
        elif key not in node:
            # What it once was, or may be, is for Detectron2's CfgNode to answer.
            if not (node.is_new_allowed() or root.key_is_renamed(full_key)
                    or root.key_is_deprecated(full_key)):  # fmt: skip
                raise UserError(f"{origin}: unknown key '{full_key}', {did_you_mean(key, node)}")
            result[str(key)] = value
        elif isinstance(node[key], CfgNode):
            if not isinstance(value, Mapping):
                raise UserError(
                    f"{origin}: {full_key} holds keys ({', '.join(node[key])}), got {shown(value)}"
                )
            result[key] = _checked(value, node[key], root, origin, f"{full_key}.")
        elif full_key == "VERSION" and value != node[key]:
            raise UserError(
                f"{origin}: VERSION is {value!r}, but this Detectron2 reads configs of version "
                f"{node[key]}: convert the file with detectron2.config.upgrade_config"
            )
        else:
            coerced = _coerced(value, node[key], f"{origin}: {full_key}")
            if full_key in SPLITS:
                coerced = tuple(map(str, coerced))
            # CfgNode reads every string as a Python literal: a quoted one stays as it is.
            result[key] = repr(coerced) if isinstance(coerced, str) else coerced
    return result


def _checked_custom(value: Any, custom: CfgNode, root: CfgNode, origin: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(
            f"{origin}: DATASETS.CUSTOM maps names to datasets, got {shown(value)}; see the README"
        )
    result: dict[str, Any] = {}
    for key, entry in value.items():
        name = str(key)
        full_key = f"DATASETS.CUSTOM.{name}"
        if not isinstance(entry, Mapping):
            raise UserError(
                f"{origin}: {full_key} must hold the keys {', '.join(SPEC_DEFAULTS)}, "
                f"got {shown(entry)}"
            )
        if name not in custom:
            custom[name] = CfgNode(copy.deepcopy(SPEC_DEFAULTS))
        result[name] = _checked(entry, custom[name], root, origin, f"{full_key}.")
    return result


def _coerced(value: Any, default: Any, where: str) -> Any:
    """Give a value the type of the default that it replaces."""
    if isinstance(default, str):
        if value is None or isinstance(value, (Mapping, list, tuple)):
            raise UserError(f"{where} must be a string, got {shown(value)}")
        return str(value)
    if isinstance(value, str):
        value = _decoded(value)
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        raise UserError(f"{where} must be True or False, got {shown(value)}")
    if isinstance(default, (tuple, list)):
        items = value if isinstance(value, (tuple, list)) else [value]
        return type(default)(items)
    if isinstance(default, int):
        if is_number(value) and value % 1 == 0:
            return int(value)
        raise UserError(f"{where} must be a whole number, got {shown(value)}")
    if isinstance(default, float):
        if is_number(value):
            return float(value)
        raise UserError(f"{where} must be a number, got {shown(value)}")
    return value


def _decoded(text: str) -> Any:
    """Read a string as Detectron2 does: a Python literal where it is one, else itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)
