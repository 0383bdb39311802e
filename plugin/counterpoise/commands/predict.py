"""``counterpoise predict``: detections in images, drawn and as COCO JSON."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from counterpoise.commands.options import (
    add_command,
    add_config_arguments,
    add_run_argument,
    config_of,
)
from counterpoise.config.preparation import prepare
from counterpoise.errors import UserError
from counterpoise.inference.evaluation import load_for_evaluation
from counterpoise.inference.prediction import Predictions, as_coco, find_images, predict, save_drawn
from counterpoise.utils.files import write_json
from counterpoise.utils.table import Table

EXAMPLES = """\
counterpoise predict photos/ --run output/bccd --thresholds output/bccd/thresholds.json
counterpoise predict a.jpg b.jpg --config-file my.yaml --opts MODEL.WEIGHTS model_final.pth
"""


def add_parser(commands: Any) -> None:
    """Add ``predict`` to the subcommands."""
    parser = add_command(
        commands,
        "predict",
        "detect objects in images or folders",
        "Detect objects in images; write the images with boxes drawn and "
        "predictions.json, a COCO dataset whose annotations have a score.",
        EXAMPLES,
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER")
    add_run_argument(parser)
    parser.add_argument(
        "--thresholds", type=Path, metavar="FILE", help="of `counterpoise thresholds`"
    )
    parser.add_argument(
        "--min-score", type=float, metavar="S",
        help="leave out detections below this score (default 0.5, or 0 with --thresholds)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("output/predictions"), metavar="DIR")
    parser.add_argument("--no-images", action="store_true", help="write predictions.json only")
    parser.add_argument("--json", action="store_true", help="print the JSON instead of a summary")
    add_config_arguments(parser, opts=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Predict and write the results.

    Raises:
        UserError: an argument, the config, the checkpoint or all images cannot be used.
    """
    if args.min_score is not None and not 0 <= args.min_score <= 1:
        raise UserError(f"--min-score is {args.min_score:g}, expected a number in [0, 1]")
    images = find_images(args.images)
    if args.thresholds is not None:
        args.opts = [*args.opts, "BALANCE.SCORE_THRESHOLDS", str(args.thresholds)]
    cfg = config_of(args)
    class_names = prepare(cfg, eval_only=True, splits=())
    cfg.freeze()
    model, _ = load_for_evaluation(cfg, all_detections=False)
    min_score = args.min_score
    if min_score is None:
        min_score = 0.0 if cfg.BALANCE.SCORE_THRESHOLDS else 0.5
    whole: list[Predictions] = []
    faults: list[str] = []
    for each in predict(cfg, model, images, min_score):
        if each.fault:
            faults.append(f"{each.image.path}: {each.fault}")
            print(f"warning: left out {faults[-1]}", file=sys.stderr)
            continue
        whole.append(each)
        if not args.no_images:
            save_drawn(each, class_names, args.out / "images")
    if not whole:
        raise UserError(f"none of the {len(images)} images could be read, the first {faults[0]}")
    coco = as_coco(whole, class_names)
    path = write_json(args.out / "predictions.json", coco)
    if args.json:
        print(json.dumps(coco))
        return
    print(summary(coco))
    places = str(path) if args.no_images else f"{path} and {args.out / 'images'}"
    print(f"\n{len(whole)} images, {len(coco['annotations'])} detections: {places}")


def summary(coco: dict[str, list[dict[str, Any]]]) -> str:
    """Count detections and images by class, as a table for the terminal."""
    rows = []
    for category in coco["categories"]:
        own = [a for a in coco["annotations"] if a["category_id"] == category["id"]]
        rows.append((category["name"], len(own), len({a["image_id"] for a in own})))
    return Table(("class", "detections", "images"), rows).as_text()
