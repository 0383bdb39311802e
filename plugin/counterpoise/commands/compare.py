"""``counterpoise compare``: runs side by side, the first one as baseline."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from counterpoise.commands.options import add_command
from counterpoise.comparison import compare, read_runs, score
from counterpoise.comparison.sections import as_page, as_text
from counterpoise.utils.files import write_json, write_whole
from counterpoise.utils.progress import progress

EXAMPLES = """\
counterpoise compare output/bccd/baseline output/bccd/focal_weights_ohem
counterpoise compare output/baseline output/focal output/ohem --test-set mine_test \\
    --out output/compare/mine
"""


def add_parser(commands: Any) -> None:
    """Add ``compare`` to the subcommands."""
    parser = add_command(
        commands,
        "compare",
        "compare trained runs: AP with paired intervals, error types, time, settings",
        "Compare runs with the first one on the same test images: AP and AP50 per "
        "class and group with 95 % intervals by paired bootstrap, error types, false positives "
        "at matched recall, time, and settings that differ. Writes compare.json and compare.html.",
        EXAMPLES,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN",
        help="OUTPUT_DIR of a run that has evaluated; the first one is the baseline",
    )  # fmt: skip
    parser.add_argument(
        "--test-set", metavar="NAME",
        help="to compare on, where the runs have several in common",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("output/compare"), metavar="DIR",
        help="for compare.json and compare.html (default output/compare)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the JSON instead of the tables")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Compare, print and write.

    Raises:
        UserError: the runs cannot be read or compared.
    """
    test_set, runs = read_runs(args.runs, args.test_set)
    scores = score(runs, track=lambda steps: progress(steps, "resampling", "class"))
    comparison = compare(test_set, runs, scores)
    content = dataclasses.asdict(comparison)
    written = [
        write_json(args.out / "compare.json", content),
        write_whole(args.out / "compare.html", as_page(comparison, scores)),
    ]
    if args.json:
        print(json.dumps(content, indent=2, allow_nan=False))
    else:
        print(as_text(comparison), "\n".join(map(str, written)), sep="\n\n")
