"""The console command ``counterpoise``, which stands beside ``train_net.py``."""

import argparse
import os
import sys
from collections.abc import Sequence

from counterpoise.commands import compare, curves, inspect, predict, report, thresholds
from counterpoise.commands.train import refuse, silence_known_noise
from counterpoise.errors import UserError

COMMANDS = (inspect, thresholds, predict, report, compare, curves)

EPILOG = """\
exit codes: 0 done, 2 bad input, 1 anything else
`counterpoise COMMAND --help` shows an example of each command
"""


def argument_parser() -> argparse.ArgumentParser:
    """Parser of ``counterpoise`` and its subcommands."""
    parser = argparse.ArgumentParser(
        prog="counterpoise",
        description="Look into datasets, losses and trained models.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the console command.

    Args:
        arguments: without the program's name; None for those of the process.

    Returns:
        exit code: 0 done, 2 bad input. Any other failure raises.
    """
    args = argument_parser().parse_args(arguments)
    silence_known_noise()
    try:
        args.run(args)
        sys.stdout.flush()
    except UserError as error:
        return refuse(error, f"counterpoise {args.command}")
    except BrokenPipeError:
        # The reader, such as head, has seen enough; Python must not write to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
