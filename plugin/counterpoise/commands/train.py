"""``counterpoise train``, also known as ``train_net.py``."""

import argparse
import contextlib
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from counterpoise.commands.earlier_run import (
    earlier_config_kept,
    earlier_seed,
    refuse_earlier_run,
    remove_run,
)
from counterpoise.commands.imports import import_files
from counterpoise.commands.processes import (
    Launch,
    Place,
    joined,
    place_by_launcher,
    start_processes,
)
from counterpoise.config.loading import load_config, refuse_overruled
from counterpoise.config.preparation import prepare
from counterpoise.datasets import load_dataset
from counterpoise.datasets.packed import files_of
from counterpoise.errors import UserError
from counterpoise.evaluation import Evaluation
from counterpoise.inference.evaluation import evaluate, load_for_evaluation
from counterpoise.inspection.anchor_warning import warn_of_missed_classes
from counterpoise.inspection.duplicate_files import warn_of_shared_files
from counterpoise.modeling.distributed import unwrapped
from counterpoise.reporting import write_report
from counterpoise.training.log_files import remove_start
from counterpoise.training.reference_size import scaled_to_processes
from counterpoise.training.run_lock import RunLock
from counterpoise.training.run_record import RunRecord
from counterpoise.training.trainer import BalancedTrainer, training_table
from counterpoise.utils.output_dir import FINAL_CHECKPOINT, log_file

logger = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> None:
    """Train or evaluate, in one process or in several that are started here or by torchrun.

    Args:
        args: of ``counterpoise train``.

    Raises:
        UserError: bad input or config.
    """
    cfg = load_config(args.config_file, args.opts)
    refuse_overruled(cfg, args.opts)
    device = cfg.MODEL.DEVICE
    on_gpu = device.startswith("cuda") and torch.cuda.is_available()
    place = place_by_launcher()
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) and not args.eval_only:
        args.resume, args.overwrite = True, False  # torchrun starts the same command again
    try:
        if place is not None:
            _check_launched(args, place)
            args.typed = _given_to_torchrun(args.typed, place)
            _check_gpu_is_left_open(device, place.size)
            with joined(place, on_gpu):
                train_or_evaluate(args)
            return
        launch = _launch(args, on_gpu)
        _check_gpu_is_left_open(device, launch.size)
        if launch.size == 1:
            train_or_evaluate(args)
        else:
            start_processes(train_or_evaluate, args, on_gpu, launch)
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
    """Refuse numbers of processes where torchrun has started them."""
    for flag in ("--num-gpus", "--num-processes", "--num-machines", "--machine-rank"):
        value = getattr(args, flag[2:].replace("-", "_"))
        if value is not None:
            raise UserError(
                f"{flag} is {value}, but torchrun has started {place.size} processes: leave it out"
            )


def _given_to_torchrun(typed: str, place: Place) -> str:
    """Command that starts as many processes as there are, as far as one of them knows it.

    Args:
        typed: of this process alone.
        place: of this process.
    """
    words = shlex.split(typed)
    machines = place.size // place.local_size
    several = ["--nnodes", str(machines)] if machines > 1 else []
    program = words[1:] if words[0] == "python" else ["-m", *words]
    return shlex.join(["torchrun", *several, "--nproc-per-node", str(place.local_size), *program])


def _check_gpu_is_left_open(device: str, processes: int) -> None:
    if device.startswith("cuda:") and processes > 1:
        raise UserError(
            f"MODEL.DEVICE is '{device}', but {processes} processes take a GPU each: set it to "
            "'cuda', and CUDA_VISIBLE_DEVICES to the GPUs that they may take"
        )


def _launch(args: argparse.Namespace, on_gpu: bool) -> Launch:
    """The processes that the arguments ask for.

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
    if (args.num_gpus or 1) > 1 and not on_gpu:
        raise UserError(
            f"--num-gpus is {args.num_gpus}, but MODEL.DEVICE is no GPU: give --num-processes, or "
            "set MODEL.DEVICE cuda"
        )
    for flag, number in (
        ("--num-gpus", args.num_gpus),
        ("--num-processes", args.num_processes),
        ("--num-machines", args.num_machines),
    ):
        if number is not None and number < 1:
            raise UserError(f"{flag} is {number}, expected at least 1")
    local_size = (args.num_gpus if on_gpu else args.num_processes) or 1
    machines, machine = args.num_machines or 1, args.machine_rank or 0
    if not 0 <= machine < machines:
        raise UserError(
            f"--machine-rank is {machine}, expected 0 to {machines - 1}, since --num-machines is "
            f"{machines}"
        )
    if machines > 1 and args.dist_url == "auto":
        raise UserError(
            "--dist-url is 'auto', which serves one machine: with --num-machines "
            f"{machines} give the address of machine 0, such as tcp://10.0.0.1:29500"
        )
    return Launch(local_size, machines, machine, args.dist_url)


def train_or_evaluate(args: argparse.Namespace) -> None:
    """Train or evaluate in this process.

    Args:
        args: of ``counterpoise train``.

    Raises:
        UserError: bad input or config.
    """
    import_files(args.imports)
    if args.force and not args.resume:
        raise UserError("--force is about a run that goes on: give it together with --resume")
    cfg = load_config(args.config_file, args.opts)
    out = Path(cfg.OUTPUT_DIR)
    _make_folder(out)
    with RunLock(out) if comm.is_main_process() else contextlib.nullcontext():
        if not (args.resume or args.overwrite or args.eval_only):
            refuse_earlier_run(out)
        if args.eval_only:
            _evaluate(cfg)
        else:
            _train(cfg, args)


def _evaluate(cfg: CfgNode) -> None:
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="counterpoise")
    prepare(cfg, eval_only=True)
    cfg.freeze()
    if comm.is_main_process() and cfg.DATASETS.TEST:
        _warn_of_replaced_results(cfg)
    with earlier_config_kept(Path(cfg.OUTPUT_DIR), always=True), _quiet_terminal(cfg.OUTPUT_DIR):
        default_setup(cfg, argparse.Namespace(config_file="", eval_only=True))
        model, training = load_for_evaluation(cfg)
    results, evaluations = evaluate(cfg, model, training)
    if comm.is_main_process() and cfg.DATASETS.TEST:
        _write_report(cfg, evaluations)
        verify_results(cfg, results)


def _warn_of_replaced_results(cfg: CfgNode) -> None:
    """Say where the results of a run make way for those of other weights than its last ones."""
    last, weights = Path(cfg.OUTPUT_DIR, FINAL_CHECKPOINT), cfg.MODEL.WEIGHTS.split("?")[0]
    if last.is_file() and last.resolve() != Path(weights).resolve():
        logger.warning(
            "OUTPUT_DIR %s holds a run, whose evaluation and report will be of MODEL.WEIGHTS %s "
            "from now on: set another OUTPUT_DIR to keep both",
            cfg.OUTPUT_DIR, weights,
        )  # fmt: skip


def _train(cfg: CfgNode, args: argparse.Namespace) -> None:
    out = Path(cfg.OUTPUT_DIR)
    log = out / log_file(comm.get_rank())
    earlier = log.stat().st_size if log.is_file() else 0
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="counterpoise")
    prepare(cfg)
    if cfg.SEED < 0:
        cfg.SEED = earlier_seed(out) if args.resume else comm.shared_random_seed()
        logger.info("SEED was left to chance: it is %d, see config.yaml", cfg.SEED)
    cfg = scaled_to_processes(cfg)
    if cfg.SOLVER.IMS_PER_BATCH % comm.get_world_size():
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, which {comm.get_world_size()} "
            "processes cannot share equally: make it a multiple of their number"
        )
    cfg.freeze()
    if args.overwrite:
        training_table(cfg)  # refuses what cannot be trained, while the earlier run is still there
        remove_run(cfg)
        remove_start(log, earlier)
    with earlier_config_kept(out, always=False):
        with _quiet_terminal(cfg.OUTPUT_DIR):
            default_setup(cfg, argparse.Namespace(config_file="", eval_only=False))
            record = RunRecord(args.typed, tuple(args.config_file), cfg.SEED)
            trainer = BalancedTrainer(cfg, record)
            if comm.is_main_process():
                _warn_of_trained_test_images(cfg)
                backbone = getattr(unwrapped(trainer.model), "backbone", None)
                warn_of_missed_classes(cfg, backbone)
        trainer.resume_or_load(resume=args.resume, force=args.force)
    trainer.train()
    if comm.is_main_process() and cfg.DATASETS.TEST:
        _write_report(cfg, trainer.evaluations)


def _write_report(cfg: CfgNode, evaluations: Mapping[str, Evaluation]) -> None:
    path = write_report(Path(cfg.OUTPUT_DIR), known=evaluations)
    logger.info("Report written to %s", path)


def _warn_of_trained_test_images(cfg: CfgNode) -> None:
    files = {
        name: list(files_of(load_dataset(name)[0]))
        for name in {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}
    }
    training = [file for name in cfg.DATASETS.TRAIN for file in files[name]]
    for name in cfg.DATASETS.TEST:
        both = f"{', '.join(cfg.DATASETS.TRAIN)} and {name}"
        warn_of_shared_files(training, files[name], both)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"OUTPUT_DIR {folder} cannot be created ({error.strerror}): choose another folder"
        ) from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"OUTPUT_DIR {folder} is not writable: choose another folder")


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
