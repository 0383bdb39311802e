"""``counterpoise review``: labels that a trained model contradicts."""

import argparse
from collections.abc import Iterator
from urllib.parse import quote

from detectron2.data import DatasetCatalog

from counterpoise.commands.configs import config_of
from counterpoise.config.preparation import prepare
from counterpoise.datasets import cache_folder, dataset_names, load_dataset, parse_specs
from counterpoise.errors import UserError, did_you_mean
from counterpoise.evaluation.inputs import parse_detections, parse_ground_truth
from counterpoise.evaluation.stored import TestSet
from counterpoise.inference.dataset import detections_on
from counterpoise.inference.evaluation import load_for_evaluation
from counterpoise.reporting import Run
from counterpoise.reporting.review import write_review


def run(args: argparse.Namespace) -> None:
    """Find what to review, print how much it is, and write the files.

    Raises:
        UserError: an argument, the run, its config, its checkpoint or a dataset cannot be used.
    """
    if not 0 < args.min_score <= 1:
        raise UserError(f"--min-score is {args.min_score:g}, expected a number in (0, 1]")
    for test_set in _test_sets(args):
        # As evaluation.stored names the folders of inference/.
        out = (args.out or args.run_dir / "review") / quote(test_set.name, safe=" ")
        written, summary = write_review(test_set, out, args.min_score, args.pictures)
        print(summary, "\n".join(map(str, written)), sep="\n\n", end="\n\n")


def _test_sets(args: argparse.Namespace) -> Iterator[TestSet]:
    """What the run keeps of its evaluation; the model runs over any other dataset."""
    finished = Run(args.run_dir)
    if args.dataset is None:
        yield from map(finished.test_set, finished.test_set_names)
    else:
        yield _detected(args)


def _detected(args: argparse.Namespace) -> TestSet:
    cfg = config_of(args)
    name = args.dataset
    known = dataset_names(parse_specs(cfg.DATASETS.CUSTOM, cache_folder(cfg.DATASETS.CACHE)))
    if name not in known and name not in DatasetCatalog:
        hint = did_you_mean(name, known or DatasetCatalog.list())
        raise UserError(f"--dataset {name} is no dataset of the config, {hint}")
    # Prepared as the one dataset of the split that thresholds are chosen on.
    cfg.DATASETS.VAL = (name,)
    cfg.BALANCE.SCORE_THRESHOLDS = ""
    classes = prepare(cfg, eval_only=True, splits=("VAL",))
    cfg.freeze()
    own = load_dataset(name)[1]
    if tuple(own) != classes:
        raise UserError(
            f"--dataset {name} has the classes [{', '.join(own)}], but the model was trained on "
            f"[{', '.join(classes)}]: name a dataset with the same list"
        )
    coco, results = detections_on(cfg, load_for_evaluation(cfg)[0], name)
    truth = parse_ground_truth(coco)
    return TestSet(name, truth, parse_detections(results, coco, truth))
