"""The command line of ``train_net.py``."""

import argparse
import contextlib
import importlib.util
import logging
import os
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from detectron2.engine import default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessRaisedException

from counterpoise.config.loading import load_config
from counterpoise.config.preparation import prepare
from counterpoise.errors import UserError
from counterpoise.inference.evaluation import evaluate, load_for_evaluation
from counterpoise.reporting import write_report
from counterpoise.training.run_record import RunRecord, command_line
from counterpoise.training.trainer import BalancedTrainer, training_table
from counterpoise.utils.files import write_whole

EPILOG = """\
examples:
  train with class weights and OHEM on BCCD:
    python train_net.py --config-file configs/quick/focal_weights_ohem.yaml \\
        --config-file configs/datasets/bccd.yaml OUTPUT_DIR output/bccd
  continue after an interruption: the same command with --resume
  evaluate a checkpoint: the same command with --eval-only MODEL.WEIGHTS output/bccd/model_final.pth

exit codes: 0 done, 2 bad input or config, 1 anything else
"""

logger = logging.getLogger(__name__)

#: What a run leaves in OUTPUT_DIR, removed by --overwrite.
RUN_FILES = (
    "model_*.pth", "last_checkpoint", "metrics.json", "events.out.tfevents.*", "evaluation.json",
    "class_losses.jsonl", "run.json", "report.html", "inference",
)  # fmt: skip


def argument_parser() -> argparse.ArgumentParser:
    """Parser with Detectron2's flags, several config files, and a flag to overwrite a run."""
    parser = argparse.ArgumentParser(
        description="Train Faster R-CNN on class-imbalanced data and evaluate it per class.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file", action="append", default=[], metavar="FILE",
        help="config file; may be given more than once, later files override earlier ones",
    )  # fmt: skip
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
        "--import", action="append", default=[], dest="imports", metavar="FILE",
        help="Python file that registers components of your own; may be given more than once",
    )  # fmt: skip
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs per machine (default 1)")
    parser.add_argument("--num-machines", type=int, default=1, help="machines (default 1)")
    parser.add_argument("--machine-rank", type=int, default=0, help="rank of this machine")
    parser.add_argument(
        "--dist-url", default="auto", help="address of machine 0 for several machines"
    )
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="config overrides, such as SOLVER.BASE_LR 0.01"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None for those of the process.

    Returns:
        exit code: 0 done, 2 bad input or config. Any other failure raises.
    """
    args = argument_parser().parse_intermixed_args(arguments)
    args.command = command_line(arguments, None if arguments is None else "train_net.py")
    silence_known_noise()
    try:
        gpus = torch.cuda.device_count()
        if args.num_gpus > max(gpus, 1):
            raise UserError(f"--num-gpus is {args.num_gpus}, but this machine has {gpus} GPUs")
        launch(
            run,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except UserError as error:
        return refuse(error, "train_net.py")
    except ProcessRaisedException as error:
        if UserError.__name__ not in str(error).strip().splitlines()[-1]:
            raise
        return refuse(error, "train_net.py")
    except (ImportError, AttributeError) as error:
        # What Detectron2 and torch.ops raise for an op of an extension that is not there.
        if not re.search(r"detectron2\._C|namespace.* 'detectron2'", str(error)):
            raise
        return refuse(
            UserError(
                f"this config needs an op of Detectron2's compiled extension, which is not "
                f"installed here ({error}): build Detectron2 from its sources, or choose a model "
                "without deformable convolution and rotated boxes"
            ),
            "train_net.py",
        )
    return 0


def run(args: argparse.Namespace) -> None:
    """Train or evaluate in one process.

    Args:
        args: parsed by :func:`argument_parser`.

    Raises:
        UserError: bad input or config.
    """
    for file in args.imports:
        import_file(Path(file))
    cfg = load_config(args.config_file, args.opts)
    _check_output_dir(Path(cfg.OUTPUT_DIR), args)
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="counterpoise")
    prepare(cfg, eval_only=args.eval_only)
    if not args.eval_only and cfg.SEED < 0:
        cfg.SEED = comm.shared_random_seed()
        logger.info("SEED was left to chance: it is %d, see config.yaml", cfg.SEED)
    cfg.freeze()
    if args.overwrite:
        training_table(cfg)  # refuses what cannot be trained, while the earlier run is still there
        _remove_run(Path(cfg.OUTPUT_DIR))
    with _quiet_terminal(cfg.OUTPUT_DIR):
        with _training_config_kept(cfg.OUTPUT_DIR, args.eval_only):
            default_setup(cfg, argparse.Namespace(config_file="", eval_only=args.eval_only))
        if args.eval_only:
            model, training = load_for_evaluation(cfg)
        else:
            trainer = BalancedTrainer(
                cfg, RunRecord(args.command, tuple(args.config_file), cfg.SEED)
            )
    if args.eval_only:
        results = evaluate(cfg, model, training)
    else:
        trainer.resume_or_load(resume=args.resume)
        trainer.train()
    if comm.is_main_process() and cfg.DATASETS.TEST:
        logger.info("Report written to %s", write_report(Path(cfg.OUTPUT_DIR)))
        if args.eval_only:
            verify_results(cfg, results)


def import_file(path: Path) -> None:
    """Run a user's file for the components that it registers.

    Raises:
        UserError: the file is missing or raises.
    """
    if not path.is_file():
        raise UserError(f"--import {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        raise UserError(
            f"--import {path} fails in line {line}: {type(error).__name__}: {error}"
        ) from error


def _check_output_dir(folder: Path, args: argparse.Namespace) -> None:
    """Guard an earlier run in `folder` against being mixed with a new one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"OUTPUT_DIR {folder} cannot be created: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"OUTPUT_DIR {folder} is not writable: choose another folder")
    fresh = not (args.resume or args.overwrite or args.eval_only)
    if fresh and (folder / "last_checkpoint").exists():
        raise UserError(
            f"OUTPUT_DIR {folder} already holds a run: continue it with --resume, replace it with "
            "--overwrite, or set another OUTPUT_DIR"
        )


def _remove_run(folder: Path) -> None:
    if comm.is_main_process():
        for pattern in RUN_FILES:
            for path in folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    comm.synchronize()


@contextlib.contextmanager
def _training_config_kept(output_dir: str, eval_only: bool) -> Iterator[None]:
    """Let no evaluation in a run's folder replace the config that reproduces the run."""
    path = Path(output_dir, "config.yaml")
    kept = path.read_text() if eval_only and path.is_file() else None
    yield
    if kept is not None and comm.is_main_process():
        write_whole(path, kept)


@contextlib.contextmanager
def _quiet_terminal(output_dir: str) -> Iterator[None]:
    """Send Detectron2's account of the environment, config and model to log.txt alone."""
    rank = comm.get_rank()
    # Called as default_setup() calls it: the function is cached by its arguments.
    loggers = [
        setup_logger(output_dir, distributed_rank=rank, name="fvcore"),
        setup_logger(output_dir, distributed_rank=rank),
    ]
    terminals = [
        handler
        for each in loggers
        for handler in each.handlers
        if getattr(handler, "stream", None) is sys.stdout
    ]
    levels = [handler.level for handler in terminals]
    for handler in terminals:
        handler.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for handler, level in zip(terminals, levels, strict=True):
            handler.setLevel(level)


def silence_known_noise() -> None:
    """Keep what newer versions of torch say of Detectron2's code off the terminal."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
    warnings.filterwarnings("ignore", message=r"torch\.meshgrid")
    for name in ("torch.fx._symbolic_trace", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)


def refuse(error: Exception, program: str) -> int:
    """Print the sentence of an error as `program` says it, and return exit code 2."""
    # A loader or GPU process hands its error on with the traceback as text, the sentence last.
    sentence = str(error).strip().splitlines()[-1]
    sentence = sentence.removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")
    print(f"{program}: error: {sentence}", file=sys.stderr)
    return 2
