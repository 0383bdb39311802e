"""What an ablation trains: a config per dataset and variant, known by its content, times seeds."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from counterpoise.ablation.variants import Variant
from counterpoise.config.loading import load_config, refuse_overruled
from counterpoise.config.preparation import prepare
from counterpoise.config.tree import flat_leaves
from counterpoise.config.validation import check_config
from counterpoise.errors import UserError
from counterpoise.reporting.config_difference import shown_values
from counterpoise.utils.files import write_atomically

#: What belongs to a run and not to its config, and the option that sets it.
OWN_KEYS = {"OUTPUT_DIR": "--out", "SEED": "--seeds"}
#: Folder in that of the ablation with a folder per config, which holds one per seed.
RUNS = "runs"
CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class Trial:
    """A training of an ablation.

    Attributes:
        config: id of the config, equal for all seeds.
        dataset, variant: names.
        seed: >= 0.
        settings: keys in which the config differs from the baseline's on this dataset, with its
            values as text.
        config_file: that the training is given, complete.
        folder: OUTPUT_DIR.
        test_set: that the ablation looks at, the first of ``DATASETS.TEST``.
        iterations: of the training.
    """

    config: str
    dataset: str
    variant: str
    seed: int
    settings: dict[str, str]
    config_file: Path
    folder: Path
    test_set: str
    iterations: int

    @property
    def name(self) -> str:
        """What the terminal calls it."""
        return f"{self.dataset}, {self.variant}, seed {self.seed}"

    @property
    def log_file(self) -> Path:
        """Beside the folder: what the training prints, which is complete where log.txt is not."""
        return self.folder.with_suffix(".log")

    @property
    def lock_file(self) -> Path:
        """Locked by the process that trains, for as long as it lives."""
        return self.folder.with_suffix(".lock")


@dataclass(frozen=True)
class Plan:
    """The trainings of an ablation.

    Attributes:
        trials: in the order in which they are to run: all configs with the first seed come first.
        configs: content of each config file, to be written before a trial starts.
        notices: what a user may not expect, one sentence each.
    """

    trials: tuple[Trial, ...]
    configs: dict[Path, str]
    notices: tuple[str, ...]

    def write_configs(self) -> None:
        """Write the config files that are not there, or that have the data where it no longer lies.

        Raises:
            UserError: one cannot be written.
        """
        for file, content in self.configs.items():
            if not file.is_file() or file.read_text(encoding="utf-8") != content:
                write_atomically(file, content)


def make_plan(
    out: Path,
    config_files: Sequence[str],
    datasets: Sequence[str],
    variants: Sequence[Variant],
    seeds: Sequence[int],
    overrides: Sequence[str],
) -> Plan:
    """Merge and check all configs.

    Later ones override earlier ones: `config_files`, the variant's files, the dataset's file, the
    variant's settings, `overrides`.

    Args:
        out: folder of the ablation.
        config_files: that all trainings share.
        datasets: config files, each of a dataset; none where the config names it.
        variants: the baseline first.
        seeds: of every config.
        overrides: ``[key, value, ...]`` for all trainings.

    Raises:
        UserError: a config cannot be loaded or holds a value out of range.
    """
    given_keys = {*overrides[::2], *(key for own in variants for key, _ in own.settings)}
    for key, option in OWN_KEYS.items():
        if key in given_keys:
            raise UserError(f"{key} is set by {option} for every training: leave {key} out")
    stems = [Path(dataset).stem for dataset in datasets]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise UserError(f"--datasets names two files {twice}.yaml: give them different names")
    known = _known_configs(out)
    trials: list[list[Trial]] = []
    configs: dict[Path, str] = {}
    notices = []
    given: dict[str, str] = {}  # by content, what has it
    for dataset in datasets or [None]:
        baseline: dict[str, str] = {}
        for variant in variants:
            files = [*config_files, *variant.files, *([dataset] if dataset else [])]
            cfg = _load(variant, files, overrides)
            name = Path(dataset).stem if dataset else cfg.DATASETS.TEST[0]
            content = config_hash(cfg)
            if content in given:
                notices.append(
                    f"'{variant.name}' on {name} is left out, for it is the same config as "
                    f"{given[content]}."
                )
                continue
            given[content] = f"'{variant.name}' on {name}"
            values = {k: v for k, v in shown_values(cfg).items() if k not in OWN_KEYS}
            baseline = baseline or values
            folder = out / RUNS / known.get(content, content)
            configs[folder / CONFIG_FILE] = cfg.dump()
            trials.append(_trials(cfg, folder, name, variant.name, seeds, {
                key: value for key, value in values.items() if baseline.get(key) != value
            }))  # fmt: skip
    ordered = tuple(trial for of_seed in zip(*trials, strict=True) for trial in of_seed)
    return Plan(ordered, configs, tuple(notices))


def _load(variant: Variant, files: Sequence[str], overrides: Sequence[str]) -> CfgNode:
    own = [part for setting in variant.settings for part in setting]
    try:
        cfg = load_config(files, [*own, *overrides])
        refuse_overruled(cfg, [*own, *overrides])
        check_config(cfg)
    except UserError as error:
        raise UserError(f"variant '{variant.name}': {error}") from error
    if not cfg.DATASETS.TEST:
        raise UserError(
            f"DATASETS.TEST is empty for the variant '{variant.name}', so there is nothing to "
            "compare: name a test set, or add --datasets with a file of configs/datasets"
        )
    return cfg


def _trials(
    cfg: CfgNode,
    folder: Path,
    dataset: str,
    variant: str,
    seeds: Iterable[int],
    settings: dict[str, str],
) -> list[Trial]:
    if cfg.SOLVER.EPOCHS:  # the number of images makes the iterations
        cfg = cfg.clone()
        prepare(cfg)
    return [
        Trial(
            folder.name, dataset, variant, seed, settings, folder / CONFIG_FILE,
            folder / f"seed{seed}",
            cfg.DATASETS.TEST[0], cfg.SOLVER.MAX_ITER,
        )
        for seed in seeds
    ]  # fmt: skip


def config_hash(cfg: CfgNode) -> str:
    """Hash of what a config says, without :data:`OWN_KEYS`: 12 hexadecimal digits.

    It does not depend on where the data lies below ``$DETECTRON2_DATASETS``.
    """
    content = {key: _portable(value) for key, value in flat_leaves(cfg) if key not in OWN_KEYS}
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _portable(value: Any) -> Any:
    variable = os.environ.get("DETECTRON2_DATASETS")
    root = Path(variable).absolute() if variable else None
    if root is None or not isinstance(value, str) or not Path(value).is_relative_to(root):
        return value
    return f"$DETECTRON2_DATASETS/{Path(value).relative_to(root).as_posix()}"


def _known_configs(out: Path) -> dict[str, str]:
    """Folders of the configs that were trained here, by what their content hashes to today.

    A config of an earlier version lacks newer keys and gets their defaults, as its training had
    them, so a new key does not make a finished run another one.
    """
    known = {}
    for file in sorted(out.glob(f"{RUNS}/*/{CONFIG_FILE}")):
        try:
            known[config_hash(load_config([file]))] = file.parent.name
        except UserError:  # a key of it is gone, so no config of today is like it
            continue
    return known
