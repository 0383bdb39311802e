"""``counterpoise thresholds``: a score threshold per class, chosen on validation images."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader
from tabulate import tabulate

from counterpoise.commands.options import (
    add_command,
    add_config_arguments,
    add_run_argument,
    config_of,
)
from counterpoise.engine import CheckedMapper, load_for_evaluation
from counterpoise.errors import UserError
from counterpoise.evaluation.inputs import parse_detections, parse_ground_truth
from counterpoise.evaluation.matching import ClassMatches, match
from counterpoise.evaluation.operating_points import (
    OperatingPoint,
    at_threshold,
    best_common_threshold,
    best_f1_threshold,
    precision_threshold,
    recall_threshold,
)
from counterpoise.evaluator import PerClassEvaluator
from counterpoise.inference import infer
from counterpoise.preparation import prepare
from counterpoise.score_thresholds import ScoreThresholds

EXAMPLES = """\
counterpoise thresholds --run output/aquarium
counterpoise thresholds --run output/aquarium --recall 0.9 --out high_recall.json
then, in any config or on any command line:
BALANCE.SCORE_THRESHOLDS output/aquarium/thresholds.json
"""


@dataclass(frozen=True)
class ChosenThreshold:
    """The threshold of one class and what it gives on the images that it was chosen on.

    Attributes:
        name: of the class.
        boxes: of the class in these images.
        reached: whether the class has a threshold that does what was asked; where it has not, the
            threshold is the config's ``SCORE_THRESH_TEST``.
        point: precision, recall and F1 there.
        F1_common: F1 at the one threshold that is best for all classes together, 0-100.
    """

    name: str
    boxes: int
    reached: bool
    point: OperatingPoint
    F1_common: float | None


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
            "such as DATASETS.VAL \"('mine_val',)\""
        )
    prepare(cfg, eval_only=True, splits=("VAL",))
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
    chosen = choose(matches, names, args.precision, args.recall, _default_threshold(cfg))
    thresholds = ScoreThresholds(
        class_names=tuple(c.name for c in chosen),
        scores=tuple(c.point.threshold for c in chosen),
        criterion=criterion,
        dataset=", ".join(cfg.DATASETS.VAL),
    )
    path = args.out or Path(cfg.MODEL.WEIGHTS).with_name("thresholds.json")
    thresholds.write(path)
    if args.json:
        content = {"file": str(path), "criterion": criterion, "dataset": thresholds.dataset}
        content |= {"warnings": warnings, "per_class": [asdict(c) for c in chosen]}
        print(json.dumps(content, indent=2))
    else:
        print(table(chosen, criterion, thresholds.dataset))
        print(f"\nWritten to {path}; use it with BALANCE.SCORE_THRESHOLDS {path}")


def detect(cfg: CfgNode) -> tuple[tuple[ClassMatches, ...], tuple[str, ...]]:
    """Run the model over ``DATASETS.VAL`` and match what it finds.

    Returns:
        matches and names of the classes.

    Raises:
        UserError: the checkpoint or a dataset cannot be used, or there is no box.
    """
    model, _ = load_for_evaluation(cfg)
    truth: dict[str, list[dict]] = {"images": [], "annotations": []}
    results = []
    for name in cfg.DATASETS.VAL:
        evaluator = PerClassEvaluator(name)
        loader = build_detection_test_loader(cfg, name, mapper=CheckedMapper(cfg, is_train=False))
        for inputs, outputs in infer(model, loader, len(evaluator.ground_truth["images"]), name):
            evaluator.process(inputs, outputs)
        coco = evaluator.ground_truth
        # Two datasets may number their images alike.
        truth["images"] += _numbered(coco["images"], "id", name)
        truth["annotations"] += _numbered(coco["annotations"], "image_id", name)
        results += _numbered(evaluator.detections, "image_id", name)
        truth["categories"] = coco["categories"]
    parsed = parse_ground_truth(truth)
    if parsed.ignored.all():
        raise UserError(
            f"DATASETS.VAL {', '.join(cfg.DATASETS.VAL)} has no box of the classes "
            f"[{', '.join(parsed.class_names)}], so no threshold can be chosen on it"
        )
    return match(parsed, parse_detections(results, truth, parsed)), parsed.class_names


def choose(
    matches: Sequence[ClassMatches],
    names: Sequence[str],
    precision: float | None,
    recall: float | None,
    default: float,
) -> list[ChosenThreshold]:
    """Choose the threshold of every class.

    Args:
        matches, names: of the classes.
        precision: at least this with the largest recall, or None.
        recall: at least this with the highest threshold, or None; without both, maximal F1.
        default: threshold of a class that has none of this kind.
    """
    common = best_common_threshold(matches)
    chosen = []
    for own, name in zip(matches, names, strict=True):
        if precision is not None:
            threshold = precision_threshold(own, precision)
        elif recall is not None:
            threshold = recall_threshold(own, recall)
        else:
            threshold = best_f1_threshold(own)
        point = at_threshold(own, default if threshold is None else threshold)
        shared = at_threshold(own, common).F1
        chosen.append(ChosenThreshold(name, own.num_gt, threshold is not None, point, shared))
    return chosen


def table(chosen: Sequence[ChosenThreshold], criterion: str, dataset: str) -> str:
    """Write the thresholds as a table for the terminal."""
    rows = [
        (
            c.name, c.boxes, f"{c.point.threshold:.3f}" + ("" if c.reached else " *"),
            *(_number(v) for v in (c.point.precision, c.point.recall, c.point.F1, c.F1_common)),
        )
        for c in chosen
    ]  # fmt: skip
    known = [c for c in chosen if c.boxes]
    means = [np.mean([c.point.F1 for c in known]), np.mean([c.F1_common for c in known])]
    rows.append(("mean of classes", "", "", "", "", *(_number(float(m)) for m in means)))
    headers = (
        "class", "boxes", "threshold", "precision", "recall", "F1", "F1 at one common threshold",
    )  # fmt: skip
    text = f"Thresholds of {criterion} on {dataset}, IoU 0.50\n"
    text += tabulate(
        rows, headers, tablefmt="simple", disable_numparse=True,
        colalign=("left", *["right"] * 6),
    )  # fmt: skip
    if not all(c.reached for c in chosen):
        text += "\n* has no threshold of that kind here, so it keeps the config's SCORE_THRESH_TEST"
    return text


def overlaps(cfg: CfgNode) -> list[str]:
    """Say which images of ``DATASETS.VAL`` must not be there; a split that is not here is left out.

    Args:
        cfg: prepared with the split VAL.
    """
    own = {record["file_name"] for name in cfg.DATASETS.VAL for record in DatasetCatalog.get(name)}
    said = []
    for split, consequence in (
        ("TEST", "thresholds chosen on test images make the test's precision and recall too good"),
        ("TRAIN", "the model has learned from these images, so its scores there are too high"),
    ):
        other = set()
        for name in cfg.DATASETS[split]:
            if name in DatasetCatalog:
                try:
                    other |= {record["file_name"] for record in DatasetCatalog.get(name)}
                except (UserError, OSError):
                    continue
        if shared := len(own & other):
            said.append(
                f"{shared} of {len(own)} images of DATASETS.VAL are in DATASETS.{split} too: "
                f"{consequence}"
            )
    return said


def _numbered(records: Sequence[dict], key: str, dataset: str) -> list[dict]:
    return [{**record, key: f"{dataset}/{record[key]}"} for record in records]


def _default_threshold(cfg: CfgNode) -> float:
    retinanet = "RetinaNet" in cfg.MODEL.META_ARCHITECTURE
    node = cfg.MODEL.RETINANET if retinanet else cfg.MODEL.ROI_HEADS
    return float(node.SCORE_THRESH_TEST)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
