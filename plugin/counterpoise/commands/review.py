"""``counterpoise review``: labels that a trained model contradicts."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from counterpoise.commands.configs import config_of
from counterpoise.config.preparation import prepare
from counterpoise.datasets import cache_folder, dataset_names, load_dataset, parse_specs
from counterpoise.errors import UserError, did_you_mean
from counterpoise.evaluation.inputs import Detections, parse_detections, parse_ground_truth
from counterpoise.evaluation.stored import TestSet, folder_name
from counterpoise.inference.dataset import detections_on
from counterpoise.inference.evaluation import load_for_evaluation
from counterpoise.reporting import Run
from counterpoise.reporting.review import FOLDER, write_review
from counterpoise.training.checkpoints import numbered_checkpoints
from counterpoise.utils.output_dir import LAST_CHECKPOINT, iteration_checkpoint


def run(args: argparse.Namespace) -> None:
    """Find what to review, print how much it is, and write the files.

    Raises:
        UserError: an argument, the run, its config, its checkpoint or a dataset cannot be used.
    """
    if not 0 < args.min_score <= 1:
        raise UserError(f"--min-score is {args.min_score:g}, expected a number in (0, 1]")
    unread = args.opts or args.config_file or args.imports
    if args.dataset is None and unread:
        given = unread[0]
        raise UserError(f"{given} is not read without --dataset: name a dataset, or leave it out")
    if args.through_training and args.dataset is None:
        raise UserError(
            "--through-training runs the earlier checkpoints over a dataset: name it with --dataset"
        )
    for test_set, earlier in _reviewed(args):
        out = (args.out or args.run_dir / FOLDER) / folder_name(test_set.name)
        written, summary = write_review(test_set, out, args.min_score, args.pictures, earlier)
        print(summary, "\n".join(map(str, written)), sep="\n\n", end="\n\n")


def _reviewed(args: argparse.Namespace) -> Iterator[tuple[TestSet, list[Detections]]]:
    """What the run keeps of its evaluation; the model runs over any other dataset.

    With ``--through-training`` the detections of the run's earlier checkpoints are beside it.
    """
    finished = Run(args.run_dir)
    if args.dataset is None:
        yield from ((finished.test_set(name), []) for name in finished.test_set_names)
        return
    cfg = _prepared(args)
    earlier = _earlier_checkpoints(args.run_dir, cfg) if args.through_training else []
    final, *others = (_detected(cfg, path) for path in (cfg.MODEL.WEIGHTS, *earlier))
    yield final, [test_set.detections for test_set in others]


def _earlier_checkpoints(folder: Path, cfg: CfgNode) -> list[str]:
    """Checkpoints of a run that are named by their iteration, but the one after its last.

    A training that has stopped early wrote that one before ``SOLVER.MAX_ITER``.
    """
    last = {iteration_checkpoint(cfg.SOLVER.MAX_ITER - 1)}
    if (newest := folder / LAST_CHECKPOINT).is_file():
        last.add(newest.read_text().strip())
    found = [str(path) for path in numbered_checkpoints(folder) if path.name not in last]
    if not found:
        raise UserError(
            f"{folder} has no earlier checkpoints for --through-training: train with a shorter "
            "SOLVER.CHECKPOINT_PERIOD, and with a SOLVER.CHECKPOINTS_KEPT that keeps them"
        )
    return found


def _prepared(args: argparse.Namespace) -> CfgNode:
    """Config of the run with ``--dataset`` as the one dataset to detect on."""
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
    return cfg


def _detected(cfg: CfgNode, weights: str) -> TestSet:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = weights
    cfg.freeze()
    (name,) = cfg.DATASETS.VAL
    coco, results = detections_on(cfg, load_for_evaluation(cfg)[0], name)
    truth = parse_ground_truth(coco)
    return TestSet(name, truth, parse_detections(results, coco, truth))
