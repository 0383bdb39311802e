"""An earlier run in OUTPUT_DIR: it is refused, replaced, or its config and seed are taken over."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm

from counterpoise.errors import UserError
from counterpoise.evaluation import stored
from counterpoise.export.writing import FORMATS
from counterpoise.inference import evaluator
from counterpoise.modeling import score_thresholds
from counterpoise.reporting import page, review
from counterpoise.training import class_loss_file, run_record, step_bundle
from counterpoise.training.log_files import TEXT
from counterpoise.training.run_record import RunRecord
from counterpoise.utils.files import write_atomically
from counterpoise.utils.output_dir import (
    CHECKPOINTS,
    CONFIG,
    EVENTS,
    LAST_CHECKPOINT,
    METRICS,
    log_file,
)

#: What a run, and the commands that work in its folder, leave in OUTPUT_DIR besides its config and
#: log; --overwrite removes it.
RUN_FILES = (
    CHECKPOINTS, LAST_CHECKPOINT, METRICS, EVENTS, class_loss_file.FILE_NAME,
    run_record.FILE_NAME, step_bundle.FILES, evaluator.FILE_NAME, stored.FOLDER,
    score_thresholds.FILE_NAME, page.FILE_NAME, review.FOLDER,
    *(name for name, _ in FORMATS.values()),
)  # fmt: skip


def refuse_earlier_run(folder: Path) -> None:
    """Guard an earlier run in a folder against being mixed with a new one.

    Raises:
        UserError: there is one.
    """
    if (folder / LAST_CHECKPOINT).exists():
        raise UserError(
            f"OUTPUT_DIR {folder} already holds a run: continue it with --resume, replace it with "
            "--overwrite, or set another OUTPUT_DIR"
        )


def remove_run(cfg: CfgNode) -> None:
    """Remove the run in OUTPUT_DIR, in all processes at once; config and log stay.

    Raises:
        UserError: the new run needs a file of it.
    """
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
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        for path in folder.glob(f"{log_file(0)}.*"):
            name = TEXT.fullmatch(path.name)
            # What was moved away, and what is of more processes than there are now.
            if name and (name["part"] or int(name["rank"]) >= comm.get_world_size()):
                path.unlink()
    comm.synchronize()


def earlier_seed(folder: Path) -> int:
    """Seed of the run in a folder, which had left it to chance; a new one without a run."""
    path = folder / run_record.FILE_NAME
    return RunRecord.read(path).seed if path.is_file() else comm.shared_random_seed()


@contextlib.contextmanager
def earlier_config_kept(folder: Path, always: bool) -> Iterator[None]:
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
