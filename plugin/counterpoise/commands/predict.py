"""``counterpoise predict``: detections in images, drawn and as COCO JSON."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from counterpoise.errors import UserError
from counterpoise.runtime.images import InputImage, find_images
from counterpoise.runtime.onnx_model import OnnxDetector
from counterpoise.runtime.results import Predictions, as_coco, save_drawn
from counterpoise.utils.files import write_json
from counterpoise.utils.table import Table
from counterpoise.utils.text import counted, printable


def run(args: argparse.Namespace) -> None:
    """Predict and write the results.

    Raises:
        UserError: an argument, the config, the checkpoint or all images cannot be used.
    """
    if args.min_score is not None and not 0 <= args.min_score <= 1:
        raise UserError(f"--min-score is {args.min_score:g}, expected a number in [0, 1]")
    folder = args.out / "images"
    images = find_images(args.images)
    if not args.no_images:
        _check_folder(folder, images)
    detect = _of_file if args.model is not None else _of_checkpoint
    class_names, found = detect(args, images)
    readable: list[Predictions] = []
    unreadable: list[str] = []
    drawn: set[Path] = set()
    for each in found:
        if each.error:
            path = printable(str(each.image.path), lines=False)
            unreadable.append(f"{path}: {each.error}")
            print(printable(f"warning: left out {unreadable[-1]}"), file=sys.stderr)
            continue
        readable.append(each)
        if not args.no_images:
            drawn.add(save_drawn(each, class_names, folder))
    if not readable:
        raise UserError(
            f"none of the {len(images)} images could be read, the first: {unreadable[0]}"
        )
    if older := sum(p not in drawn for p in folder.rglob("*.jpg")):
        said = (
            f"warning: {folder} also holds {counted(older, 'drawn image')} of an earlier "
            "prediction, of which predictions.json says nothing"
        )
        print(printable(said), file=sys.stderr)
    coco = as_coco(readable, class_names)
    path = write_json(args.out / "predictions.json", coco)
    if args.json:
        print(json.dumps(coco))
        return
    print(summary(coco))
    written = str(path) if args.no_images else f"{path} and {folder}"
    counts = f"{counted(len(readable), 'image')}, {counted(len(coco['annotations']), 'detection')}"
    print(printable(f"\n{counts}: {written}"))


def _check_folder(folder: Path, images: Sequence[InputImage]) -> None:
    """Refuse to draw where images to look at are, which would be replaced."""
    own = folder.resolve()
    inside = next((i.path for i in images if own in i.path.resolve().parents), None)
    if inside is not None:
        raise UserError(
            f"{printable(str(inside), lines=False)} is in {folder}, where drawn images are "
            "written: choose another --out, or add --no-images"
        )


def _of_checkpoint(
    args: argparse.Namespace, images: Sequence[InputImage]
) -> tuple[Sequence[str], Iterable[Predictions]]:
    """Class names and predictions of a trained model."""
    # Detectron2 and PyTorch, which an exported model does without.
    from counterpoise.commands.configs import config_of
    from counterpoise.config.preparation import prepare
    from counterpoise.inference.evaluation import load_for_evaluation
    from counterpoise.inference.prediction import predict
    from counterpoise.modeling.architectures import default_score_threshold
    from counterpoise.modeling.score_thresholds import ScoreThresholds

    if args.thresholds is not None:
        args.opts = [*args.opts, "BALANCE.SCORE_THRESHOLDS", str(args.thresholds)]
    cfg = config_of(args)
    class_names = prepare(cfg, eval_only=True, splits=())
    cfg.freeze()
    model, _ = load_for_evaluation(cfg, all_detections=False)
    chosen = cfg.BALANCE.SCORE_THRESHOLDS
    kept_from = default_score_threshold(cfg)
    if chosen:
        kept_from = min(ScoreThresholds.read(Path(chosen)).scores)
    min_score = _min_score(args, bool(chosen), kept_from)
    return class_names, predict(cfg, model, images, min_score)


def _of_file(
    args: argparse.Namespace, images: Sequence[InputImage]
) -> tuple[Sequence[str], Iterable[Predictions]]:
    """Class names and predictions of an exported model."""
    given = {"--run": args.run_dir, "--config-file": args.config_file, "--opts": args.opts}
    given |= {"--thresholds": args.thresholds, "--import": args.imports}
    for flag, value in given.items():
        if value:
            raise UserError(
                f"--model {args.model} holds its own classes, thresholds and preparation of "
                f"images, so it does not go with {flag}: leave one of them out"
            )
    detector = OnnxDetector(args.model)
    about = detector.description
    min_score = _min_score(args, bool(about.thresholds_from), min(about.score_thresholds))
    return about.class_names, detector.predict(images, min_score)


def _min_score(args: argparse.Namespace, thresholds_chosen: bool, kept_from: float) -> float:
    """Lowest score to write, of detections that the model keeps from a score of `kept_from` on."""
    if args.min_score is not None:
        if args.min_score < kept_from:
            print(
                f"warning: --min-score is {args.min_score:g}, but the model itself keeps no "
                f"detection below {kept_from:.3g}: its thresholds, or its SCORE_THRESH_TEST where "
                "none were chosen, would have to be lower",
                file=sys.stderr,
            )
        return args.min_score
    return 0.0 if thresholds_chosen else 0.5


def summary(coco: dict[str, list[dict[str, Any]]]) -> str:
    """Count detections and images by class, as a table for the terminal."""
    images: dict[int, list[int]] = {category["id"]: [] for category in coco["categories"]}
    for annotation in coco["annotations"]:
        images[annotation["category_id"]].append(annotation["image_id"])
    rows = [
        (category["name"], len(images[category["id"]]), len({*images[category["id"]]}))
        for category in coco["categories"]
    ]
    return Table(("class", "detections", "images"), rows).as_text()
