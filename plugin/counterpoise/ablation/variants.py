"""The configs of an ablation as a user names them: grids, config files, and a file of variants."""

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from counterpoise.config.loading import make_paths_absolute, read_mapping
from counterpoise.config.packaged import find_config
from counterpoise.config.tree import deep_merge, flat_leaves, nested
from counterpoise.errors import UserError
from counterpoise.utils.text import unique_ends

_KEY = re.compile(r"(?:^|\s)([A-Za-z_]\w*(?:\.\w+)*)=")
_EXAMPLE = "SOLVER.OPTIMIZER=AdamW SOLVER.BASE_LR=0.0001,0.00025"


@dataclass(frozen=True)
class Variant:
    """A config of an ablation: what is laid over the common config.

    Attributes:
        name: unique in the ablation.
        files: config files, later ones override earlier ones.
        settings: key with dots and value, which override the files.
    """

    name: str
    files: tuple[Path, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()


def variants_of(
    files: Sequence[str], variant_file: Path | None, grids: Sequence[str]
) -> tuple[Variant, ...]:
    """All variants that the options name, the baseline first.

    Args:
        files: of ``--variants``, each a variant.
        variant_file: of ``--variants-file``.
        grids: of ``--grid``, each a product of keys; every named variant is trained with each point
            of them.

    Raises:
        UserError: a grid or file cannot be read, or two variants have one name.
    """
    named = [Variant(Path(file).stem, (config_path(file, "--variants"),)) for file in files]
    if variant_file is not None:
        named += read_variants(variant_file)
    points = parse_grids(grids)
    if named and points:
        crossed = [
            Variant(f"{own.name} {point.name}", own.files, own.settings + point.settings)
            for own, point in itertools.product(named, points)
        ]
    else:
        crossed = named or points or [Variant("config")]
    known: dict[str, Variant] = {}
    for variant in crossed:
        if known.setdefault(variant.name, variant) is variant:
            continue
        if known[variant.name] == variant:
            raise UserError(f"the variant '{variant.name}' is there twice: leave one of them out")
        raise UserError(
            f"two variants are called '{variant.name}': give them different names in a "
            "--variants-file"
        )
    return tuple(crossed)


def parse_grids(grids: Iterable[str]) -> list[Variant]:
    """Points of grids such as ``"SOLVER.BASE_LR=0.01,0.02 SOLVER.STEPS=[400,540],[300]"``.

    Every value is YAML, so a list stands in brackets. Several grids are listed one after the other.

    Raises:
        UserError: one is not of this form.
    """
    parsed = [_parse_grid(grid) for grid in grids]
    keys = list(dict.fromkeys(key for grid in parsed for key in grid))
    short = dict(zip(keys, _short_names(keys), strict=True))
    points = []
    for grid in parsed:
        for values in itertools.product(*grid.values()):
            settings = tuple((key, str(own)) for key, own in zip(grid, values, strict=True))
            points.append(Variant(" ".join(f"{short[k]}={v}" for k, v in settings), (), settings))
    return points


def read_variants(path: Path) -> list[Variant]:
    """Read a file of variants: by name config files, or keys with values and perhaps ``_BASE_``.

    Raises:
        UserError: it is not of this form.
    """
    return [_variant(str(name), entry, path) for name, entry in read_mapping(path).items()]


def _variant(name: str, entry: Any, path: Path) -> Variant:
    tree = dict(entry) if isinstance(entry, Mapping) else {"_BASE_": entry or []}
    files = tree.pop("_BASE_", [])
    files = [files] if isinstance(files, str) else files
    if not (isinstance(files, list) and all(isinstance(file, str) for file in files)):
        raise UserError(
            f"{path}: the variant '{name}' must be a config file, a list of them, or keys with "
            f"their values, got {entry!r:.60}"
        )
    keys: dict[str, Any] = {}
    for key, value in flat_leaves(tree):
        deep_merge(keys, nested(str(key), value))
    make_paths_absolute(keys, path.resolve().parent, f"{path}: {name}")
    settings = tuple((key, str(value)) for key, value in flat_leaves(keys))
    return Variant(
        name, tuple(config_path(file, str(path), path.parent) for file in files), settings
    )


def config_path(file: str, origin: str, folder: Path | None = None) -> Path:
    """Find a config file; what is wrong with one that is missing shows when it is loaded.

    Args:
        file: path or name of a packaged config.
        origin: what names it, for the message.
        folder: that a relative path starts from; None for the working directory.

    Raises:
        UserError: it looks like an override that an option of several files has taken.
    """
    path = find_config(file, folder)
    if not os.path.isfile(path) and not file.endswith((".yaml", ".yml")):
        raise UserError(
            f"{origin} names {file}, which is no config file: put KEY VALUE overrides before "
            "--variants, --datasets and their files"
        )
    return path


def _parse_grid(grid: str) -> dict[str, list[Any]]:
    found = list(_KEY.finditer(grid))
    if not found or grid[: found[0].start()].strip():
        raise UserError(f'--grid "{grid}" is not of the form KEY=VALUE,VALUE ..., as "{_EXAMPLE}"')
    parsed: dict[str, list[Any]] = {}
    for match, following in itertools.zip_longest(found, found[1:]):
        key, text = match[1], grid[match.end() : following.start() if following else None].strip()
        try:
            values = yaml.safe_load(f"[{text}]")
        except yaml.YAMLError:
            values = []
        if not values:
            raise UserError(
                f"--grid: the values of {key} are '{text}', expected YAML with commas between "
                f"them, as {_EXAMPLE.split()[-1]}"
            )
        if key in parsed:
            raise UserError(f"--grid names {key} twice: give all its values with commas between")
        parsed[key] = values
    return parsed


def _short_names(keys: Sequence[str]) -> list[str]:
    """Ends of keys that tell them apart; ``ROI_LOSS.NAME`` is called ``ROI_LOSS``."""
    parts = [key.removesuffix(".NAME").split(".") for key in keys]
    return [".".join(end) for end in unique_ends(parts)]
