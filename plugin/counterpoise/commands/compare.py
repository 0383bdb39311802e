"""``counterpoise compare``: runs side by side, the first one as baseline."""

import argparse
import dataclasses
import json

from counterpoise.comparison import compare, read_runs, score, sides_of, sides_over_seeds
from counterpoise.comparison.sections import as_page, as_text
from counterpoise.utils.files import write_atomically, write_json
from counterpoise.utils.progress import progress
from counterpoise.utils.text import printable


def run(args: argparse.Namespace) -> None:
    """Compare, print and write.

    Raises:
        UserError: the runs cannot be read or compared.
    """
    test_set, runs = read_runs(args.runs, args.test_set)
    scored = score(runs, track=lambda steps: progress(steps, "resampling", "class"))
    sides = sides_over_seeds(scored) if args.over_seeds else sides_of(scored)
    comparison = compare(test_set, sides)
    content = dataclasses.asdict(comparison)
    written = [
        write_json(args.out / "compare.json", content),
        write_atomically(args.out / "compare.html", as_page(comparison, sides)),
    ]
    if args.json:
        print(json.dumps(content, indent=2, allow_nan=False))
    else:
        print(printable("\n".join([as_text(comparison), "", *map(str, written)])))
