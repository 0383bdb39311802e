"""The config that the arguments of a command name."""

import argparse
from pathlib import Path

from detectron2.config import CfgNode

from counterpoise.commands.imports import import_files
from counterpoise.config.loading import load_config
from counterpoise.errors import UserError
from counterpoise.utils.output_dir import CONFIG, FINAL_CHECKPOINT


def config_of(args: argparse.Namespace) -> CfgNode:
    """Load the config that the arguments name; not prepared yet.

    Args:
        args: with ``config_file``, ``opts``, ``imports``, which are run, and, where the command has
            it, ``run_dir``.

    Raises:
        UserError: a file, key or value is not usable, ``--run`` names no finished training, or
            neither it nor ``MODEL.WEIGHTS`` says which model.
    """
    import_files(args.imports)  # the config may name what they register
    files, overrides = list(args.config_file), list(args.opts)
    folder = getattr(args, "run_dir", None)
    if folder is not None:
        for name in (CONFIG, FINAL_CHECKPOINT):
            if not (folder / name).is_file():
                raise UserError(
                    f"{folder} has no {name}: give the OUTPUT_DIR of a finished training"
                )
        files.insert(0, folder / CONFIG)
        overrides = ["MODEL.WEIGHTS", str(folder / FINAL_CHECKPOINT), *overrides]
    cfg = load_config(files, overrides)
    if hasattr(args, "run_dir") and not files and not cfg.MODEL.WEIGHTS:
        raise UserError(
            "no model is named: give --run with the OUTPUT_DIR of a finished training, or a "
            "--config-file and the checkpoint as MODEL.WEIGHTS"
        )
    return cfg


def config_of_training(args: argparse.Namespace) -> CfgNode | None:
    """Load the config of the run that ``--run`` names, without what the arguments add to it.

    Args:
        args: of :func:`config_of`, which has looked whether the run is there.

    Returns:
        None without ``--run``.
    """
    return None if args.run_dir is None else load_config([args.run_dir / CONFIG])


def beside_checkpoint(cfg: CfgNode, name: str) -> Path:
    """Where what is made of a checkpoint goes unless told otherwise.

    Args:
        cfg: prepared, with ``MODEL.WEIGHTS``.
        name: of the file.

    Returns:
        beside the checkpoint; in the working folder where that is at an address, such as
        ``detectron2://`` or ``https://``.
    """
    weights = cfg.MODEL.WEIGHTS
    return Path(name) if "://" in weights else Path(weights).with_name(name)
