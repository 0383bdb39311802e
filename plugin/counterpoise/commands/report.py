"""``counterpoise report``: the page of a run."""

import argparse
from pathlib import Path
from typing import Any

from counterpoise.commands.options import add_command
from counterpoise.reporting import write_report

EXAMPLES = """\
counterpoise report output/bccd
"""


def add_parser(commands: Any) -> None:
    """Add ``report`` to the subcommands."""
    parser = add_command(
        commands,
        "report",
        "build the page of a run again",
        "Build the page that a training ends with, from the files of its OUTPUT_DIR: "
        "results per class, curves, errors with pictures, losses and config.",
        EXAMPLES,
    )
    parser.add_argument(
        "run_dir", type=Path, metavar="RUN", help="OUTPUT_DIR of a run that has evaluated"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="page to write (default RUN/report.html)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write the page.

    Raises:
        UserError: the run has not evaluated, or a file of it is broken.
    """
    print(write_report(args.run_dir, args.out))
