"""``counterpoise curves``: pictures of the focal loss."""

import argparse
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.utils.events import EventStorage
from torch import Tensor
from tqdm import tqdm

from counterpoise.commands.options import add_command, add_config_arguments, config_of
from counterpoise.config.preparation import prepare
from counterpoise.errors import UserError
from counterpoise.inference.evaluation import load_for_evaluation
from counterpoise.modeling.roi_loss import ClassificationLoss
from counterpoise.pages.curves import (
    GAMMAS,
    draw_cumulative_shares,
    draw_loss_curves,
    save,
)

EXAMPLES = """\
counterpoise curves --out output/curves
counterpoise curves --config-file configs/quick/focal.yaml \\
    --config-file configs/datasets/bccd.yaml MODEL.WEIGHTS output/bccd/model_final.pth
"""


def add_parser(commands: Any) -> None:
    """Add ``curves`` to the subcommands."""
    parser = add_command(
        commands,
        "curves",
        "draw the focal loss, and how a trained model's loss is spread",
        "Draw loss and gradient against p_t; with a config and MODEL.WEIGHTS also the "
        "share of the loss that the easiest foreground and background proposals cause.",
        EXAMPLES,
    )
    parser.add_argument("--gammas", type=float, nargs="+", default=GAMMAS, metavar="G")
    parser.add_argument("--alphas", type=float, nargs="*", default=(0.25, 0.75), metavar="A")
    parser.add_argument("--out", type=Path, default=Path("output/curves"), metavar="DIR")
    parser.add_argument("--images", type=int, default=50, help="of the test set (default 50)")
    add_config_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Draw the curves.

    Raises:
        UserError: a parameter out of its range, or a config or checkpoint that cannot be used.
    """
    if wrong := [gamma for gamma in args.gammas if not 0 <= gamma < float("inf")]:
        raise UserError(f"--gammas has {wrong[0]:g}, expected numbers >= 0")
    if wrong := [alpha for alpha in args.alphas if not 0 <= alpha <= 1]:
        raise UserError(f"--alphas has {wrong[0]:g}, expected numbers in [0, 1]")
    if args.images < 1:
        raise UserError(f"--images is {args.images}, expected a number >= 1")
    written = save(draw_loss_curves(args.gammas, args.alphas), args.out, "loss")
    if args.config_file:
        cfg = config_of(args)
        prepare(cfg, eval_only=True)
        logits, gt_classes = collect_proposals(cfg, args.images)
        figure = draw_cumulative_shares(logits, gt_classes, args.gammas)
        written += save(figure, args.out, "cumulative_loss")
    for path in written:
        print(path)


def collect_proposals(cfg: CfgNode, max_images: int) -> tuple[Tensor, Tensor]:
    """Run a trained model on test images and sample proposals as training does.

    Args:
        cfg: prepared for evaluation, with ``MODEL.WEIGHTS``.
        max_images: number of images to look at.

    Returns:
        logits (N, K + 1) and classes (N,) of the sampled proposals.

    Raises:
        UserError: the checkpoint does not fit, or the model has no Counterpoise box head.
    """
    model, _ = load_for_evaluation(cfg)
    head = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    if not hasattr(head, "cls_loss"):
        raise UserError(
            f"MODEL.ROI_HEADS.NAME is '{cfg.MODEL.ROI_HEADS.NAME}', but the curves of a model need "
            "BalancedROIHeads or BalancedRes5ROIHeads"
        )
    collected: list[tuple[Tensor, Tensor]] = []

    def record(logits: Tensor, gt_classes: Tensor) -> Tensor:
        kept = gt_classes >= 0
        collected.append((logits[kept].cpu(), gt_classes[kept].cpu()))
        return logits.new_zeros(len(logits))

    # Without class weights, which would be counted over the training set.
    head.cls_loss = ClassificationLoss(record)
    test = cfg.clone()
    test.DATASETS.TRAIN, test.DATALOADER.NUM_WORKERS = test.DATASETS.TEST, 0
    loader = DefaultTrainer.build_train_loader(test)
    model.train()
    batches = -(-max_images // cfg.SOLVER.IMS_PER_BATCH)
    with torch.no_grad(), EventStorage():
        steps = tqdm(range(batches), desc="proposals", unit="batch")
        for _, images in zip(steps, loader, strict=False):
            model(images)
    return tuple(torch.cat(part) for part in zip(*collected, strict=True))
