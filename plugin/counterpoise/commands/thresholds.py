"""``counterpoise thresholds``: a score threshold per class, chosen on validation images."""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean

from counterpoise.commands.configs import beside_checkpoint, config_of, config_of_training
from counterpoise.config.preparation import prepare
from counterpoise.config.validation import check_config
from counterpoise.errors import UserError
from counterpoise.inference.threshold_choice import (
    ChosenThreshold,
    choose,
    detect,
)
from counterpoise.inference.validation_data import NOTHING_FOUND, split_overlaps
from counterpoise.modeling.architectures import default_score_threshold
from counterpoise.modeling.score_thresholds import (
    FILE_NAME,
    Checkpoint,
    ScoreThresholds,
    calibration_of,
)
from counterpoise.utils.table import Table
from counterpoise.utils.text import number

#: First word of a criterion -> what becomes of a class for which no threshold fulfils it.
OUT_OF_REACH = {
    "maximal": "* is not found here: takes the one threshold that is best for all classes",
    "precision": "* does not reach it: takes its own threshold of maximal F1, or where it is not "
    "found the one that is best for all classes",
    "recall": "* does not reach it: keeps all detections, or where it has no boxes here takes the "
    "one threshold that is best for all classes",
}


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
    cfg.BALANCE.SCORE_THRESHOLDS = ""  # those of an earlier choice
    prepare(cfg, eval_only=True, splits=("VAL",))
    path = args.out or beside_checkpoint(cfg, FILE_NAME)
    applied = cfg.clone()
    applied.BALANCE.SCORE_THRESHOLDS = str(path)
    check_config(applied)  # refuses a model that could not apply what is chosen for it
    cfg.freeze()
    warnings = split_overlaps(cfg, trained=config_of_training(args))
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    checkpoint = Checkpoint.of(cfg.MODEL.WEIGHTS)
    matches, names = detect(cfg)
    if not any(own.true_positives[0].any() for own in matches):
        warnings.append(NOTHING_FOUND)
        print(f"warning: {NOTHING_FOUND}", file=sys.stderr)
    criterion = "maximal F1"
    if args.precision is not None:
        criterion = f"precision of at least {args.precision:g}"
    elif args.recall is not None:
        criterion = f"recall of at least {args.recall:g}"
    chosen = choose(matches, names, args.precision, args.recall, default_score_threshold(cfg))
    thresholds = ScoreThresholds(
        class_names=tuple(c.name for c in chosen),
        scores=tuple(c.point.threshold for c in chosen),
        criterion=criterion,
        dataset=", ".join(cfg.DATASETS.VAL),
        checkpoint=checkpoint,
        calibration=calibration_of(cfg),
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
            c.name, c.boxes, number(c.point.threshold, 3) + ("" if c.reached else " *"),
            *(number(v) for v in (c.point.precision, c.point.recall, c.point.F1, c.F1_common)),
        )
        for c in chosen
    ]  # fmt: skip
    known = [c for c in chosen if c.boxes]
    means = [fmean(c.point.F1 for c in known), fmean(c.F1_common for c in known)]
    rows.append(("mean of classes", "", "", "", "", *map(number, means)))
    headers = (
        "class", "boxes", "threshold", "precision", "recall", "F1", "F1 at one common threshold",
    )  # fmt: skip
    note = ""
    if not all(c.reached for c in chosen):
        note = OUT_OF_REACH[criterion.split()[0]]
    title = f"Thresholds of {criterion} on {dataset}, IoU 0.50"
    return Table(headers, rows, title, note, totals=1).as_text()
