"""When checkpoints are written, which ones stay, and which one a resumed run takes."""

import logging
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase, hooks
from detectron2.utils import comm

from counterpoise.errors import UserError
from counterpoise.modeling.checkpoint import BalancedCheckpointer
from counterpoise.modeling.safe_loading import load_tensors, reason
from counterpoise.training.run_state import STATE_KEY
from counterpoise.training.stopping import Stopped, StopRequest
from counterpoise.utils.files import unfinished_files
from counterpoise.utils.output_dir import (
    CHECKPOINTS,
    FINAL_CHECKPOINT,
    LAST_CHECKPOINT,
    iteration_checkpoint,
)

logger = logging.getLogger(__name__)

_NUMBERED = re.compile(r"model_(\d{7,})\.pth")


class CheckpointWriter(HookBase):
    """Writes checkpoints that a run can go on from: by period, at the end, and when told to stop.

    It belongs in every process, since each adds its state. What the hooks after it do in the
    same iteration, such as an evaluation, is not in the checkpoint: a resumed run does it first.
    """

    def __init__(
        self,
        checkpointer: BalancedCheckpointer,
        period: int,
        eval_period: int,
        keep: int,
        stop: StopRequest,
        run_state: Callable[[], dict[str, Any]],
    ) -> None:
        """
        Args:
            checkpointer: that writes in the first process.
            period: iterations from one checkpoint to the next.
            eval_period: iterations from one evaluation to the next, 0 for none.
            keep: how many of the numbered checkpoints stay; -1 for all.
            stop: asked after each step.
            run_state: collects the state, in all processes at once.
        """
        self.checkpointer = checkpointer
        self.period = period
        self.eval_period = eval_period
        self.keep = keep
        self.stop = stop
        self.run_state = run_state
        self.saved: Path | None = None
        """The newest checkpoint that this process has written, or that it goes on from."""
        self._state: dict[str, Any] = {}
        self._reasons: set[str] = set()

    def after_step(self) -> None:
        """Save where it is time.

        Raises:
            Stopped: the run was told to stop; it is saved.
            UserError: the last checkpoint cannot be written.
        """
        done = self.trainer.iter + 1
        asked = self.stop.asked()
        last, due = done == self.trainer.max_iter, done % self.period == 0
        evaluates = self.eval_period > 0 and done % self.eval_period == 0
        if not (asked or last or due or evaluates):
            return
        self._state = self.run_state()  # an evaluation that is told to stop is saved with it
        self.saved = None
        if due or (asked and not last):
            self.save()
        if last:
            self._write(FINAL_CHECKPOINT)
        if asked:
            comm.synchronize()  # the first process has saved before another ends
            raise Stopped(asked)

    def save(self) -> None:
        """Write a checkpoint of this iteration as it stood in this hook, unless there is one.

        A failure is logged, once for each reason, and the training goes on.
        """
        if self.saved is not None:
            return
        try:
            self._write(iteration_checkpoint(self.trainer.iter))
        except UserError as error:
            self.report(error)
            return
        if self.keep > 0:
            for path in numbered_checkpoints(Path(self.checkpointer.save_dir))[: -self.keep]:
                if path != self.saved:  # which torn ones of a higher number may follow
                    path.unlink(missing_ok=True)

    def resume_from(self, path: Path, state: dict[str, Any]) -> None:
        """Take a checkpoint that is there for that of this iteration, as a resumed run does.

        Args:
            path: of the checkpoint.
            state: of the run, as it holds it.
        """
        self.saved, self._state = path, state

    def finish(self) -> None:
        """Write the last checkpoint of a training that ends before its last iteration.

        It is of this iteration as it stood in this hook.

        Raises:
            UserError: it cannot be written.
        """
        self._write(FINAL_CHECKPOINT)

    def report(self, error: UserError) -> None:
        """Log that a checkpoint cannot be written, once for each reason."""
        reason = repr(error.__cause__)
        if reason not in self._reasons:
            self._reasons.add(reason)
            logger.error("%s", error)

    def _write(self, file_name: str) -> None:
        state = {STATE_KEY: self._state}
        self.checkpointer.save(Path(file_name).stem, iteration=self.trainer.iter, **state)
        self.saved = Path(self.checkpointer.save_dir, file_name)


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's, which a resumed run goes on with, and which a full disk does not end."""

    def __init__(self, writer: CheckpointWriter, metric: str) -> None:
        """
        Args:
            writer: of the other checkpoints.
            metric: by its name in Detectron2's event storage; the larger the better.
        """
        super().__init__(writer.eval_period, writer.checkpointer, metric)
        self.metric = metric
        self.folder = writer.checkpointer.save_dir
        self._report = writer.report

    def _best_checking(self) -> None:
        before = self.state_dict()
        try:
            super()._best_checking()
        except UserError as error:
            self.load_state_dict(before)  # Detectron2 notes the first one before it is written
            self._report(error)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far and its iteration."""
        return {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best_metric, self.best_iter = state["best_metric"], state["best_iter"]


def numbered_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a folder that are named by their iteration, ascending."""
    found = {path: _NUMBERED.fullmatch(path.name) for path in folder.glob(CHECKPOINTS)}
    return sorted((p for p, match in found.items() if match), key=lambda p: int(found[p][1]))


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of a run that was killed while it wrote them."""
    for path in unfinished_files(folder):
        path.unlink(missing_ok=True)


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Find the newest checkpoint of a run that is whole, and name those that are not.

    Args:
        folder: OUTPUT_DIR.

    Returns:
        its path and content, on the CPU; None where there is no checkpoint at all.

    Raises:
        UserError: there are some, but none can be read.
    """
    damaged = []
    for path in _newest_first(folder):
        content = read_checkpoint(path)
        if not isinstance(content, str):
            return path, content
        damaged.append(path)
        logger.warning(
            "%s is torn or corrupt, or holds more than numbers (%s), so the one before it is used",
            path, content,
        )  # fmt: skip
    if damaged:
        raise UserError(
            f"none of the {len(damaged)} checkpoints in {folder} can be read: replace the run with "
            "--overwrite, or set another OUTPUT_DIR"
        )
    return None


def read_checkpoint(path: Path) -> dict[str, Any] | str:
    """Read a checkpoint, and every checksum in it, which ``torch.load`` leaves out.

    Returns:
        its content, or why it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
        if wrong:
            return f"the checksum of {wrong} is wrong"
        content = load_tensors(path)
    except Exception as error:  # a damaged file can fail in any way
        return reason(error)
    if not isinstance(content, dict) or "model" not in content:
        return "it holds no weights"
    return content


def _newest_first(folder: Path) -> Iterator[Path]:
    """The checkpoint that ``last_checkpoint`` names, and the others by their iteration."""
    tagged, tag = None, folder / LAST_CHECKPOINT
    if tag.is_file():
        # A name alone: the file cannot lead out of the folder.
        name = tag.read_text(encoding="utf-8", errors="replace").strip()
        tagged = folder / name if name and Path(name).name == name else None
        if tagged is None or not tagged.is_file():
            logger.warning("%s names %r, which is not in its folder", tag, name)
        else:
            yield tagged
    final = folder / FINAL_CHECKPOINT
    numbered = numbered_checkpoints(folder)
    others = [path for path in [final, *reversed(numbered)] if path.is_file()]
    # The last checkpoint of a run is older than the numbered ones where the run was extended.
    if final in others and final != tagged and numbered:
        content = read_checkpoint(final)
        at = -1 if isinstance(content, str) else content.get("iteration", -1)
        others.sort(key=lambda p: at if p == final else int(_NUMBERED.fullmatch(p.name)[1]))
        others.reverse()
    yield from (path for path in others if path != tagged)
