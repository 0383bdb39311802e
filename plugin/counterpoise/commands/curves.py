"""``counterpoise curves``: pictures of the focal loss."""

import argparse
import itertools

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from counterpoise.balance.losses import check_gamma
from counterpoise.commands.configs import config_of
from counterpoise.config.preparation import prepare
from counterpoise.config.tree import value_at
from counterpoise.datasets.mapper import training_mapper
from counterpoise.errors import UserError
from counterpoise.inference.evaluation import load_for_evaluation
from counterpoise.modeling.architectures import RETINANETS
from counterpoise.pages.curves import draw_cumulative_shares, draw_loss_curves, save
from counterpoise.utils.progress import progress


def run(args: argparse.Namespace) -> None:
    """Draw the curves.

    Raises:
        UserError: a parameter out of its range, or a config or checkpoint that cannot be used.
    """
    for gamma in args.gammas:
        try:
            check_gamma(gamma)
        except ValueError as error:
            raise UserError(f"--gammas has {gamma:g}: {error}") from error
    if wrong := [alpha for alpha in args.alphas if not 0 <= alpha <= 1]:
        raise UserError(f"--alphas has {wrong[0]:g}, expected numbers in [0, 1]")
    if args.images < 1:
        raise UserError(f"--images is {args.images}, expected a number >= 1")
    unread = args.opts or args.imports
    if unread and not args.config_file:
        raise UserError(
            f"{unread[0]} is not read without a model: name its config with --config-file"
        )
    written = save(draw_loss_curves(args.gammas, args.alphas), args.out, "loss")
    if args.config_file:
        cfg = config_of(args)
        prepare(cfg, eval_only=True, splits=("TEST",))
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
    test = cfg.clone()
    test.DATASETS.TRAIN, test.DATALOADER.NUM_WORKERS = test.DATASETS.TEST, 0
    test.BALANCE.CLASS_WEIGHTS.SOURCE = "none"  # they would be counted over the training set
    test.BALANCE.ROI_LOSS.NORMALIZER = "sum"  # else Detectron2 itself computes cross-entropy
    model, _ = load_for_evaluation(test)
    head = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    if not hasattr(head, "cls_loss"):
        one_stage = cfg.MODEL.META_ARCHITECTURE in RETINANETS
        key = "MODEL.META_ARCHITECTURE" if one_stage else "MODEL.ROI_HEADS.NAME"
        raise UserError(
            f"{key} is '{value_at(cfg, key)}', but the curves of a model need BalancedROIHeads or "
            "BalancedRes5ROIHeads: give the config and the checkpoint of such a model"
        )
    collected: list[tuple[Tensor, Tensor]] = []

    def record(_: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        logits, gt_classes, *_ = inputs
        kept = gt_classes >= 0
        collected.append((logits[kept].cpu(), gt_classes[kept].cpu()))

    loader = build_detection_train_loader(test, mapper=training_mapper(test))
    batches = -(-max_images // cfg.SOLVER.IMS_PER_BATCH)
    model.train()
    with torch.no_grad(), EventStorage(), head.cls_loss.register_forward_pre_hook(record):
        for images in progress(itertools.islice(loader, batches), "proposals", "batch", batches):
            model(images)
    return tuple(torch.cat(part) for part in zip(*collected, strict=True))
