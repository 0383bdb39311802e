"""``counterpoise predict``: detections in images, drawn and as COCO JSON."""

import argparse
import json
import sys
from typing import Any

from counterpoise.commands.configs import config_of
from counterpoise.config.preparation import prepare
from counterpoise.errors import UserError
from counterpoise.inference.evaluation import load_for_evaluation
from counterpoise.inference.prediction import Predictions, as_coco, find_images, predict, save_drawn
from counterpoise.utils.files import write_json
from counterpoise.utils.table import Table


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
    readable: list[Predictions] = []
    unreadable: list[str] = []
    for each in predict(cfg, model, images, min_score):
        if each.error:
            unreadable.append(f"{each.image.path}: {each.error}")
            print(f"warning: left out {unreadable[-1]}", file=sys.stderr)
            continue
        readable.append(each)
        if not args.no_images:
            save_drawn(each, class_names, args.out / "images")
    if not readable:
        raise UserError(
            f"none of the {len(images)} images could be read, the first: {unreadable[0]}"
        )
    coco = as_coco(readable, class_names)
    path = write_json(args.out / "predictions.json", coco)
    if args.json:
        print(json.dumps(coco))
        return
    print(summary(coco))
    written = str(path) if args.no_images else f"{path} and {args.out / 'images'}"
    print(f"\n{len(readable)} images, {len(coco['annotations'])} detections: {written}")


def summary(coco: dict[str, list[dict[str, Any]]]) -> str:
    """Count detections and images by class, as a table for the terminal."""
    rows = []
    for category in coco["categories"]:
        own = [a for a in coco["annotations"] if a["category_id"] == category["id"]]
        rows.append((category["name"], len(own), len({a["image_id"] for a in own})))
    return Table(("class", "detections", "images"), rows).as_text()
