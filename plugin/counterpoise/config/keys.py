"""The config keys of Counterpoise, each declared once; here those of models and datasets.

The config, its checks (:mod:`counterpoise.config.validation`) and ``docs/config.md`` are made from
these declarations.
"""

import copy

from detectron2.config import CfgNode, get_cfg

from counterpoise.balance.calibration import METHODS
from counterpoise.balance.class_weights import BACKGROUNDS, NORMALIZES
from counterpoise.balance.sampling import TIE_BREAKS
from counterpoise.config.declaration import Choices, Interval, Key, ReadBy, Section, declared
from counterpoise.config.launcher_keys import LAUNCHER_SECTIONS
from counterpoise.datasets.cache import AUTO
from counterpoise.datasets.registration import BAD_RECORDS
from counterpoise.modeling import (
    cosine_classifier,
    dense_loss,
    roi_loss,
    rpn,
    rpn_loss,
    weight_sources,
)
from counterpoise.modeling.registry import (
    ANCHOR_SAMPLER_REGISTRY,
    DENSE_LOSS_REGISTRY,
    ROI_LOSS_REGISTRY,
    ROI_SAMPLER_REGISTRY,
    WEIGHT_RULE_REGISTRY,
)

GAMMA = Interval(0)
IOU = Interval(0, 1, special=(-1, "is off"))

#: Of the losses that weigh by gradients, in the box head and in one-stage detectors.
GRADIENT_KEYS = (
    Key(
        "EQL_GAMMA",
        12.0,
        "`eqlv2`: steepness of the weights over the ratio of gradients.",
        Interval(0, open_low=True),
        "arXiv:2012.08548",
        read_by=ReadBy("NAME", ("eqlv2",)),
    ),
    Key(
        "EQL_MU",
        0.8,
        "`eqlv2`: ratio of the gradients of positives to those of negatives at which a "
        "class's negatives weigh 1/2.",
        Interval(0),
        "arXiv:2012.08548",
        read_by=ReadBy("NAME", ("eqlv2",)),
    ),
    Key(
        "EQL_ALPHA",
        4.0,
        "`eqlv2`: the positives of a class weigh up to 1 + `EQL_ALPHA`.",
        Interval(0),
        "arXiv:2012.08548",
        read_by=ReadBy("NAME", ("eqlv2",)),
    ),
    Key(
        "GHM_BINS",
        30,
        "`ghmc`: bins of the gradient norm.",
        Interval(1),
        "arXiv:1811.05181",
        read_by=ReadBy("NAME", ("ghmc",)),
    ),
    Key(
        "GHM_MOMENTUM",
        0.75,
        "`ghmc`: share of what a bin held before a step in what it holds after.",
        Interval(0, 1, open_high=True),
        "arXiv:1811.05181",
        read_by=ReadBy("NAME", ("ghmc",)),
    ),
)

SECTIONS = (
    Section(
        "BALANCE.ROI_LOSS",
        "Classification loss of the box head (`MODEL.ROI_HEADS.NAME: BalancedROIHeads`, "
        "`BalancedRes5ROIHeads` or `BalancedCascadeROIHeads`).",
        (
            Key(
                "NAME",
                "softmax_focal",
                "The loss. Of a softmax: `cross_entropy`, `softmax_focal`, `logit_adjusted`, "
                "`seesaw` and `equilibrium`. Of a sigmoid per class: `sigmoid_focal`, `eqlv2` and "
                "`ghmc`. `docs/method.md` says what each does.",
                Choices(ROI_LOSS_REGISTRY),
            ),
            Key(
                "GAMMA",
                2.0,
                "Focusing parameter of the focal losses; 0 is cross-entropy.",
                GAMMA,
                "arXiv:1708.02002, eq. 4",
                read_by=ReadBy("NAME", ("softmax_focal", "sigmoid_focal")),
            ),
            Key(
                "ALPHA",
                [0.25],
                "`sigmoid_focal`: weight of the positives, one number or one per class in class "
                "order.",
                Interval(0, 1, special=(-1, "is off")),
                "arXiv:1708.02002, eq. 5",
                read_by=ReadBy("NAME", ("sigmoid_focal",)),
            ),
            Key(
                "NORMALIZER",
                "weight_sum",
                "The summed loss is divided by: `weight_sum` the summed class weights of the "
                "proposals, the convention of `F.cross_entropy`; `mean` their number, so that the "
                "weights scale the whole loss; `num_pos` the number of foreground proposals; `sum` "
                "1.",
                Choices(roi_loss.NORMALIZERS),
            ),
            Key(
                "LOSS_WEIGHT",
                1.0,
                "Factor of the classification loss.",
                Interval(0, open_low=True),
            ),
            Key(
                "PRIOR_PROB",
                0.0,
                "Foreground probability that the classifier starts with, such as 0.25.",
                Interval(0, 1, open_low=True, open_high=True, special=(0, "is off")),
                "arXiv:1708.02002, section 3.3, carried over to softmax",
            ),
            Key(
                "TAU",
                1.0,
                "`logit_adjusted`: exponent of the prior of the classes; 0 is cross-entropy.",
                Interval(0),
                "arXiv:2007.07314",
                read_by=ReadBy("NAME", ("logit_adjusted",)),
            ),
            Key(
                "SEESAW_P",
                0.8,
                "`seesaw`: exponent of the ratio of class counts, by which a frequent class pushes "
                "rare ones down less.",
                Interval(0),
                "arXiv:2008.10032",
                read_by=ReadBy("NAME", ("seesaw",)),
            ),
            Key(
                "SEESAW_Q",
                2.0,
                "`seesaw`: exponent of the ratio of scores, by which a class that is taken for "
                "another is pushed down nonetheless.",
                Interval(0),
                "arXiv:2008.10032",
                read_by=ReadBy("NAME", ("seesaw",)),
            ),
            Key(
                "SCORE_MOMENTUM",
                0.99,
                "`equilibrium`: share of the mean score of a class before a step in that after it.",
                Interval(0, 1, open_high=True),
                read_by=ReadBy("NAME", ("equilibrium",)),
            ),
            *GRADIENT_KEYS,
        ),
    ),
    Section(
        "BALANCE.DENSE_LOSS",
        "Classification loss of a one-stage detector (`MODEL.META_ARCHITECTURE: "
        "BalancedRetinaNet`). It is summed and divided by Detectron2's running mean of the number "
        "of positive anchors.",
        (
            Key(
                "NAME",
                "sigmoid_focal",
                "The loss: `cross_entropy` is alpha-balanced, without `GAMMA`; `ohem` is "
                "cross-entropy, without `ALPHA` and `GAMMA`, on the anchors that `RATIO` and "
                "`BATCH_SIZE` choose; `eqlv2` and `ghmc` weigh by gradients, without `ALPHA` and "
                "`GAMMA`.",
                Choices(DENSE_LOSS_REGISTRY),
            ),
            Key(
                "ALPHA",
                0.25,
                "Weight of the positives; the negatives weigh 1 - `ALPHA`. 0.25 is best for "
                "`GAMMA` 2 and 0.75 for cross-entropy. It replaces Detectron2's "
                "`MODEL.RETINANET.FOCAL_LOSS_ALPHA`.",
                Interval(0, 1, special=(-1, "is off")),
                "arXiv:1708.02002, tables 1a and 1b",
                read_by=ReadBy("NAME", dense_loss.WITH_ALPHA),
            ),
            Key(
                "ALPHA_SOURCE",
                "fixed",
                "`fixed`: `ALPHA` for every class. `dataset`: per class, counted over "
                "`DATASETS.TRAIN`; the ratio alpha / (1 - alpha) of a class is that of `ALPHA` "
                "times the class's weight by `CLASS_WEIGHTS.RULE` over the mean weight of all "
                "boxes.",
                Choices(dense_loss.ALPHA_SOURCES),
            ),
            Key(
                "GAMMA",
                2.0,
                "Focusing parameter of `sigmoid_focal`. It replaces Detectron2's "
                "`MODEL.RETINANET.FOCAL_LOSS_GAMMA`.",
                GAMMA,
                "arXiv:1708.02002, eq. 5",
                read_by=ReadBy("NAME", ("sigmoid_focal",)),
            ),
            Key(
                "RATIO",
                3.0,
                "`ohem`: negatives per positive, 3 in SSD. With 0 the anchors of highest loss are "
                "chosen, positive or negative (arXiv:1604.03540), which needs a `BATCH_SIZE`.",
                Interval(0, open_low=True, special=(0, "chooses by BATCH_SIZE alone")),
                "arXiv:1512.02325",
                read_by=ReadBy("NAME", ("ohem",)),
            ),
            Key(
                "BATCH_SIZE",
                0,
                "`ohem`: anchors per image; where there are more positives, a random subset. 0 "
                "sets no bound.",
                Interval(0),
                read_by=ReadBy("NAME", ("ohem",)),
            ),
            Key(
                "MIN_NEGATIVES",
                3,
                "`ohem` with a `RATIO`: negatives for an image without positives.",
                Interval(0),
                read_by=ReadBy("NAME", ("ohem",)),
            ),
            Key(
                "NMS_THRESH",
                -1.0,
                "`ohem`: IoU above which an anchor is a duplicate of one with a higher loss and is "
                "chosen last; 0.5 and 0.7 in the source.",
                IOU,
                "arXiv:1708.02002, table 1d",
                read_by=ReadBy("NAME", ("ohem",)),
            ),
            *GRADIENT_KEYS,
        ),
    ),
    Section(
        "BALANCE.CLASS_WEIGHTS",
        "Class weights; they apply to every ROI loss.",
        (
            Key(
                "SOURCE",
                "dataset",
                "`dataset`: counted over `DATASETS.TRAIN`. `list`: `VALUES`. `batch`: the "
                "proposals of each step, background counted as a class. `none`: all 1.",
                Choices(weight_sources.SOURCES),
            ),
            Key(
                "RULE",
                "log",
                "The weight of a class with the share f of all boxes and n boxes: `log` "
                "1 / ln(`LOG_OFFSET` + f); `inverse` 1 / f; `inv_sqrt` 1 / sqrt(f); "
                "`effective_num` (1 - `BETA`) / (1 - `BETA`^n); `none` 1.",
                Choices(WEIGHT_RULE_REGISTRY),
                "`log`: arXiv:1606.02147, section 5.2; `effective_num`: arXiv:1901.05555, eq. 2",
                read_by=ReadBy("SOURCE", ("dataset", "batch")),
            ),
            Key(
                "LOG_OFFSET",
                1.10,
                "Offset of the rule `log`; 1.10, ESPNet's constant, bounds the weights to "
                "[1.35, 10.5].",
                Interval(1, open_low=True),
                read_by=ReadBy("RULE", ("log",)),
            ),
            Key(
                "BETA",
                0.999,
                "Beta of the rule `effective_num`.",
                Interval(0, 1, open_low=True, open_high=True),
                "arXiv:1901.05555, eq. 2",
                read_by=ReadBy("RULE", ("effective_num",)),
            ),
            Key(
                "BACKGROUND",
                "sum_div3",
                "The background's weight from those of the K classes: `sum_div3` their sum / 3, "
                "which is K / 3 times their mean; `mean`; `mean_div3` their mean / 3; `one` 1; "
                "`min`; `value` `BACKGROUND_VALUE`; `frequency` the rule at "
                "`BACKGROUND_FRACTION`.",
                Choices(BACKGROUNDS),
                read_by=ReadBy("SOURCE", ("dataset", "list")),
            ),
            Key(
                "BACKGROUND_VALUE",
                1.0,
                "The background's weight for `BACKGROUND` `value`.",
                Interval(0, open_low=True),
                read_by=ReadBy("BACKGROUND", ("value",)),
            ),
            Key(
                "BACKGROUND_FRACTION",
                0.75,
                "The background's assumed share of the proposals for `BACKGROUND` `frequency`; "
                "0.75 is what `MODEL.ROI_HEADS.POSITIVE_FRACTION` 0.25 leaves.",
                Interval(0, 1, open_low=True),
                read_by=ReadBy("BACKGROUND", ("frequency",)),
            ),
            Key(
                "NORMALIZE",
                "none",
                "`mean_one` divides the K + 1 weights by their mean.",
                Choices(NORMALIZES),
                read_by=ReadBy("SOURCE", ("dataset", "list", "batch")),
            ),
            Key(
                "VALUES",
                [],
                "Weights for `SOURCE` `list` in class order: K numbers (the background follows "
                "`BACKGROUND`) or K + 1 (background last).",
                Interval(0),
                read_by=ReadBy("SOURCE", ("list",)),
            ),
        ),
    ),
    Section(
        "BALANCE.CLASSIFIER",
        "Last layer of the box head's classification (the heads of `BALANCE.ROI_LOSS`).",
        (
            Key(
                "NAME",
                "linear",
                "`linear` is Detectron2's. `cosine`: `SCALE` times the cosine between features and "
                "the weights of a class, without bias.",
                Choices(cosine_classifier.CLASSIFIERS),
                "`cosine`: arXiv:1804.09458",
            ),
            Key(
                "SCALE",
                20.0,
                "`cosine`: largest logit.",
                Interval(0, open_low=True),
                read_by=ReadBy("NAME", ("cosine",), refused=True),
            ),
        ),
    ),
    Section(
        "BALANCE.PISA",
        "Prime sample attention: the proposals that regress best onto their object weigh most (the "
        "heads of `BALANCE.ROI_LOSS`). It multiplies any `BALANCE.ROI_LOSS`.",
        (
            Key(
                "ENABLED",
                False,
                "Weigh the foreground by importance (ISR-P); the summed loss stays what it is.",
                source="arXiv:1904.04821",
            ),
            Key(
                "POWER",
                2.0,
                "Power of the importance, which falls linearly with the rank of a proposal's IoU.",
                Interval(0),
                "arXiv:1904.04821",
                read_by=ReadBy("ENABLED", (True,), refused=True),
            ),
            Key(
                "BIAS",
                0.0,
                "Least importance, before the power.",
                Interval(0, 1, open_high=True),
                "arXiv:1904.04821",
                read_by=ReadBy("ENABLED", (True,), refused=True),
            ),
            Key(
                "CARL",
                False,
                "With `ENABLED`, add the classification-aware regression loss `loss_carl`: box "
                "losses weighted by the score, which learns from them.",
                source="arXiv:1904.04821",
                read_by=ReadBy("ENABLED", (True,), refused=True),
            ),
            Key(
                "CARL_POWER",
                1.0,
                "Power of the factors of CARL.",
                Interval(0),
                read_by=ReadBy("CARL", (True,), refused=True),
            ),
            Key(
                "CARL_BIAS",
                0.2,
                "Factor of a score of 0 in CARL, before the power.",
                Interval(0, 1, open_high=True),
                read_by=ReadBy("CARL", (True,), refused=True),
            ),
        ),
    ),
    Section(
        "BALANCE.RPN_LOSS",
        "Classification loss of the RPN (`MODEL.PROPOSAL_GENERATOR.NAME: BalancedRPN`). "
        "`BALANCE.ANCHOR_SAMPLER.NORMALIZER` says by what it is divided. The focal loss is made "
        "for all anchors (`BALANCE.ANCHOR_SAMPLER.NAME` `all`), the divisor `num_pos` and a "
        "`PRIOR_PROB` of 0.01; on few anchors, divided by `batch` as in Detectron2, it is many "
        "times smaller than cross-entropy.",
        (
            Key(
                "NAME",
                "cross_entropy",
                "`cross_entropy` is Detectron2's. `focal`: sigmoid focal loss.",
                Choices(rpn_loss.NAMES),
                "`focal`: arXiv:1708.02002, eq. 5",
            ),
            Key(
                "GAMMA",
                2.0,
                "`focal`: focusing parameter; 0 is cross-entropy.",
                GAMMA,
                read_by=ReadBy("NAME", ("focal",)),
            ),
            Key(
                "PRIOR_PROB",
                0.0,
                "Objectness that all anchors start with, such as 0.01.",
                Interval(0, 1, open_low=True, open_high=True, special=(0, "is off")),
                "arXiv:1708.02002, section 3.3",
            ),
            Key(
                "ALPHA",
                0.25,
                "`focal`: weight of the positives; the negatives weigh 1 - `ALPHA`.",
                Interval(0, 1, special=(-1, "is off")),
                read_by=ReadBy("NAME", ("focal",)),
            ),
        ),
    ),
    Section(
        "BALANCE.ANCHOR_SAMPLER",
        "Which anchors train the RPN (`MODEL.PROPOSAL_GENERATOR.NAME: BalancedRPN`).",
        (
            Key(
                "NAME",
                "random",
                "`random` is Detectron2's: `MODEL.RPN.BATCH_SIZE_PER_IMAGE` anchors, "
                "`MODEL.RPN.POSITIVE_FRACTION` of them positive. `ohem`: all positives and the "
                "hardest negatives. `all`: every anchor that has a label.",
                Choices(ANCHOR_SAMPLER_REGISTRY),
            ),
            Key(
                "RATIO",
                3.0,
                "`ohem`: negatives per positive, 3 in SSD.",
                Interval(0, open_low=True),
                "arXiv:1512.02325",
                read_by=ReadBy("NAME", ("ohem",)),
            ),
            Key(
                "MAX_POSITIVES",
                128,
                "`ohem`: positives per image; where there are more, a random subset.",
                Interval(1, special=(-1, "keeps all")),
                read_by=ReadBy("NAME", ("ohem",)),
            ),
            Key(
                "MIN_NEGATIVES",
                3,
                "`ohem`: negatives for an image without positives.",
                Interval(0),
                read_by=ReadBy("NAME", ("ohem",)),
            ),
            Key(
                "NMS_THRESH",
                -1.0,
                "`ohem`: IoU above which a negative is a duplicate of a harder one and is chosen "
                "last. Neighbours among an FPN's anchors overlap by 0.6, so 0.5 thins them out and "
                "the 0.7 that arXiv:1604.03540 has for regions does not.",
                IOU,
                read_by=ReadBy("NAME", ("ohem",)),
            ),
            Key(
                "TIE_BREAK",
                "index",
                "`ohem`: which negatives of equal logit come first. `index`: the lowest, which is "
                "the top left of the finest level. `random`: drawn from torch's generator, so by "
                "`SEED`.",
                Choices(TIE_BREAKS),
                read_by=ReadBy("NAME", ("ohem",)),
            ),
            Key(
                "NEG_POS_UB",
                -1.0,
                "`random`: negatives per positive at most, for an image without positives per one; "
                "with 1 the sample is 1:1 also where positives are few, while Detectron2 fills up "
                "with negatives.",
                Interval(0, open_low=True, special=(-1, "is off")),
                "MMDetection's `neg_pos_ub`",
                read_by=ReadBy("NAME", ("random",)),
            ),
            Key(
                "RANDOM_FRACTION",
                0.0,
                "`ohem`: share of the negatives that is drawn at random among those that are not "
                "the hardest.",
                Interval(0, 1),
                read_by=ReadBy("NAME", ("ohem",)),
            ),
            Key(
                "NORMALIZER",
                "auto",
                "The RPN losses are divided by: `batch` `MODEL.RPN.BATCH_SIZE_PER_IMAGE` times the "
                "images, as in Detectron2; `num_sampled` the sampled anchors (classification "
                "only); `num_pos` the sampled positives (both losses); `auto` `num_sampled` for "
                "`ohem`, whose few samples `batch` would starve, and `batch` for all others.",
                Choices(("auto", *rpn.NORMALIZERS)),
            ),
        ),
    ),
    Section(
        "BALANCE.ROI_SAMPLER",
        "Which proposals train the box head (the heads of `BALANCE.ROI_LOSS`).",
        (
            Key(
                "NAME",
                "random",
                "`random` is Detectron2's: `MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE` proposals, "
                "`MODEL.ROI_HEADS.POSITIVE_FRACTION` of them positive. `all`: every proposal, up "
                "to `MODEL.RPN.POST_NMS_TOPK_TRAIN` and the ground truth. `ohem`: those with the "
                "largest losses.",
                Choices(ROI_SAMPLER_REGISTRY),
                "`ohem`: arXiv:1604.03540",
            ),
            Key(
                "BUDGET",
                64,
                "`ohem`: proposals per image; 128 for two images in the source.",
                Interval(1),
                "arXiv:1604.03540",
                read_by=ReadBy("NAME", ("ohem",)),
            ),
            Key(
                "NMS_THRESH",
                0.7,
                "`ohem`: IoU above which a proposal is dropped as a duplicate of one with the same "
                "label and a larger loss.",
                IOU,
                "arXiv:1604.03540",
                read_by=ReadBy("NAME", ("ohem",)),
            ),
        ),
    ),
    Section(
        "BALANCE.CALIBRATION",
        "Scores of a trained model, adjusted by the class counts of its training set (the heads of "
        "`BALANCE.ROI_LOSS`). It acts wherever the model detects, and never on its training.",
        (
            Key(
                "NAME",
                "none",
                "`norcal`: the exponential of a class's logit is divided by its number of training "
                "boxes, in units of their geometric mean, to the power of `EXPONENT`. "
                "`logit_adjustment`: `EXPONENT` times the logarithm of the class's share of the "
                "boxes is subtracted from its logit. The background's logit stays.",
                Choices(("none", *METHODS)),
                "arXiv:2107.02170; arXiv:2007.07314, eq. 9",
            ),
            Key(
                "EXPONENT",
                0.0,
                "How strongly; 0 changes nothing. `counterpoise calibrate` chooses it on "
                "`DATASETS.VAL`.",
                Interval(0),
                "arXiv:2107.02170",
                read_by=ReadBy("NAME", METHODS, refused=True),
            ),
        ),
    ),
    Section(
        "BALANCE",
        "Thresholds of a trained model.",
        (
            Key(
                "SCORE_THRESHOLDS",
                "",
                "File of `counterpoise thresholds` with the score per class at and above which a "
                "detection is kept, relative to the file that names it; empty keeps what "
                "`SCORE_THRESH_TEST` of `MODEL.ROI_HEADS` or `MODEL.RETINANET` lets pass. "
                "Evaluation measures AP over all detections nonetheless.",
            ),
        ),
    ),
    Section(
        "DATASETS",
        "Datasets, beside Detectron2's keys of this node.",
        (
            Key(
                "CUSTOM",
                CfgNode(new_allowed=True),
                "Your own datasets: name to `FORMAT` (`voc`, `yolo` or `coco`), `IMAGES`, "
                "`ANNOTATIONS`, `SPLIT_FILE`, `DATA_YAML`, `SPLIT`, `CLASSES`, `HOLDOUT`, "
                "`HOLDOUT_TEST`, `OUTSIDE_FILES`; see the README. Paths are relative to the file "
                "that names them.",
            ),
            Key(
                "BAD_RECORDS",
                "skip",
                "Invalid annotations of custom datasets: `skip` leaves them out and reports them, "
                "`refuse` stops.",
                Choices(BAD_RECORDS),
            ),
            Key(
                "CACHE",
                AUTO,
                "Folder in which what was read of custom datasets is kept until one of their files "
                "changes, relative to the file that names it; `auto` is `counterpoise` in the "
                "user's folder for caches (`$XDG_CACHE_HOME`, else `~/.cache`), `none` reads them "
                "at every start.",
            ),
            Key(
                "VAL",
                (),
                "Datasets to choose score thresholds (`counterpoise thresholds`) and "
                "`BALANCE.CALIBRATION.EXPONENT` (`counterpoise calibrate`) on; used for nothing "
                "else.",
            ),
        ),
    ),
    Section(
        "MODEL.TORCHVISION",
        "Backbones of torchvision (`MODEL.BACKBONE.NAME: build_torchvision_fpn_backbone`).",
        (
            Key("NAME", "mobilenet_v2", "Name of a torchvision classification model."),
            Key(
                "FEATURES",
                [],
                "Graph nodes to take features from, one per stride 4, 8, 16, ...; empty finds "
                "them.",
            ),
            Key(
                "FREEZE_AT",
                0,
                "Freeze everything up to and including the n-th of these features; 0 freezes "
                "nothing.",
                Interval(0),
            ),
        ),
    ),
)


#: All keys by full name, those of the launcher among them.
DECLARED = declared(SECTIONS) | declared(LAUNCHER_SECTIONS)


def add_counterpoise_config(cfg: CfgNode) -> None:
    """Add the keys of Counterpoise to a Detectron2 config; no key of Detectron2 is changed."""
    _add(cfg, SECTIONS)


def training_config() -> CfgNode:
    """Return Detectron2's defaults with the keys of Counterpoise and those of its launcher."""
    cfg = get_cfg()
    _add(cfg, SECTIONS)
    _add(cfg, LAUNCHER_SECTIONS)
    return cfg


def _add(cfg: CfgNode, sections: tuple[Section, ...]) -> None:
    for section in sections:
        node = cfg
        for part in section.name.split("."):
            if part not in node:
                setattr(node, part, CfgNode())
            node = node[part]
        for key in section.keys:
            setattr(node, key.name, copy.deepcopy(key.default))
