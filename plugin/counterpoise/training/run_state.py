"""All that a training must go on with besides weights, optimizer and schedule.

Each process adds its own part; the first one adds what was logged. What comes back is plain lists,
numbers and tensors, which ``torch.load`` reads with ``weights_only``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.engine import DefaultTrainer, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter

from counterpoise.modeling.distributed import unwrapped
from counterpoise.modeling.training_state import load_training_state, training_state
from counterpoise.training.image_stream import ResumableLoader
from counterpoise.training.learning_watch import judged_iterations, watched_names
from counterpoise.training.log_files import log_sizes
from counterpoise.training.random_state import random_state, set_random_state

#: Key under which a checkpoint keeps it.
STATE_KEY = "run_state"

#: Iterations that Detectron2's writers smooth over.
_WINDOW = 20


def run_state(trainer: DefaultTrainer, writers: Sequence[EventWriter]) -> dict[str, Any]:
    """Collect the state of a run after a step, in all processes at once.

    Args:
        trainer: in training.
        writers: of this process; they are flushed.

    Returns:
        in the first process ``config`` (YAML), ``processes`` (a state each), ``events``,
        ``writers`` and ``logs``; elsewhere nothing.
    """
    processes = comm.gather(_process_state(trainer))
    if not comm.is_main_process():
        return {}
    for writer in writers:
        if "_writer" in vars(writer):  # TensorboardXWriter, once it has written
            vars(writer)["_writer"].flush()
    return {
        "config": trainer.cfg.dump(),
        "processes": processes,
        "events": _events(trainer.storage, judged_iterations(trainer.max_iter)),
        "writers": [_last_write(writer) for writer in writers],
        "logs": log_sizes(Path(trainer.cfg.OUTPUT_DIR)),
    }


def restore_run_state(
    trainer: DefaultTrainer, writers: Sequence[EventWriter], state: Mapping[str, Any]
) -> None:
    """Give a run its state back, just before its next step.

    Args:
        trainer: whose weights, optimizer and hooks are loaded.
        writers: as for :func:`run_state`.
        state: as returned there.
    """
    for name, history in state["events"].items():
        for value, iteration in history["values"]:
            trainer.storage.put_scalar(name, value, history["smoothed"], iteration)
    for writer, last in zip(writers, state["writers"], strict=False):
        if last is not None:
            writer._last_write = last
    processes = state["processes"]
    # With --force there may be more processes now than there were.
    own = processes[comm.get_rank() % len(processes)]
    if isinstance(trainer.data_loader, ResumableLoader) and own["data"]:
        trainer.data_loader.load_state_dict(own["data"])
    for hook, batches in zip(_precise_bns(trainer), own["precise_bn"], strict=False):
        hook._data_loader.batches = batches
        hook._data_iter = iter(hook._data_loader) if batches else None
    for hook in trainer._hooks:
        if isinstance(hook, hooks.IterationTimer):
            hook._warmup_iter = 0  # the series of iteration times goes on, too
    # Made now, since a loader's iterator draws from torch's generator.
    _ = trainer._trainer._data_loader_iter
    load_training_state(unwrapped(trainer.model), own["model"])
    set_random_state(own["random"])


def _process_state(trainer: DefaultTrainer) -> dict[str, Any]:
    loader = trainer.data_loader
    return {
        "random": random_state(),
        "data": loader.state_dict() if isinstance(loader, ResumableLoader) else None,
        "precise_bn": [hook._data_loader.batches for hook in _precise_bns(trainer)],
        "model": training_state(unwrapped(trainer.model)),
    }


def _precise_bns(trainer: DefaultTrainer) -> list[hooks.PreciseBN]:
    """Hooks that draw from a training loader of their own (``TEST.PRECISE_BN``)."""
    return [
        hook
        for hook in trainer._hooks
        if isinstance(hook, hooks.PreciseBN) and isinstance(hook._data_loader, ResumableLoader)
    ]


def _events(storage: EventStorage, judged: int) -> dict[str, Any]:
    """What can still be asked for, in the order of the names.

    The writers ask for the newest values, and :class:`LearningWatch` for those of more iterations.

    Args:
        storage: of the training.
        judged: how many those are.
    """
    hints, watched = storage.smoothing_hints(), watched_names(storage.histories())

    def newest(name: str) -> int:
        return storage.count_samples(name, max(judged, _WINDOW) if name in watched else _WINDOW)

    return {
        name: {
            "smoothed": hints[name],
            "values": [list(value) for value in history.values()[-newest(name) :]],
        }
        for name, history in storage.histories().items()
    }


def _last_write(writer: EventWriter) -> int | None:
    """Iteration up to which a writer has written; None for one that does not keep it."""
    last = getattr(writer, "_last_write", None)
    return last if isinstance(last, int) else None
