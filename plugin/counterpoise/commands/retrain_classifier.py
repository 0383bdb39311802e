"""``counterpoise retrain-classifier``: the last layer of a finished run, trained again."""

import argparse
from pathlib import Path

from detectron2.config import CfgNode

from counterpoise.commands import train
from counterpoise.commands.configs import config_of
from counterpoise.config.keys import training_config
from counterpoise.config.unread_keys import unread_sections
from counterpoise.errors import UserError
from counterpoise.utils.output_dir import CONFIG, FINAL_CHECKPOINT

#: Part of the run's iterations that the classifier is trained for (arXiv:1910.09217 takes 10 to 30
#: epochs after 90 to 200).
SHARE = 10


def run(args: argparse.Namespace) -> None:
    """Train the classifier of a finished run in another folder.

    Raises:
        UserError: the run is not finished, `--out` is its folder, or as for a training.
    """
    source = args.run_dir
    out = args.out or source.absolute().with_name(f"{source.absolute().name}_classifier")
    if out.resolve() == source.resolve():
        raise UserError(f"--out {out} is the folder of --run: give another one")
    # The training imports what is to be imported, once.
    of_run = argparse.Namespace(config_file=args.config_file, opts=[], imports=[], run_dir=source)
    cfg = config_of(of_run)
    training = {
        "config_file": [str(source / CONFIG), *args.config_file],
        "opts": [*_overrides(cfg, source, out), *_balance(cfg, args.balance), *args.opts],
        "eval_only": False,
        "force": False,
        "dist_url": "auto",
    } | dict.fromkeys(("num_gpus", "num_processes", "num_machines", "machine_rank"))
    train.run(argparse.Namespace(**(vars(args) | training)))


def _balance(cfg: CfgNode, balance: str) -> list[str]:
    """Keys of one way to balance the classes, which turn the other one off."""
    weighted = "CLASS_WEIGHTS" not in unread_sections(cfg)
    if balance == "weights" and not weighted:
        raise UserError(
            "--balance is 'weights', but no loss of this model reads BALANCE.CLASS_WEIGHTS: give "
            "--balance images"
        )
    sampler = "class_aware" if balance == "images" else "none"
    keys = ["BALANCE.IMAGE_SAMPLER.NAME", sampler, "DATALOADER.SAMPLER_TRAIN", "TrainingSampler"]
    keys += ["DATALOADER.REPEAT_THRESHOLD", "0.0"]
    # What another sampler of the run has set would be read by none.
    default = training_config().BALANCE.IMAGE_SAMPLER
    for key in ("THRESHOLD", "EXPONENT"):
        keys += [f"BALANCE.IMAGE_SAMPLER.{key}", str(default[key])]
    if balance == "weights":
        keys += ["BALANCE.CLASS_WEIGHTS.SOURCE", "dataset"]
        keys += ["BALANCE.CLASS_WEIGHTS.RULE", "inv_sqrt"]
        keys += ["BALANCE.CLASS_WEIGHTS.BACKGROUND", "mean"]
    elif weighted and cfg.BALANCE.DENSE_LOSS.ALPHA_SOURCE == "fixed":
        keys += ["BALANCE.CLASS_WEIGHTS.SOURCE", "none"]
    return keys


def _overrides(cfg: CfgNode, source: Path, out: Path) -> list[str]:
    """Keys of the second stage: the same schedule in a tenth of the iterations."""
    solver = cfg.SOLVER
    steps = tuple(sorted({step // SHARE for step in solver.STEPS} - {0}))
    period = max(cfg.TEST.EVAL_PERIOD // SHARE, 1) if cfg.TEST.EVAL_PERIOD else 0
    return [
        "MODEL.WEIGHTS", str(source / FINAL_CHECKPOINT),
        "OUTPUT_DIR", str(out),
        "SOLVER.TRAINABLE", "classifier",
        "SOLVER.EPOCHS", "0.0",
        "SOLVER.MAX_ITER", str(max(solver.MAX_ITER // SHARE, 1)),
        "SOLVER.STEPS", str(steps),
        "SOLVER.WARMUP_ITERS", str(solver.WARMUP_ITERS // SHARE),
        "TEST.PRECISE_BN.ENABLED", "False",
        "TEST.EVAL_PERIOD", str(period),
        # What was chosen for the scores of the run does not fit those of another classifier.
        "BALANCE.SCORE_THRESHOLDS", "",
        "BALANCE.CALIBRATION.NAME", "none",
        "BALANCE.CALIBRATION.EXPONENT", "0.0",
    ]  # fmt: skip
