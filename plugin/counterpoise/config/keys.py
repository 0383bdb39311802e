"""The config keys of Counterpoise, each declared once.

The config, its checks (:mod:`counterpoise.config.validation`) and ``docs/config.md`` are made from
these declarations.
"""

import copy

from detectron2.config import CfgNode, get_cfg

from counterpoise.balance.calibration import METHODS
from counterpoise.balance.class_weights import BACKGROUNDS, NORMALIZES
from counterpoise.balance.image_sampling import MEDIAN
from counterpoise.balance.image_sampling import RULES as IMAGE_RULES
from counterpoise.balance.sampling import TIE_BREAKS
from counterpoise.config.declaration import Choices, Interval, Key, Numbers, ReadBy, Section
from counterpoise.datasets.cache import AUTO
from counterpoise.datasets.registration import BAD_RECORDS
from counterpoise.modeling import (
    acceleration,
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
NUM_CLASSES = Interval(1, special=(0, "takes as many as the data has"))

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
                Choices(("linear", "cosine")),
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
                "`OUTSIDE_FILES`; see the README. Paths are relative to the file that names them.",
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

#: Keys of the launcher: they are not part of a model, or change a default of Detectron2.
LAUNCHER_SECTIONS = (
    Section(
        "BALANCE.IMAGE_SAMPLER",
        "Which images a training draws. Detectron2's own `DATALOADER.SAMPLER_TRAIN: "
        "RepeatFactorTrainingSampler` with a `REPEAT_THRESHOLD` works as ever; one of the two may "
        "be set.",
        (
            Key(
                "NAME",
                "none",
                "`none` leaves it to `DATALOADER.SAMPLER_TRAIN`. `repeat_factor`: an image is "
                "drawn max(1, sqrt(t / f)) times per epoch, f the share of images with its rarest "
                "class. `irfs`: the same with f = sqrt(f_image f_box), f_box the share of boxes. "
                "`eirfs`: in proportion to exp(`EXPONENT` sqrt(t / f)). `class_aware`: a class is "
                "drawn uniformly, then an image that has it; images without boxes are never drawn.",
                Choices(("none", *IMAGE_RULES)),
                "arXiv:1908.03195, appendix B.2; arXiv:2305.08069; arXiv:2503.21893; "
                "arXiv:1512.05830",
            ),
            Key(
                "THRESHOLD",
                float(MEDIAN),
                "t: classes with a lower f are drawn more often. LVIS's 0.001 changes nothing "
                "where there are few classes.",
                Interval(0, 1, open_low=True, special=(MEDIAN, "takes the median of f")),
                read_by=ReadBy("NAME", ("repeat_factor", "irfs", "eirfs"), refused=True),
            ),
            Key(
                "EXPONENT",
                2.0,
                "Of `eirfs`; its paper's 2 draws the images of very rare classes hundreds of times "
                "as often.",
                Interval(0),
                "arXiv:2503.21893",
                read_by=ReadBy("NAME", ("eirfs",), refused=True),
            ),
        ),
    ),
    Section(
        "MODEL",
        "",
        (
            Key(
                "SPEED",
                "stock",
                "`stock` computes as Detectron2 does, bit for bit; `auto` sets the next two keys, "
                "`MODEL.RPN.HEAD_NAME`, `SOLVER.FUSED` and `SOLVER.AMP` to what is fastest on this "
                "machine and changes results by rounding only.",
                Choices(acceleration.SPEEDS),
            ),
            Key(
                "CHANNELS_LAST",
                False,
                "Keep feature maps in channels-last order, which convolutions prefer on a CPU and "
                "in half precision on a GPU.",
            ),
            Key(
                "ROI_ALIGN",
                "torchvision",
                "`gather` computes ROIAlign on a CPU as a weighted gather of pixels, where "
                "`POOLER_SAMPLING_RATIO` is stated: a tenth of the time, equal to rounding.",
                Choices(acceleration.ROI_ALIGNS),
            ),
        ),
    ),
    Section(
        "MODEL.EMA",
        "",
        (
            Key(
                "ENABLED",
                False,
                "Keep an exponential moving average of the weights. It is what is evaluated, and "
                "what later commands read; checkpoints keep the raw weights, too, from which "
                "`--resume` goes on and which False reads.",
            ),
            Key(
                "DECAY",
                0.998,
                "Share of the average that a step keeps, at most t / (9 + t) after t steps. It "
                "looks back over about 1 / (1 - `DECAY`) steps.",
                Interval(0, 1, open_high=True),
                read_by=ReadBy("ENABLED", (True,)),
            ),
        ),
    ),
    Section(
        "SOLVER",
        "",
        (
            Key(
                "EPOCHS",
                0.0,
                "Length of the training in passes over its images (those with boxes where "
                "`DATALOADER.FILTER_EMPTY_ANNOTATIONS` is True): `SOLVER.MAX_ITER` follows, and "
                "`SOLVER.STEPS` stay where they are in the schedule.",
                Interval(0, 100_000, open_low=True, special=(0, "leaves it to `SOLVER.MAX_ITER`")),
            ),
            Key(
                "OPTIMIZER",
                "SGD",
                "`SGD` with `SOLVER.MOMENTUM`, or `AdamW`, which needs a `BASE_LR` of about "
                "0.00025 and does not see the scale of a loss.",
                Choices(("SGD", "AdamW")),
                "`AdamW`: arXiv:1711.05101",
            ),
            Key(
                "FUSED",
                False,
                "Make the optimizer's step in one kernel and clip all gradients in a few calls: a "
                "third of the time, equal to rounding. Not with a float16 scaler.",
            ),
            Key(
                "DETERMINISTIC",
                False,
                "Let the same `SEED` give the same run on a GPU, too, as it does on a CPU: slower "
                "kernels without atomic sums, and a warning that names an operation that has none. "
                "ROIAlign has one where `POOLER_SAMPLING_RATIO` is stated, such as 2.",
            ),
            Key(
                "TRAINABLE",
                "all",
                "What is trained: `all`, or the `classifier`, the last classification layer "
                "(`cls_score`), while every other parameter and the statistics of batch norms stay "
                "as `MODEL.WEIGHTS` has them. `counterpoise retrain-classifier` sets it.",
                Choices(("all", "classifier")),
                "`classifier`: arXiv:1910.09217, section 4 (cRT)",
            ),
            Key(
                "NON_FINITE",
                "stop",
                "A loss or gradient that is not finite: `stop` ends the run with the step kept for "
                "`counterpoise replay`, `skip` leaves the step out with a warning.",
                Choices(("stop", "skip")),
            ),
            Key(
                "BACKBONE_MULTIPLIER",
                1.0,
                "Factor of the learning rate of the pretrained backbone, without its pyramid.",
                Interval(0, open_low=True),
            ),
            Key(
                "CHECKPOINTS_KEPT",
                -1,
                "How many of the checkpoints that are named by their iteration stay in "
                "`OUTPUT_DIR`; with 2 there is one to fall back on. `model_best.pth` and "
                "`model_final.pth` always stay.",
                Interval(1, special=(-1, "keeps all")),
            ),
        ),
    ),
    Section(
        "SOLVER.EARLY_STOPPING",
        "",
        (
            Key(
                "PATIENCE",
                0,
                "Evaluations in a row without improvement on the first test set that end the "
                "training; needs `TEST.EVAL_PERIOD` > 0. The last checkpoint, evaluation and "
                "report are made as ever; more patience and `--resume` train on.",
                Interval(1, special=(0, "is off")),
            ),
            Key(
                "METRIC",
                "",
                "What has to improve, named as in `TEST.BEST_METRIC`; empty takes that one.",
                read_by=ReadBy("PATIENCE", Interval(1)),
            ),
            Key(
                "MIN_DELTA",
                0.0,
                "An improvement is above the best value so far by more than this, in points of AP "
                "(0 to 100).",
                Interval(0),
                read_by=ReadBy("PATIENCE", Interval(1)),
            ),
        ),
    ),
    Section(
        "SOLVER.AMP",
        "",
        (
            Key(
                "PRECISION",
                "bfloat16",
                "Type of mixed-precision training (`SOLVER.AMP.ENABLED`): `bfloat16` on any "
                "device, `float16` with scaled gradients on a GPU. Evaluation "
                "follows `TEST.PRECISION`.",
                Choices(acceleration.PRECISIONS),
                read_by=ReadBy("ENABLED", (True,)),
            ),
        ),
    ),
    Section(
        "MODEL.ROI_HEADS",
        "",
        (Key("NUM_CLASSES", 0, "Classes of a two-stage detector.", NUM_CLASSES),),
    ),
    Section(
        "MODEL.RETINANET",
        "",
        (Key("NUM_CLASSES", 0, "Classes of a one-stage detector.", NUM_CLASSES),),
    ),
    Section(
        "INPUT",
        "",
        (
            Key(
                "COLOR_JITTER",
                0.0,
                "Random brightness, contrast and saturation in training, each by a factor in "
                "[1 - x, 1 + x]; 0 is off.",
                Interval(0, 1, open_high=True),
            ),
            Key(
                "SCALE_JITTER",
                [],
                "Random factor of the size in training, lowest and highest, such as [0.5, 1.5] or "
                "[0.1, 2.0]; what is larger than the usual size is cropped to it. Boxes of which a "
                "quarter is left are kept. Empty is off.",
                Numbers(Interval(0.05, 10), length=2, empty=True, ascending=True),
                "arXiv:2012.07177",
            ),
            Key(
                "COMPOSE_UNTIL",
                1.0,
                "Share of the schedule after which images are no longer composed by `MOSAIC`, "
                "`COPY_PASTE` and `MIXUP`; 0.95 in YOLOX.",
                Interval(0, 1),
                "arXiv:2107.08430",
            ),
        ),
    ),
    Section(
        "INPUT.MOSAIC",
        "",
        (
            Key(
                "PROB",
                0.0,
                "Probability that a training image is four of them around a random point, each at "
                "a random size and cut off. Boxes of which a quarter is left are kept.",
                Interval(0, 1),
                "arXiv:2004.10934, section 3.3",
            ),
        ),
    ),
    Section(
        "INPUT.COPY_PASTE",
        "",
        (
            Key(
                "PROB",
                0.0,
                "Probability that boxes of other images are pasted into a training image, each of "
                "a class drawn uniformly, so that rare ones gain most. Without masks the "
                "background within a box comes along.",
                Interval(0, 1),
                "arXiv:2012.07177",
            ),
            Key(
                "MAX_BOXES",
                3,
                "Between 1 and so many boxes are pasted.",
                Interval(1),
                read_by=ReadBy("PROB", Interval(0, 1, open_low=True)),
            ),
        ),
    ),
    Section(
        "INPUT.MIXUP",
        "",
        (
            Key(
                "PROB",
                0.0,
                "Probability that another training image is blended into one at equal shares, with "
                "the boxes of both.",
                Interval(0, 1),
                "arXiv:1902.04103; arXiv:2107.08430",
            ),
        ),
    ),
    Section(
        "TEST",
        "",
        (
            Key(
                "BEST_METRIC",
                "AP",
                "Metric of the first test set by which `model_best.pth` is chosen when "
                "`TEST.EVAL_PERIOD` > 0: `AP`, `AP50`, `AP75`, or `AP-` and the name of a class or "
                "of a group of classes by frequency: `head` and `tail`, or with 20 or more classes "
                "`rare`, `common` and `frequent`.",
            ),
            Key(
                "IMS_PER_BATCH",
                1,
                "Most images per forward pass in evaluation and prediction, on each GPU; 1 as in "
                "Detectron2. A batch holds images of one padded size, so that detections are those "
                "of single images, to rounding.",
                Interval(1),
            ),
            Key(
                "PRECISION",
                "float32",
                "Type of the forward passes in evaluation and prediction; `bfloat16` rounds, so "
                "that detections are not exactly those of `float32`.",
                Choices(acceleration.TEST_PRECISIONS),
            ),
        ),
    ),
)


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
