"""Arguments that several subcommands share."""

import argparse
import re
import textwrap
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from counterpoise.config.loading import load_config
from counterpoise.errors import UserError


def add_command(
    commands: Any, name: str, summary: str, description: str, examples: str
) -> argparse.ArgumentParser:
    """Add a subcommand.

    Args:
        commands: the sub-parsers of ``counterpoise``.
        name: of the command.
        summary: for the list of commands.
        description: for its own help.
        examples: commands to copy, a line each.

    Returns:
        its parser, without arguments yet.
    """
    return commands.add_parser(
        name,
        help=summary,
        description=textwrap.fill(description, 88),
        epilog="examples:\n" + textwrap.indent(examples, "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_config_arguments(parser: argparse.ArgumentParser, opts: bool = True) -> None:
    """Add ``--config-file`` and ``KEY VALUE`` overrides; to be called after all other arguments.

    Args:
        parser: of a subcommand.
        opts: False gives the overrides as ``--opts``, for a command that takes many positional
            arguments of its own.
    """
    parser.add_argument(
        "--config-file", action="append", default=[], metavar="FILE",
        help="config file; may be given more than once, later files override earlier ones",
    )  # fmt: skip
    text = "config overrides, such as MODEL.WEIGHTS output/mine/model_final.pth"
    if opts:
        overrides = parser.add_argument(
            "opts", nargs="+", default=[], metavar="KEY VALUE", help=text
        )
        # With "*" argparse would take none right behind another positional argument and refuse
        # those that follow an option; with "+" it shows them as required.
        overrides.required = False
        usage = parser.format_usage().removeprefix("usage: ").strip()
        parser.usage = re.sub(r"KEY VALUE\s+\[KEY VALUE \.\.\.\]", "[KEY VALUE ...]", usage)
    else:
        parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help=text)


def add_run_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--run``, which stands for the config and the last weights of a finished training."""
    parser.add_argument(
        "--run", type=Path, dest="run_dir", metavar="DIR",
        help="OUTPUT_DIR of a training: its config.yaml and model_final.pth",
    )  # fmt: skip


def config_of(args: argparse.Namespace) -> CfgNode:
    """Load the config that the arguments name; not prepared yet.

    Raises:
        UserError: a file, key or value is not usable, or ``--run`` names no finished training.
    """
    files, overrides = list(args.config_file), list(args.opts)
    folder = getattr(args, "run_dir", None)
    if folder is not None:
        for name in ("config.yaml", "model_final.pth"):
            if not (folder / name).is_file():
                raise UserError(
                    f"--run {folder} has no {name}: give the OUTPUT_DIR of a finished training"
                )
        files.insert(0, folder / "config.yaml")
        overrides = ["MODEL.WEIGHTS", str(folder / "model_final.pth"), *overrides]
    return load_config(files, overrides)
