"""``counterpoise report``: the page of a run."""

import argparse

from counterpoise.reporting import write_report


def run(args: argparse.Namespace) -> None:
    """Write the page.

    Raises:
        UserError: the run has not evaluated, or a file of it is broken.
    """
    print(write_report(args.run_dir, args.out))
