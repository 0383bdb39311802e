"""The config keys of Counterpoise: names, defaults, meaning."""

from detectron2.config import CfgNode, get_cfg


def add_counterpoise_config(cfg: CfgNode) -> None:
    """Add the keys of Counterpoise to a Detectron2 config; no key of Detectron2 is changed."""
    cfg.BALANCE = CfgNode()

    # Classification loss of the box head (MODEL.ROI_HEADS.NAME: BalancedROIHeads).
    cfg.BALANCE.ROI_LOSS = CfgNode()
    # softmax_focal | cross_entropy | sigmoid_focal | a name in ROI_LOSS_REGISTRY.
    cfg.BALANCE.ROI_LOSS.NAME = "softmax_focal"
    # Focusing parameter of the focal loss, >= 0; 0 is cross-entropy (arXiv:1708.02002, eq. 4).
    cfg.BALANCE.ROI_LOSS.GAMMA = 2.0
    # sigmoid_focal: weight of the positives in [0, 1], one number or one per class in class order;
    # [-1] is off (arXiv:1708.02002, eq. 5).
    cfg.BALANCE.ROI_LOSS.ALPHA = [0.25]
    # The summed loss is divided by: weight_sum (summed class weights of the proposals, the
    # convention of F.cross_entropy) | mean (number of proposals; the weights then scale the whole
    # loss) | num_pos (number of foreground proposals) | sum (1).
    cfg.BALANCE.ROI_LOSS.NORMALIZER = "weight_sum"
    # Factor of the classification loss, > 0.
    cfg.BALANCE.ROI_LOSS.LOSS_WEIGHT = 1.0
    # Foreground probability that the classifier starts with, in (0, 1), e.g. 0.25; 0 is off
    # (arXiv:1708.02002, section 3.3, carried over to softmax).
    cfg.BALANCE.ROI_LOSS.PRIOR_PROB = 0.0

    # Classification loss of a one-stage detector (MODEL.META_ARCHITECTURE: BalancedRetinaNet). It
    # is summed and divided by Detectron2's running mean of the number of positive anchors.
    cfg.BALANCE.DENSE_LOSS = CfgNode()
    # sigmoid_focal | cross_entropy (alpha-balanced, without GAMMA) | ohem (cross-entropy, without
    # ALPHA and GAMMA, on the anchors that RATIO and BATCH_SIZE choose) | a name in
    # DENSE_LOSS_REGISTRY.
    cfg.BALANCE.DENSE_LOSS.NAME = "sigmoid_focal"
    # Weight of the positives, in [0, 1]; the negatives weigh 1 - ALPHA. -1 is off. 0.25 is best for
    # GAMMA 2 and 0.75 for cross-entropy (arXiv:1708.02002, tables 1a and 1b). It takes the place
    # of Detectron2's RETINANET.FOCAL_LOSS_ALPHA.
    cfg.BALANCE.DENSE_LOSS.ALPHA = 0.25
    # fixed (ALPHA for every class) | dataset (per class, counted over DATASETS.TRAIN: the ratio
    # alpha / (1 - alpha) of a class is that of ALPHA times its weight by CLASS_WEIGHTS.RULE over
    # the mean weight of all boxes).
    cfg.BALANCE.DENSE_LOSS.ALPHA_SOURCE = "fixed"
    # Focusing parameter of sigmoid_focal, >= 0 (arXiv:1708.02002, eq. 5). It takes the place of
    # Detectron2's RETINANET.FOCAL_LOSS_GAMMA.
    cfg.BALANCE.DENSE_LOSS.GAMMA = 2.0
    # ohem: negatives per positive, > 0 (3 in SSD, arXiv:1512.02325); 0 takes the anchors of
    # highest loss, positive or negative (arXiv:1604.03540), and needs a BATCH_SIZE.
    cfg.BALANCE.DENSE_LOSS.RATIO = 3.0
    # ohem: anchors per image, where there are more positives a random subset; 0 sets no bound.
    cfg.BALANCE.DENSE_LOSS.BATCH_SIZE = 0
    # ohem with a RATIO: negatives for an image without positives, >= 0.
    cfg.BALANCE.DENSE_LOSS.MIN_NEGATIVES = 3
    # ohem: IoU in [0, 1] above which an anchor is a duplicate of one of higher loss and is chosen
    # last (0.5 and 0.7 in arXiv:1708.02002, table 1d); -1 is off.
    cfg.BALANCE.DENSE_LOSS.NMS_THRESH = -1.0

    # Class weights; they apply to every ROI loss.
    cfg.BALANCE.CLASS_WEIGHTS = CfgNode()
    # dataset (counted over DATASETS.TRAIN) | list (VALUES) | batch (the proposals of each step,
    # background counted as a class) | none (all 1).
    cfg.BALANCE.CLASS_WEIGHTS.SOURCE = "dataset"
    # With f a class's share of all boxes and n its boxes: log 1/ln(LOG_OFFSET + f) |
    # inverse 1/f | inv_sqrt 1/sqrt(f) | effective_num (1 - BETA)/(1 - BETA^n) (arXiv:1901.05555)
    # | none 1 | a name in WEIGHT_RULE_REGISTRY.
    cfg.BALANCE.CLASS_WEIGHTS.RULE = "log"
    # Offset of the rule log, > 1; 1.10 bounds the weights to [1.35, 10.5] (ESPNet's constant).
    cfg.BALANCE.CLASS_WEIGHTS.LOG_OFFSET = 1.10
    # Beta of the rule effective_num, in (0, 1).
    cfg.BALANCE.CLASS_WEIGHTS.BETA = 0.999
    # The background's weight from the foreground's: sum_div3 (sum / 3, which is K/3 times their
    # mean) | mean | mean_div3 | one | min | value (BACKGROUND_VALUE) | frequency (the rule at
    # BACKGROUND_FRACTION).
    cfg.BALANCE.CLASS_WEIGHTS.BACKGROUND = "sum_div3"
    # The background's weight for BACKGROUND value, > 0.
    cfg.BALANCE.CLASS_WEIGHTS.BACKGROUND_VALUE = 1.0
    # The background's assumed share of the proposals for BACKGROUND frequency, in (0, 1]; 0.75 is
    # what ROI_HEADS.POSITIVE_FRACTION 0.25 leaves.
    cfg.BALANCE.CLASS_WEIGHTS.BACKGROUND_FRACTION = 0.75
    # none | mean_one (divide the K + 1 weights by their mean).
    cfg.BALANCE.CLASS_WEIGHTS.NORMALIZE = "none"
    # Weights for SOURCE list in class order: K numbers (background by BACKGROUND) or K + 1
    # (background last).
    cfg.BALANCE.CLASS_WEIGHTS.VALUES = []

    # Which anchors train the RPN (MODEL.PROPOSAL_GENERATOR.NAME: BalancedRPN).
    cfg.BALANCE.ANCHOR_SAMPLER = CfgNode()
    # random (Detectron2's: RPN.BATCH_SIZE_PER_IMAGE anchors, RPN.POSITIVE_FRACTION positive) |
    # ohem (all positives and the hardest negatives) | a name in ANCHOR_SAMPLER_REGISTRY.
    cfg.BALANCE.ANCHOR_SAMPLER.NAME = "random"
    # ohem: negatives per positive, > 0 (3 in SSD, arXiv:1512.02325).
    cfg.BALANCE.ANCHOR_SAMPLER.RATIO = 3.0
    # ohem: positives per image, a random subset where there are more; -1 keeps all.
    cfg.BALANCE.ANCHOR_SAMPLER.MAX_POSITIVES = 128
    # ohem: negatives for an image without positives, >= 0.
    cfg.BALANCE.ANCHOR_SAMPLER.MIN_NEGATIVES = 3
    # ohem: IoU in [0, 1] above which a negative is a duplicate of a harder one and is chosen last;
    # -1 is off. Neighbours among an FPN's anchors overlap by 0.6, so 0.5 thins them out and the 0.7
    # that arXiv:1604.03540 has for regions does not.
    cfg.BALANCE.ANCHOR_SAMPLER.NMS_THRESH = -1.0
    # ohem: which negatives of equal logit come first: index (the lowest, which is the top left of
    # the finest level) | random (drawn from torch's generator, so by SEED).
    cfg.BALANCE.ANCHOR_SAMPLER.TIE_BREAK = "index"
    # The RPN losses are divided by: batch (RPN.BATCH_SIZE_PER_IMAGE x images, Detectron2's) |
    # num_sampled (sampled anchors; classification only) | num_pos (sampled positives; both).
    cfg.BALANCE.ANCHOR_SAMPLER.NORMALIZER = "batch"

    # Which proposals train the box head (MODEL.ROI_HEADS.NAME: BalancedROIHeads).
    cfg.BALANCE.ROI_SAMPLER = CfgNode()
    # random (Detectron2's: ROI_HEADS.BATCH_SIZE_PER_IMAGE proposals, ROI_HEADS.POSITIVE_FRACTION
    # positive) | all (every proposal, up to RPN.POST_NMS_TOPK_TRAIN and the ground truth) |
    # ohem (those with the largest losses, arXiv:1604.03540) | a name in ROI_SAMPLER_REGISTRY.
    cfg.BALANCE.ROI_SAMPLER.NAME = "random"
    # ohem: proposals per image, >= 1 (128 for two images in arXiv:1604.03540).
    cfg.BALANCE.ROI_SAMPLER.BUDGET = 64
    # ohem: IoU in [0, 1] above which a proposal is dropped as a duplicate of one with the same
    # label and a larger loss (0.7 in arXiv:1604.03540); -1 is off.
    cfg.BALANCE.ROI_SAMPLER.NMS_THRESH = 0.7

    # File of `counterpoise thresholds` with a score per class, from which on a detection is kept;
    # "" keeps what MODEL.ROI_HEADS.SCORE_THRESH_TEST (or RETINANET.SCORE_THRESH_TEST) lets pass.
    # Evaluation measures AP over all detections nonetheless. The path is relative to the file that
    # names it.
    cfg.BALANCE.SCORE_THRESHOLDS = ""

    # Own datasets, name -> {FORMAT: voc | yolo | coco, IMAGES, ANNOTATIONS, SPLIT_FILE, DATA_YAML,
    # SPLIT, CLASSES, HOLDOUT}; see the README. Paths are relative to the file that names them.
    cfg.DATASETS.CUSTOM = CfgNode(new_allowed=True)
    # Invalid annotations of custom datasets: skip (leave out and report) | refuse (stop).
    cfg.DATASETS.BAD_RECORDS = "skip"

    # Test sets to choose score thresholds on (`counterpoise thresholds`); used for nothing else.
    cfg.DATASETS.VAL = ()

    # torchvision backbones (MODEL.BACKBONE.NAME: build_torchvision_fpn_backbone).
    cfg.MODEL.TORCHVISION = CfgNode()
    # Name of a torchvision classification model.
    cfg.MODEL.TORCHVISION.NAME = "mobilenet_v2"
    # Graph nodes to take features from, one per stride 4, 8, 16, ...; [] finds them.
    cfg.MODEL.TORCHVISION.FEATURES = []
    # Freeze everything up to and including the n-th of these features; 0 freezes nothing.
    cfg.MODEL.TORCHVISION.FREEZE_AT = 0


def training_config() -> CfgNode:
    """Return Detectron2's defaults with the keys of Counterpoise and those of its launcher."""
    cfg = get_cfg()
    add_counterpoise_config(cfg)
    # 0: as many classes as the training set has.
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 0
    cfg.MODEL.RETINANET.NUM_CLASSES = 0
    # Random brightness, contrast and saturation in training, each by a factor in
    # [1 - x, 1 + x], x in [0, 1); 0 is off.
    cfg.INPUT.COLOR_JITTER = 0.0
    # Metric of the first test set by which model_best.pth is chosen when TEST.EVAL_PERIOD > 0:
    # AP | AP50 | AP75 | AP-<class name>.
    cfg.TEST.BEST_METRIC = "AP"
    return cfg
