"""What values the keys of Detectron2 allow, which it does not check itself.

A value outside ends in an assertion deep in a run, or in a run that learns nothing.
"""

from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
)
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY

from counterpoise.config.declaration import Choices, Interval, Numbers

ABOVE_0 = Interval(0, open_low=True)
FROM_0 = Interval(0)
FROM_1 = Interval(1)
SHARE = Interval(0, 1)
SHARE_ABOVE_0 = Interval(0, 1, open_low=True)
ANY = Interval(float("-inf"))
BOX_LOSSES = Choices(("smooth_l1", "giou", "diou", "ciou"))
POOLERS = Choices(("ROIAlignV2", "ROIAlign", "ROIPool"))
#: Of ``detectron2.layers.get_norm``; "" for none.
NORMS = Choices(
    ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN")
)
#: numpy's generator takes 32 bits; each process of a run has a seed of its own.
SEEDS = Interval(0, 2**32 - 2**16, special=(-1, "is left to chance"))

#: Names without a registry stand in Detectron2's code.
DETECTRON2_KEYS: dict[str, Choices | Interval | Numbers] = {
    "SEED": SEEDS,
    "VIS_PERIOD": FROM_0,
    "DATALOADER.NUM_WORKERS": FROM_0,
    "DATALOADER.REPEAT_THRESHOLD": FROM_0,
    "DATALOADER.SAMPLER_TRAIN": Choices(
        (
            "TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler",
            "WeightedTrainingSampler", "WeightedCategoryTrainingSampler",
        )
    ),
    "INPUT.CROP.SIZE": Numbers(ABOVE_0, length=2),
    "INPUT.CROP.TYPE": Choices(("relative_range", "relative", "absolute", "absolute_range")),
    "INPUT.FORMAT": Choices(("BGR", "RGB")),
    "INPUT.MASK_FORMAT": Choices(("polygon", "bitmask")),
    "INPUT.MAX_SIZE_TEST": FROM_1,
    "INPUT.MAX_SIZE_TRAIN": FROM_1,
    "INPUT.MIN_SIZE_TEST": Interval(1, special=(0, "keeps the size of the image")),
    "INPUT.MIN_SIZE_TRAIN": Numbers(FROM_1),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": Choices(("range", "choice")),
    "INPUT.RANDOM_FLIP": Choices(("horizontal", "vertical", "none")),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": Numbers(ABOVE_0, depth=2),
    "MODEL.ANCHOR_GENERATOR.NAME": Choices(ANCHOR_GENERATOR_REGISTRY),
    "MODEL.ANCHOR_GENERATOR.OFFSET": Interval(0, 1, open_high=True),
    "MODEL.ANCHOR_GENERATOR.SIZES": Numbers(ABOVE_0, depth=2),
    "MODEL.BACKBONE.FREEZE_AT": FROM_0,
    "MODEL.BACKBONE.NAME": Choices(BACKBONE_REGISTRY),
    "MODEL.FPN.FUSE_TYPE": Choices(("sum", "avg")),
    "MODEL.FPN.NORM": NORMS,
    "MODEL.FPN.OUT_CHANNELS": FROM_1,
    "MODEL.META_ARCHITECTURE": Choices(META_ARCH_REGISTRY),
    "MODEL.PIXEL_MEAN": Numbers(ANY, length=3),
    "MODEL.PIXEL_STD": Numbers(ABOVE_0, length=3),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": FROM_0,
    "MODEL.PROPOSAL_GENERATOR.NAME": Choices(PROPOSAL_GENERATOR_REGISTRY),
    "MODEL.RESNETS.DEPTH": Choices((18, 34, 50, 101, 152)),
    "MODEL.RESNETS.NORM": NORMS,
    "MODEL.RESNETS.NUM_GROUPS": FROM_1,
    "MODEL.RESNETS.WIDTH_PER_GROUP": FROM_1,
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": Numbers(ABOVE_0, length=4),
    "MODEL.RETINANET.IOU_THRESHOLDS": Numbers(SHARE_ABOVE_0, ascending=True),
    "MODEL.RETINANET.NMS_THRESH_TEST": SHARE,
    "MODEL.RETINANET.NORM": NORMS,
    "MODEL.RETINANET.NUM_CONVS": FROM_1,
    "MODEL.RETINANET.PRIOR_PROB": Interval(0, 1, open_low=True, open_high=True),
    "MODEL.RETINANET.SCORE_THRESH_TEST": SHARE,
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": FROM_0,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": FROM_1,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": FROM_0,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": Numbers(ABOVE_0, length=4),
    "MODEL.ROI_BOX_HEAD.CONV_DIM": FROM_1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": FROM_1,
    "MODEL.ROI_BOX_HEAD.NORM": NORMS,
    "MODEL.ROI_BOX_HEAD.NUM_CONV": FROM_0,
    "MODEL.ROI_BOX_HEAD.NUM_FC": FROM_0,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": FROM_1,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": FROM_0,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": POOLERS,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": FROM_0,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": FROM_1,
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": Numbers(SHARE_ABOVE_0, ascending=True),
    "MODEL.ROI_HEADS.NAME": Choices(ROI_HEADS_REGISTRY),
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": SHARE,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": SHARE,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": SHARE,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": FROM_1,
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": FROM_0,
    "MODEL.RPN.BBOX_REG_WEIGHTS": Numbers(ABOVE_0, length=4),
    "MODEL.RPN.BOUNDARY_THRESH": Interval(0, special=(-1, "is off")),
    "MODEL.RPN.CONV_DIMS": Numbers(Interval(1, special=(-1, "keeps the channels"))),
    "MODEL.RPN.HEAD_NAME": Choices(RPN_HEAD_REGISTRY),
    "MODEL.RPN.IOU_THRESHOLDS": Numbers(SHARE_ABOVE_0, ascending=True),
    "MODEL.RPN.LOSS_WEIGHT": FROM_0,
    "MODEL.RPN.NMS_THRESH": SHARE,
    "MODEL.RPN.POSITIVE_FRACTION": SHARE,
    "MODEL.RPN.POST_NMS_TOPK_TEST": FROM_1,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": FROM_1,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": FROM_1,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": FROM_1,
    "MODEL.RPN.SMOOTH_L1_BETA": FROM_0,
    "SOLVER.BASE_LR": ABOVE_0,
    "SOLVER.BASE_LR_END": FROM_0,
    "SOLVER.BIAS_LR_FACTOR": ABOVE_0,
    "SOLVER.CHECKPOINT_PERIOD": FROM_1,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": Choices(("value", "norm")),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": ABOVE_0,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": Interval(0, float("inf"), open_low=True),
    "SOLVER.GAMMA": SHARE,
    "SOLVER.IMS_PER_BATCH": FROM_1,
    # Detectron2's WarmupStepWithFixedGammaLR fails in the last iteration.
    "SOLVER.LR_SCHEDULER_NAME": Choices(("WarmupMultiStepLR", "WarmupCosineLR")),
    "SOLVER.MAX_ITER": FROM_1,
    "SOLVER.MOMENTUM": Interval(0, 1, open_high=True),
    "SOLVER.REFERENCE_WORLD_SIZE": FROM_0,
    "SOLVER.STEPS": Numbers(FROM_0, empty=True, ascending=True),
    "SOLVER.WARMUP_FACTOR": SHARE,
    "SOLVER.WARMUP_ITERS": FROM_0,
    "SOLVER.WARMUP_METHOD": Choices(("linear", "constant")),
    "SOLVER.WEIGHT_DECAY": FROM_0,
    "SOLVER.WEIGHT_DECAY_NORM": FROM_0,
    "TEST.AUG.MAX_SIZE": FROM_1,
    "TEST.AUG.MIN_SIZES": Numbers(FROM_1, empty=True),
    "TEST.DETECTIONS_PER_IMAGE": FROM_1,
    "TEST.EVAL_PERIOD": Interval(1, special=(0, "evaluates at the end only")),
    "TEST.PRECISE_BN.NUM_ITER": FROM_1,
}  # fmt: skip
