"""``counterpoise export``: a trained model as one file that runs without Detectron2."""

import argparse
import shlex

from counterpoise.commands.configs import beside_checkpoint, config_of
from counterpoise.config.preparation import prepare
from counterpoise.export.describing import describe, detection_graph
from counterpoise.export.writing import FORMATS, write_model
from counterpoise.inference.evaluation import load_for_evaluation
from counterpoise.utils.table import Table
from counterpoise.utils.text import number


def run(args: argparse.Namespace) -> None:
    """Export a model and say what its file holds.

    Raises:
        UserError: an argument, the config or the checkpoint cannot be used, or the model is of a
            kind that cannot be exported.
    """
    if args.thresholds is not None:
        args.opts = [*args.opts, "BALANCE.SCORE_THRESHOLDS", str(args.thresholds)]
    cfg = config_of(args)
    cfg.MODEL.DEVICE = "cpu"  # the file runs on any device
    class_names = prepare(cfg, eval_only=True, splits=())
    cfg.freeze()
    model, _ = load_for_evaluation(cfg, all_detections=False)
    graph = detection_graph(model, cfg)
    description = describe(cfg, class_names, graph)
    path = args.out or beside_checkpoint(cfg, FORMATS[args.format][0])
    write_model(graph, description, args.format, path)
    scores = (number(score, 3) for score in description.score_thresholds)
    rows = list(zip(class_names, scores, strict=True))
    print(Table(("class", "score at least"), rows).as_text())
    print(f"\n{description.architecture}, {path.stat().st_size / 1e6:.1f} MB: {path}")
    if args.format == "onnx":
        print(f"counterpoise predict IMAGES --model {shlex.quote(str(path))}")
