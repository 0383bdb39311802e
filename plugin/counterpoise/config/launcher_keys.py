"""The config keys of the launcher, declared as those of :mod:`counterpoise.config.keys`.

They are not part of a model, or change a default of Detectron2, so a script of the user's own does
without them.
"""

from counterpoise.balance.image_sampling import MEDIAN
from counterpoise.balance.image_sampling import RULES as IMAGE_RULES
from counterpoise.config.declaration import Choices, Interval, Key, Numbers, ReadBy, Section
from counterpoise.modeling import acceleration

NUM_CLASSES = Interval(1, special=(0, "takes as many as the data has"))

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
                "machine and changes results by rounding only; on the command line beside it these "
                "cannot be switched off.",
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
                "`--resume` goes on and which later commands read with False. A training whose "
                "`MODEL.WEIGHTS` holds both starts from the average.",
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
                "`rare`, `common` and `frequent` (`AP-group-head` where a class is called `head`).",
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
