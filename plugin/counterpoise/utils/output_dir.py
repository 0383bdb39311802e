"""Names of the files in OUTPUT_DIR that Detectron2 gives them, and that several modules read.

A file that is this project's own has its name where it is written.
"""

#: The complete config of a run.
CONFIG = "config.yaml"

#: The checkpoint after the last iteration, the best one, and all of them with those named by their
#: iteration.
FINAL_CHECKPOINT = "model_final.pth"
BEST_CHECKPOINT = "model_best.pth"
CHECKPOINTS = "model_*.pth"
#: Text file that names the newest checkpoint, from which a resumed run goes on.
LAST_CHECKPOINT = "last_checkpoint"

#: Scalars, of Detectron2's ``JSONWriter`` and of its ``TensorboardXWriter``.
METRICS = "metrics.json"
EVENTS = "events.out.tfevents.*"

_LOG = "log.txt"


def iteration_checkpoint(iteration: int) -> str:
    """Name of the checkpoint that is written after an iteration, counted from 0."""
    return f"model_{iteration:07d}.pth"


def log_file(rank: int) -> str:
    """Name of the text log of a process; that of the first one has no rank in it."""
    return f"{_LOG}.rank{rank}" if rank else _LOG
