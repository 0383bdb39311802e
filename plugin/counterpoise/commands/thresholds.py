"""``counterpoise thresholds``: a score threshold per class, chosen on validation images."""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from counterpoise.commands.options import (
    add_command,
    add_config_arguments,
    add_run_argument,
    config_of,
)
from counterpoise.config.preparation import prepare
from counterpoise.config.validation import check_config
from counterpoise.errors import UserError
from counterpoise.inference.threshold_choice import (
    ChosenThreshold,
    choose,
    default_threshold,
    detect,
    overlaps,
)
from counterpoise.modeling.score_thresholds import ScoreThresholds
from counterpoise.utils.table import Table
from counterpoise.utils.text import number

EXAMPLES = """\
counterpoise thresholds --run output/aquarium
counterpoise thresholds --run output/aquarium --recall 0.9 --out high_recall.json
counterpoise predict photos/ --run output/aquarium --thresholds high_recall.json
"""


def add_parser(commands: Any) -> None:
    """Add ``thresholds`` to the subcommands."""
    parser = add_command(
        commands,
        "thresholds",
        "choose a score threshold per class on DATASETS.VAL",
        "Choose a score threshold per class on DATASETS.VAL and write a file for "
        "BALANCE.SCORE_THRESHOLDS. Scores of a focal loss are not calibrated, and those of rare "
        "classes least of all, so one threshold for all classes suits none.",
        EXAMPLES,
    )
    add_run_argument(parser)
    aims = parser.add_mutually_exclusive_group()
    aims.add_argument(
        "--precision", type=float, metavar="P",
        help="the largest recall with at least this precision, in (0, 1]; without --precision and "
        "--recall the threshold of maximal F1",
    )  # fmt: skip
    aims.add_argument(
        "--recall", type=float, metavar="R",
        help="the highest threshold with at least this recall, in (0, 1]",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help="file to write (default: thresholds.json beside the checkpoint)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_config_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Choose thresholds and write them.

    Raises:
        UserError: an argument, the config, the checkpoint or the data do not allow it.
    """
    for flag in ("precision", "recall"):
        value = getattr(args, flag)
        if value is not None and not 0 < value <= 1:
            raise UserError(f"--{flag} is {value:g}, expected a number in (0, 1]")
    cfg = config_of(args)
    if not cfg.DATASETS.VAL:
        raise UserError(
            "DATASETS.VAL is empty: name a dataset whose images the model has not learned from, "
            "such as DATASETS.VAL mine_val"
        )
    prepare(cfg, eval_only=True, splits=("VAL",))
    path = args.out or Path(cfg.MODEL.WEIGHTS).with_name("thresholds.json")
    applied = cfg.clone()
    applied.BALANCE.SCORE_THRESHOLDS = str(path)
    check_config(applied)  # refuses a model that could not apply what is chosen for it
    cfg.freeze()
    warnings = overlaps(cfg)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    matches, names = detect(cfg)
    criterion = "maximal F1"
    if args.precision is not None:
        criterion = f"precision of at least {args.precision:g}"
    elif args.recall is not None:
        criterion = f"recall of at least {args.recall:g}"
    chosen = choose(matches, names, args.precision, args.recall, default_threshold(cfg))
    thresholds = ScoreThresholds(
        class_names=tuple(c.name for c in chosen),
        scores=tuple(c.point.threshold for c in chosen),
        criterion=criterion,
        dataset=", ".join(cfg.DATASETS.VAL),
    )
    thresholds.write(path)
    if args.json:
        content = {"file": str(path), "criterion": criterion, "dataset": thresholds.dataset}
        content |= {"warnings": warnings, "per_class": [asdict(c) for c in chosen]}
        print(json.dumps(content, indent=2))
    else:
        print(table(chosen, criterion, thresholds.dataset))
        print(f"\nWritten to {path}; use it with BALANCE.SCORE_THRESHOLDS {shlex.quote(str(path))}")


def table(chosen: Sequence[ChosenThreshold], criterion: str, dataset: str) -> str:
    """Write the thresholds as a table for the terminal."""
    rows = [
        (
            c.name, c.boxes, f"{c.point.threshold:.3f}" + ("" if c.reached else " *"),
            *(number(v) for v in (c.point.precision, c.point.recall, c.point.F1, c.F1_common)),
        )
        for c in chosen
    ]  # fmt: skip
    known = [c for c in chosen if c.boxes]
    means = [np.mean([c.point.F1 for c in known]), np.mean([c.F1_common for c in known])]
    rows.append(("mean of classes", "", "", "", "", *(number(float(m)) for m in means)))
    headers = (
        "class", "boxes", "threshold", "precision", "recall", "F1", "F1 at one common threshold",
    )  # fmt: skip
    note = ""
    if not all(c.reached for c in chosen):
        note = "* has no threshold of that kind here, so it keeps the config's SCORE_THRESH_TEST"
    title = f"Thresholds of {criterion} on {dataset}, IoU 0.50"
    return Table(headers, rows, title, note, totals=1).as_text()
