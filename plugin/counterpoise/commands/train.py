"""``counterpoise train``, also known as ``train_net.py``."""

import argparse
import contextlib
import importlib.util
import logging
import os
import re
import shutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from counterpoise.commands.processes import (
    Place,
    joined,
    place_by_launcher,
    start_processes,
)
from counterpoise.config.loading import load_config
from counterpoise.config.preparation import prepare
from counterpoise.datasets import load_dataset
from counterpoise.errors import UserError
from counterpoise.evaluation import stored
from counterpoise.export.writing import FORMATS
from counterpoise.inference import evaluator
from counterpoise.inference.evaluation import evaluate, load_for_evaluation
from counterpoise.inspection.anchor_warning import warn_of_missed_classes
from counterpoise.inspection.duplicate_files import warn_of_shared_files
from counterpoise.modeling import score_thresholds
from counterpoise.modeling.distributed import unwrapped
from counterpoise.reporting import page, review, write_report
from counterpoise.training import class_loss_file, run_record, step_bundle
from counterpoise.training.log_files import TEXT
from counterpoise.training.run_lock import RunLock
from counterpoise.training.run_record import RunRecord
from counterpoise.training.trainer import BalancedTrainer, training_table
from counterpoise.utils.files import write_atomically
from counterpoise.utils.output_dir import (
    CHECKPOINTS,
    CONFIG,
    EVENTS,
    LAST_CHECKPOINT,
    METRICS,
    log_file,
)

logger = logging.getLogger(__name__)

#: What a run, and the commands that work in its folder, leave in OUTPUT_DIR beside its config and
#: log; --overwrite removes it.
RUN_FILES = (
    CHECKPOINTS, LAST_CHECKPOINT, METRICS, EVENTS, class_loss_file.FILE_NAME,
    run_record.FILE_NAME, step_bundle.FILES, evaluator.FILE_NAME, stored.FOLDER,
    score_thresholds.FILE_NAME, page.FILE_NAME, review.FOLDER,
    *(name for name, _ in FORMATS.values()),
)  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Train or evaluate, in one process or in several that are started here or by torchrun.

    Args:
        args: of ``counterpoise train``.

    Raises:
        UserError: bad input or config.
    """
    device = load_config(args.config_file, args.opts).MODEL.DEVICE
    on_gpu = device.startswith("cuda") and torch.cuda.is_available()
    place = place_by_launcher()
    try:
        if place is not None:
            _check_launched(args, place)
            _check_gpu_is_left_open(device, place.size)
            if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) and not args.eval_only:
                args.resume, args.overwrite = True, False  # torchrun starts the same command again
            with joined(place, on_gpu):
                train_or_evaluate(args)
            return
        local_size = _processes_to_start(args, on_gpu)
        _check_gpu_is_left_open(device, local_size * args.num_machines)
        if local_size * args.num_machines == 1:
            train_or_evaluate(args)
            return
        start_processes(
            train_or_evaluate, args, on_gpu, local_size,
            args.num_machines, args.machine_rank, args.dist_url,
        )  # fmt: skip
    except (ImportError, AttributeError) as error:
        # What Detectron2 and torch.ops raise for an op of an extension that is not there.
        if not re.search(r"detectron2\._C|namespace.* 'detectron2'", str(error)):
            raise
        raise UserError(
            f"this config needs an op of Detectron2's compiled extension, which is not installed "
            f"here ({error}): build Detectron2 from its sources, or choose a model without "
            "deformable convolution and rotated boxes"
        ) from error


def _check_launched(args: argparse.Namespace, place: Place) -> None:
    """Refuse numbers of processes beside those that torchrun has started."""
    for flag in ("--num-gpus", "--num-processes", "--num-machines", "--machine-rank"):
        value = getattr(args, flag[2:].replace("-", "_"))
        if value is not None:
            raise UserError(
                f"{flag} is {value}, but torchrun has started {place.size} processes: leave it out"
            )


def _check_gpu_is_left_open(device: str, processes: int) -> None:
    if device.startswith("cuda:") and processes > 1:
        raise UserError(
            f"MODEL.DEVICE is '{device}', but {processes} processes take a GPU each: set it to "
            "'cuda', and CUDA_VISIBLE_DEVICES to the GPUs that they may take"
        )


def _processes_to_start(args: argparse.Namespace, on_gpu: bool) -> int:
    """Processes of this machine that the arguments ask for, with their defaults filled in.

    Raises:
        UserError: they contradict each other or this machine.
    """
    gpus = torch.cuda.device_count()
    if args.num_processes is not None and on_gpu:
        raise UserError(
            f"--num-processes is {args.num_processes}, which share a CPU, but MODEL.DEVICE is a "
            "GPU: give --num-gpus, or set MODEL.DEVICE cpu"
        )
    if (args.num_gpus or 1) > max(gpus, 1):
        raise UserError(
            f"--num-gpus is {args.num_gpus}, but this machine has {gpus} GPUs: give at most "
            f"{max(gpus, 1)}, or --num-processes for several processes on the CPU"
        )
    _fill_in(args)
    return args.num_gpus if on_gpu else args.num_processes


def _fill_in(args: argparse.Namespace) -> None:
    for name, default in (
        ("num_gpus", 1), ("num_processes", 1), ("num_machines", 1), ("machine_rank", 0),
    ):  # fmt: skip
        if getattr(args, name) is None:
            setattr(args, name, default)
    for flag, number in (
        ("--num-gpus", args.num_gpus),
        ("--num-processes", args.num_processes),
        ("--num-machines", args.num_machines),
    ):
        if number < 1:
            raise UserError(f"{flag} is {number}, expected at least 1")
    if not 0 <= args.machine_rank < args.num_machines:
        raise UserError(
            f"--machine-rank is {args.machine_rank}, expected 0 to {args.num_machines - 1}, since "
            f"--num-machines is {args.num_machines}"
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise UserError(
            "--dist-url is 'auto', which serves one machine: with --num-machines "
            f"{args.num_machines} give the address of machine 0, such as tcp://10.0.0.1:29500"
        )


def train_or_evaluate(args: argparse.Namespace) -> None:
    """Train or evaluate in this process.

    Args:
        args: of ``counterpoise train``.

    Raises:
        UserError: bad input or config.
    """
    for file in args.imports:
        import_file(Path(file))
    cfg = load_config(args.config_file, args.opts)
    out = Path(cfg.OUTPUT_DIR)
    _make_folder(out)
    with RunLock(out) if comm.is_main_process() else contextlib.nullcontext():
        _train_or_evaluate(cfg, args)


def _train_or_evaluate(cfg: CfgNode, args: argparse.Namespace) -> None:
    out = Path(cfg.OUTPUT_DIR)
    _check_output_dir(out, args)
    log = out / log_file(comm.get_rank())
    earlier = log.stat().st_size if log.is_file() else 0
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="counterpoise")
    prepare(cfg, eval_only=args.eval_only)
    if not args.eval_only and cfg.SEED < 0:
        cfg.SEED = _earlier_seed(out) if args.resume else comm.shared_random_seed()
        logger.info("SEED was left to chance: it is %d, see config.yaml", cfg.SEED)
    if not args.eval_only and cfg.SOLVER.IMS_PER_BATCH % comm.get_world_size():
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, which {comm.get_world_size()} "
            "processes cannot share equally: make it a multiple of their number"
        )
    cfg.freeze()
    if args.overwrite:
        training_table(cfg)  # refuses what cannot be trained, while the earlier run is still there
        _remove_run(cfg)
        _remove_start(log, earlier)
    with _earlier_config_kept(out, always=args.eval_only):
        with _quiet_terminal(cfg.OUTPUT_DIR):
            default_setup(cfg, argparse.Namespace(config_file="", eval_only=args.eval_only))
            if args.eval_only:
                model, training = load_for_evaluation(cfg)
            else:
                record = RunRecord(args.typed, tuple(args.config_file), cfg.SEED)
                trainer = BalancedTrainer(cfg, record)
                if comm.is_main_process():
                    _warn_of_trained_test_images(cfg)
                    backbone = getattr(unwrapped(trainer.model), "backbone", None)
                    warn_of_missed_classes(cfg, backbone)
        if not args.eval_only:
            trainer.resume_or_load(resume=args.resume, force=args.force)
    if args.eval_only:
        results, evaluations = evaluate(cfg, model, training)
    else:
        trainer.train()
        evaluations = trainer.evaluations
    if comm.is_main_process() and cfg.DATASETS.TEST:
        logger.info("Report written to %s", write_report(out, known=evaluations))
        if args.eval_only:
            verify_results(cfg, results)


def _warn_of_trained_test_images(cfg: CfgNode) -> None:
    files = {
        name: [record["file_name"] for record in load_dataset(name)[0]]
        for name in {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}
    }
    training = [file for name in cfg.DATASETS.TRAIN for file in files[name]]
    for name in cfg.DATASETS.TEST:
        both = f"{', '.join(cfg.DATASETS.TRAIN)} and {name}"
        warn_of_shared_files(training, files[name], both)


def import_file(path: Path) -> None:
    """Run a user's file for the components that it registers.

    Raises:
        UserError: the file is missing or raises.
    """
    if not path.is_file():
        raise UserError(f"--import {path} does not exist: give the path of a Python file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        raise UserError(
            f"--import {path} fails in line {line}: {type(error).__name__}: {error}"
        ) from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"OUTPUT_DIR {folder} cannot be created ({error.strerror}): choose another folder"
        ) from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"OUTPUT_DIR {folder} is not writable: choose another folder")


def _check_output_dir(folder: Path, args: argparse.Namespace) -> None:
    """Guard an earlier run in `folder` against being mixed with a new one."""
    if args.force and not args.resume:
        raise UserError("--force is about a run that goes on: give it together with --resume")
    fresh = not (args.resume or args.overwrite or args.eval_only)
    if fresh and (folder / LAST_CHECKPOINT).exists():
        raise UserError(
            f"OUTPUT_DIR {folder} already holds a run: continue it with --resume, replace it with "
            "--overwrite, or set another OUTPUT_DIR"
        )


def _remove_run(cfg: CfgNode) -> None:
    folder = Path(cfg.OUTPUT_DIR)
    files = [path for pattern in RUN_FILES for path in folder.glob(pattern)]
    for key, value in (
        ("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS),
        ("BALANCE.SCORE_THRESHOLDS", cfg.BALANCE.SCORE_THRESHOLDS),
    ):
        if value and any(path.resolve() == Path(value).resolve() for path in files):
            raise UserError(
                f"--overwrite would remove {value}, which {key} names: move it out of OUTPUT_DIR, "
                "or set another OUTPUT_DIR"
            )
    comm.synchronize()
    if comm.is_main_process():
        for path in files:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in folder.glob(f"{log_file(0)}.*"):
            name = TEXT.fullmatch(path.name)
            # What was moved away, and what is of more processes than there are now.
            if name and (name["part"] or int(name["rank"]) >= comm.get_world_size()):
                path.unlink()
    comm.synchronize()


def _remove_start(path: Path, size: int) -> None:
    """Remove the first bytes of a log that is open, and takes what follows, in this process."""
    with path.open("r+b") as file:
        file.seek(size)
        kept = file.read()
        file.seek(0)
        file.write(kept)
        file.truncate()


def _earlier_seed(folder: Path) -> int:
    """Seed of the run in a folder, which had left it to chance; a new one without a run."""
    path = folder / run_record.FILE_NAME
    return RunRecord.read(path).seed if path.is_file() else comm.shared_random_seed()


@contextlib.contextmanager
def _earlier_config_kept(folder: Path, always: bool) -> Iterator[None]:
    """Keep the config of a training whose place another one takes in the block.

    Args:
        folder: OUTPUT_DIR.
        always: as after an evaluation; otherwise where the block fails, as a refused resume does.
    """
    path = folder / CONFIG
    kept = path.read_text() if path.is_file() else None
    completed = False
    try:
        yield
        completed = True
    finally:
        if kept is not None and (always or not completed) and comm.is_main_process():
            write_atomically(path, kept)


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
