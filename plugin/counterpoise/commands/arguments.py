"""What can be typed: the commands, their arguments and their help.

``--help`` and a mistyped option are answered from here, so nothing that takes time is imported.
What a command does is in the module of its name.
"""

import argparse
import textwrap
from pathlib import Path
from typing import Any

from counterpoise.config.packaged import config_folder, packaged_configs

EPILOG = """\
exit codes: 0 done, 2 bad input, 130 and 143 stopped by a signal, 1 anything else
`counterpoise COMMAND --help` shows an example of each command
"""


def argument_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Make the parser of ``counterpoise``, and those of its commands by their names."""
    parser = argparse.ArgumentParser(
        prog="counterpoise",
        description="Train detectors on class-imbalanced data; look into datasets, losses and "
        "trained models.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    builders = (
        _train, _retrain_classifier, _ablate, _inspect, _batches, _calibrate, _thresholds,
        _predict, _export, _report, _review, _compare, _curves, _replay,
    )  # fmt: skip
    for add in builders:
        add(commands)
    return parser, commands.choices


def train_parser(program: str) -> argparse.ArgumentParser:
    """Make the parser of ``counterpoise train`` under the name of another program."""
    return _with_train_arguments(argparse.ArgumentParser(prog=program, **_train_help(program)))


def _train(commands: Any) -> None:
    parser = commands.add_parser(
        "train", help="train and evaluate; resume; evaluate a checkpoint",
        **_train_help("counterpoise train"),
    )  # fmt: skip
    _with_train_arguments(parser)


def _train_help(program: str) -> dict[str, Any]:
    packaged: dict[str, list[str]] = {}
    for name in packaged_configs():
        folder, _, file = name.partition("/")
        packaged.setdefault(folder, []).append(file.removesuffix(".yaml"))
    return _help(
        "Train Faster R-CNN or RetinaNet on class-imbalanced data and evaluate it per class. "
        "Writes checkpoints, evaluation.json and report.html to OUTPUT_DIR.",
        f"{program} --config-file quick/recommended.yaml --config-file my_data.yaml \\\n"
        "    OUTPUT_DIR output/mine\n"
        f"{program} --eval-only --config-file output/mine/config.yaml \\\n"
        "    MODEL.WEIGHTS output/mine/model_final.pth\n",
        "\nThe first command with --resume continues after an interruption.\n"
        f"\nconfig files that come with Counterpoise, in {config_folder()}:\n"
        + "".join(f"  {folder}/  {', '.join(files)}\n" for folder, files in packaged.items())
        + "A file of yours that has the same path is used instead.\n"
        "\nSIGTERM and Ctrl-C save after the step at hand; a second Ctrl-C stops at once.\n"
        "\nexit codes: 0 done, 2 bad input or config, 130 Ctrl-C, 143 SIGTERM, 1 anything else\n",
    )


def _with_train_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    _add_configs(parser)
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR"
    )
    group.add_argument(
        "--overwrite", action="store_true", help="replace the run that OUTPUT_DIR holds"
    )
    group.add_argument(
        "--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS; needs no training data"
    )
    parser.add_argument(
        "--force", action="store_true",
        help="with --resume: continue also with another config, data or number of processes",
    )  # fmt: skip
    parser.add_argument("--num-gpus", type=int, help="GPUs per machine (default 1)")
    parser.add_argument(
        "--num-processes", type=int, help="processes per machine on a CPU (default 1)"
    )
    parser.add_argument("--num-machines", type=int, help="machines (default 1)")
    parser.add_argument("--machine-rank", type=int, help="rank of this machine (default 0)")
    parser.add_argument(
        "--dist-url", default="auto", help="address of machine 0 for several machines"
    )
    _add_overrides(parser, "SOLVER.BASE_LR 0.01")
    parser.set_defaults(command="train")
    return parser


def _retrain_classifier(commands: Any) -> None:
    parser = _add_command(
        commands,
        "retrain-classifier",
        "train the last layer of a finished run again, balanced",
        "Train the classification layer of a finished run for a tenth of its iterations on "
        "balanced classes, while everything else stays as it is (cRT, arXiv:1910.09217). Writes "
        "what a training writes, in a new folder.",
        "counterpoise retrain-classifier --run output/aquarium\n"
        "counterpoise retrain-classifier --run output/aquarium --balance images \\\n"
        "    --out output/aquarium_images SOLVER.MAX_ITER 200\n"
        "counterpoise compare output/aquarium output/aquarium_classifier\n",
    )
    parser.add_argument(
        "--run", type=Path, dest="run_dir", metavar="DIR", required=True,
        help="OUTPUT_DIR of a training: its config.yaml and model_final.pth",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="OUTPUT_DIR (default: that of --run + _classifier)"
    )
    parser.add_argument(
        "--balance", choices=("weights", "images"), default="weights",
        help="class weights by 1 / sqrt(boxes), or images drawn by a uniformly drawn class that "
        "they show (default weights)",
    )  # fmt: skip
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in --out"
    )
    group.add_argument("--overwrite", action="store_true", help="replace the run that --out holds")
    _add_configs(parser)
    _add_overrides(parser, "SOLVER.BASE_LR 0.001")


def _ablate(commands: Any) -> None:
    parser = _add_command(
        commands,
        "ablate",
        "train variants with several seeds and set them side by side",
        "Train variants of a config with several seeds, on one dataset or several, and compare "
        "them with the first one: mean and standard deviation over the seeds, differences with "
        "intervals that cover seeds and test images, per class and frequency group, time and "
        "memory. Writes results.jsonl, ablation.json and ablation.html. Finished runs are kept by "
        "the content of their config, so the same command goes on after an interruption, and with "
        "more seeds or variants trains only what is new.",
        "counterpoise ablate --config-file quick/baseline.yaml --config-file my_data.yaml \\\n"
        '    --grid "BALANCE.ROI_LOSS.NAME=cross_entropy" \\\n'
        '    --grid "BALANCE.ROI_LOSS.NAME=softmax_focal BALANCE.ROI_LOSS.GAMMA=0.5,1,2" \\\n'
        "    --seeds 3 --out output/ablate/gamma\n"
        "counterpoise ablate SOLVER.MAX_ITER 600 --seeds 1,2,3 --jobs 2 \\\n"
        "    --variants quick/baseline.yaml quick/focal.yaml \\\n"
        "    --datasets datasets/bccd.yaml datasets/aquarium.yaml\n"
        "counterpoise ablate --table output/ablate/gamma/results.jsonl > table.md\n",
        "\nLater ones override earlier ones: --config-file, the variant's file, the dataset's "
        "file, the\nvariant's keys, KEY VALUE.\n",
    )
    parser.add_argument(
        "--grid", action="append", default=[], metavar='"KEY=V,V KEY=V"',
        help="all combinations of values, each YAML, lists in brackets; may be given more than "
        "once, and the first combination is the baseline",
    )  # fmt: skip
    parser.add_argument(
        "--variants", nargs="+", default=[], metavar="FILE",
        help="config files, each a variant; with --grid each takes all its combinations",
    )  # fmt: skip
    parser.add_argument(
        "--variants-file", type=Path, metavar="FILE",
        help="YAML file that maps the name of a variant to its keys or config files",
    )  # fmt: skip
    parser.add_argument(
        "--datasets", nargs="+", default=[], metavar="FILE",
        help="config files of datasets, on each of which every variant is trained",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=_seeds, default=(1,), metavar="N",
        help="3 for the seeds 1 to 3, a list such as 1,2,5, or '4,' for seed 4 alone (default 1)",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=_positive, metavar="N",
        help="trainings at a time (default: as many as there are GPUs, else 1); they share the "
        "cores and take the GPUs in turn",
    )  # fmt: skip
    parser.add_argument(
        "--baseline", metavar="NAME", help="variant to compare with (default: the first)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("output/ablate"), metavar="DIR",
        help="for the runs and results (default output/ablate)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="only list the runs")
    parser.add_argument(
        "--discard-models", action="store_true",
        help="remove the checkpoints of finished runs, which take most of the room",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the JSON instead of the tables")
    parser.add_argument(
        "--table", nargs="+", type=Path, metavar="FILE",
        help="train nothing, but print Markdown tables of files of results, or JSON with --json",
    )  # fmt: skip
    _add_configs(parser)
    _add_overrides(parser, "SOLVER.MAX_ITER 600")


def _seeds(text: str) -> tuple[int, ...]:
    """Parse ``3`` as 1, 2, 3 and ``4,7`` as it stands."""
    parts = [part for part in text.split(",") if part.strip()]
    if not parts or not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f"'{text}' is neither a number of seeds nor a list such as 1,2,5"
        )
    numbers = tuple(dict.fromkeys(map(int, parts)))
    return numbers if "," in text else tuple(range(1, _positive(text) + 1))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def _inspect(commands: Any) -> None:
    parser = _add_command(
        commands,
        "inspect",
        "count, measure and check a dataset, and recommend settings",
        "Class counts, box sizes against the model's anchors, co-occurrence, invalid annotations, "
        "files shared by splits, images that look alike in two of them, class weights, repeat "
        "factors, and a recommendation with the config lines to copy. The anchors are those of the "
        "config's model, or of R50-FPN without a config. Writes inspect.json and inspect.html.",
        "counterpoise inspect path/to/dataset\n"
        "counterpoise inspect bccd_train --config-file quick/recommended.yaml \\\n"
        "    --config-file datasets/bccd.yaml --out output/inspect/bccd\n",
    )
    parser.add_argument(
        "target", metavar="NAME_OR_FOLDER",
        help="a dataset of the config or of Detectron2's catalogue, a folder in YOLO, Pascal VOC "
        "or COCO form, or the data.yaml of YOLO",
    )  # fmt: skip
    parser.add_argument(
        "--outside-files", action="store_true",
        help="let files of the folder lie, or links lead, outside of it (OUTSIDE_FILES)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="for inspect.json and inspect.html (default output/inspect/<name>)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the JSON instead of the tables")
    _add_configs(parser)
    _add_overrides(parser, "INPUT.MIN_SIZE_TEST 480")


def _calibrate(commands: Any) -> None:
    parser = _add_command(
        commands,
        "calibrate",
        "choose how strongly scores follow the class counts, on DATASETS.VAL",
        "Choose the exponent of NorCal or logit adjustment, which shift the logits of a trained "
        "box head by the class counts of its training set, on DATASETS.VAL. The model runs once "
        "over the images for all exponents. Prints AP by exponent with its difference from "
        "exponent 0 and a 95 % interval, and the config keys to use.",
        "counterpoise calibrate --run output/aquarium\n"
        "counterpoise calibrate --run output/aquarium --method logit_adjustment --aim tail \\\n"
        "    --exponents 0.25,0.5,1\n",
    )
    _add_run(parser)
    parser.add_argument(
        "--method", choices=("norcal", "logit_adjustment"), default="norcal",
        help="value of BALANCE.CALIBRATION.NAME (default norcal)",
    )  # fmt: skip
    parser.add_argument(
        "--exponents", type=_numbers, metavar="G,G,...",
        default=[n / 10 for n in range(1, 11)],
        help="to try beside 0 (default 0.1,0.2, ... 1)",
    )  # fmt: skip
    parser.add_argument(
        "--aim", choices=("AP", "tail"), default="AP",
        help="choose the exponent of the highest AP, or of the highest AP of the rarest group of "
        "classes (default AP)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _add_configs(parser)
    _add_overrides(parser, "DATASETS.VAL mine_val")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        message = f"is {text!r}, expected numbers with commas between, such as 0.25,0.5"
        raise argparse.ArgumentTypeError(message) from error


def _batches(commands: Any) -> None:
    parser = _add_command(
        commands,
        "batches",
        "draw the images of a training as the model sees them",
        "Draw the first images of a training with their boxes, after sampling and augmentation; "
        "count the boxes of each class, and say how long an image takes. Writes batches.html.",
        "counterpoise batches --config-file quick/baseline.yaml \\\n"
        "    --config-file my_data.yaml INPUT.MOSAIC.PROB 0.5\n",
    )
    parser.add_argument("--images", type=int, default=32, metavar="N", help="(default 32)")
    parser.add_argument(
        "--out", type=Path, default=Path("output/batches"), metavar="DIR",
        help="for batches.html (default output/batches)",
    )  # fmt: skip
    _add_configs(parser)
    _add_overrides(parser, "INPUT.MOSAIC.PROB 0.5")


def _thresholds(commands: Any) -> None:
    parser = _add_command(
        commands,
        "thresholds",
        "choose a score threshold per class on DATASETS.VAL",
        "Choose a score threshold per class on DATASETS.VAL and write a file for "
        "BALANCE.SCORE_THRESHOLDS, which holds for this checkpoint. Scores of a focal loss are not "
        "calibrated, and those of rare classes least of all, so one threshold for all classes "
        "suits none.",
        "counterpoise thresholds --run output/aquarium\n"
        "counterpoise thresholds --run output/aquarium --recall 0.9 --out high_recall.json\n"
        "counterpoise predict photos/ --run output/aquarium --thresholds high_recall.json\n",
    )
    _add_run(parser)
    aims = parser.add_mutually_exclusive_group()
    aims.add_argument(
        "--precision", type=float, metavar="P",
        help="the largest recall with at least this precision, in (0, 1]; without --precision and "
        "--recall the threshold of maximal F1",
    )  # fmt: skip
    aims.add_argument(
        "--recall", type=float, metavar="R",
        help="the highest threshold with at least this recall, in (0, 1]",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help="file to write (default: thresholds.json beside the checkpoint, or here where that is "
        "at an address)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _add_configs(parser)
    _add_overrides(parser, "DATASETS.VAL mine_val")


def _predict(commands: Any) -> None:
    parser = _add_command(
        commands,
        "predict",
        "detect objects in images or folders",
        "Detect objects in images; write the images with boxes drawn and predictions.json, a COCO "
        "dataset whose annotations have a score.",
        "counterpoise predict photos/ --run output/bccd --thresholds output/bccd/thresholds.json\n"
        "counterpoise predict a.jpg b.jpg --config-file my.yaml --opts MODEL.WEIGHTS my.pth\n"
        "counterpoise predict photos/ --model output/bccd/model.onnx\n",
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER")
    _add_run(parser)
    parser.add_argument(
        "--model", type=Path, metavar="FILE",
        help="ONNX file of `counterpoise export`, in place of --run; needs no Detectron2",
    )  # fmt: skip
    _add_thresholds(parser)
    parser.add_argument(
        "--min-score", type=float, metavar="S",
        help="leave out detections below this score (default 0.5, or 0 where thresholds were "
        "chosen)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("output/predictions"), metavar="DIR",
        help="for predictions.json and images/ (default output/predictions)",
    )  # fmt: skip
    parser.add_argument("--no-images", action="store_true", help="write predictions.json only")
    parser.add_argument("--json", action="store_true", help="print the JSON instead of a summary")
    _add_configs(parser)
    # The images take all positional arguments.
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY VALUE",
        help="config overrides, such as MODEL.WEIGHTS output/mine/model_final.pth",
    )  # fmt: skip


def _export(commands: Any) -> None:
    parser = _add_command(
        commands,
        "export",
        "write a trained model as an ONNX or TorchScript file",
        "Write a trained model as one file that detects in images of any size without Detectron2. "
        "Class names, score thresholds and the preparation of images are inside; docs/export.md "
        "says how to run it. ONNX needs `pip install counterpoise[onnx]`.",
        "counterpoise export --run output/bccd --thresholds output/bccd/thresholds.json\n"
        "counterpoise predict photos/ --model output/bccd/model.onnx\n"
        "counterpoise export --run output/bccd --format torchscript --out detector.ts\n",
    )
    _add_run(parser)
    parser.add_argument(
        "--format", choices=("onnx", "torchscript"), default="onnx", help="(default onnx)"
    )
    _add_thresholds(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help="file to write (default: model.onnx or model.ts beside the checkpoint, or here where "
        "that is at an address)",
    )  # fmt: skip
    _add_configs(parser)
    _add_overrides(parser, "MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.5")


def _report(commands: Any) -> None:
    parser = _add_command(
        commands,
        "report",
        "build the page of a run again",
        "Build the page that a training ends with, from the files of its OUTPUT_DIR: results per "
        "class, curves, errors with pictures, losses and config.",
        "counterpoise report output/bccd\n",
    )
    parser.add_argument(
        "run_dir", type=Path, metavar="RUN", help="OUTPUT_DIR of a run that has evaluated"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="page to write (default RUN/report.html)"
    )


def _review(commands: Any) -> None:
    parser = _add_command(
        commands,
        "review",
        "find labels that a trained model contradicts",
        "Find overlooked objects, badly placed boxes and swapped classes: the places where "
        "confident detections and labels disagree, by descending score. Reviews the test sets "
        "whose detections the run keeps, or with --dataset runs the model over another one. "
        "Writes DATASET/review.html with pictures and DATASET/review.json, a COCO dataset of "
        "suggestions.",
        "counterpoise review output/bccd\n"
        "counterpoise review output/bccd --dataset bccd_train --min-score 0.8\n"
        "counterpoise review output/bccd --dataset bccd_train --through-training\n",
    )
    parser.add_argument(
        "run_dir", type=Path, metavar="RUN", help="OUTPUT_DIR of a run that has evaluated"
    )
    parser.add_argument(
        "--dataset", metavar="NAME",
        help="dataset of the config to run the model over, such as its training set",
    )  # fmt: skip
    parser.add_argument(
        "--through-training", action="store_true",
        help="with --dataset: also run the checkpoints that the run keeps by their iteration, and "
        "put first what all of them contradict",
    )  # fmt: skip
    parser.add_argument(
        "--min-score", type=float, default=0.5, metavar="S",
        help="lowest score of a detection that counts (default 0.5)",
    )  # fmt: skip
    parser.add_argument(
        "--pictures", type=_positive, default=50, metavar="N",
        help="on the page, of each kind at most (default 50)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="for the folders (default RUN/review)"
    )
    _add_configs(parser)
    _add_overrides(parser, "MODEL.DEVICE cpu")


def _compare(commands: Any) -> None:
    parser = _add_command(
        commands,
        "compare",
        "compare trained runs: AP with paired intervals, error types, time, settings",
        "Compare runs with the first one on the same test images: AP and AP50 per class and group "
        "with 95 % intervals by paired bootstrap, error types, false positives at matched recall, "
        "time, and settings that differ. Writes compare.json and compare.html.",
        "counterpoise compare output/bccd/baseline output/bccd/recommended\n"
        "counterpoise compare output/baseline output/focal output/ohem --test-set mine_test \\\n"
        "    --out output/compare/mine\n"
        "counterpoise compare --over-seeds output/baseline-seed* output/focal-seed*\n",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN",
        help="OUTPUT_DIR of a run that has evaluated; the first one is the baseline",
    )  # fmt: skip
    parser.add_argument(
        "--test-set", metavar="NAME",
        help="to compare on, where the runs have several in common",
    )  # fmt: skip
    parser.add_argument(
        "--over-seeds", action="store_true",
        help="take runs whose configs differ in SEED alone as one side: means over the seeds, and "
        "intervals that cover seeds and test images; the first run is of the baseline",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("output/compare"), metavar="DIR",
        help="for compare.json and compare.html (default output/compare)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the JSON instead of the tables")


def _curves(commands: Any) -> None:
    parser = _add_command(
        commands,
        "curves",
        "draw the focal loss, and how a trained model's loss is spread",
        "Draw loss and gradient against p_t; with a config and MODEL.WEIGHTS also the share of the "
        "loss that the easiest foreground and background proposals cause.",
        "counterpoise curves --out output/curves\n"
        "counterpoise curves --config-file output/bccd/config.yaml \\\n"
        "    MODEL.WEIGHTS output/bccd/model_final.pth\n",
    )
    parser.add_argument(
        "--gammas", type=float, nargs="+", default=(0.0, 0.5, 1.0, 2.0, 5.0), metavar="G",
        help="focusing parameters >= 0 (default 0 0.5 1 2 5)",
    )  # fmt: skip
    parser.add_argument(
        "--alphas", type=float, nargs="*", default=(0.25, 0.75), metavar="A",
        help="weights of the positives in [0, 1], or none (default 0.25 0.75)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("output/curves"), metavar="DIR",
        help="for the pictures (default output/curves)",
    )  # fmt: skip
    parser.add_argument("--images", type=int, default=50, help="of the test set (default 50)")
    _add_configs(parser)
    _add_overrides(parser, "MODEL.WEIGHTS output/mine/model_final.pth")


def _replay(commands: Any) -> None:
    parser = _add_command(
        commands,
        "replay",
        "repeat the step that stopped a training",
        "Repeat the training step in which a loss or gradient was not finite, and name the images, "
        "losses, layers and parameters. The step is in OUTPUT_DIR, its config.yaml beside it.",
        "counterpoise replay output/mine/stopped_at_341.pth\n",
    )
    parser.add_argument("step", type=Path, metavar="FILE", help="stopped_at_*.pth of a run")
    _add_configs(parser)
    _add_overrides(parser, "SOLVER.AMP.ENABLED False")


def _add_command(
    commands: Any, name: str, summary: str, description: str, examples: str, more: str = ""
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, **_help(description, examples, more))
    parser.set_defaults(command=name)
    return parser


def _help(description: str, examples: str, more: str = "") -> dict[str, Any]:
    return {
        "description": textwrap.fill(description, 88),
        "epilog": "examples:\n" + textwrap.indent(examples, "  ") + more,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def _add_configs(parser: argparse.ArgumentParser) -> None:
    """Add what a config is made of, and the files with the components that it may name."""
    parser.add_argument(
        "--config-file", action="append", default=[], metavar="FILE",
        help="config file of yours or of Counterpoise; may be given more than once, later files "
        "override earlier ones",
    )  # fmt: skip
    parser.add_argument(
        "--import", action="append", default=[], dest="imports", metavar="FILE",
        help="Python file that registers components of your own; may be given more than once",
    )  # fmt: skip


def _add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help=f"config overrides, such as {example}"
    )


def _add_thresholds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--thresholds", type=Path, metavar="FILE", help="of `counterpoise thresholds`"
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run", type=Path, dest="run_dir", metavar="DIR",
        help="OUTPUT_DIR of a training: its config.yaml and model_final.pth",
    )  # fmt: skip
