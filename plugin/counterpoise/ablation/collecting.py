"""From the folder of a run to its result."""

import re
import signal
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import counterpoise
from counterpoise.ablation.plan import Trial
from counterpoise.ablation.results import ClassScore, GroupScore, RunResult, Scores
from counterpoise.ablation.running import Ended
from counterpoise.errors import UserError
from counterpoise.evaluation.stored import FIX
from counterpoise.inference import evaluator
from counterpoise.reporting import Run, page
from counterpoise.training.run_record import RunRecord
from counterpoise.utils.decoding import read_record

#: What this package says of numbers that are not finite, up to what to do about it, and what
#: Detectron2 raises.
_DIVERGED = re.compile(
    r"error: (?P<what>In iteration \d+ .*?) \((?P<rate>learning rate [^,)]+)"
    r"|FloatingPointError: (?P<raised>.*)"
)
_ERROR = re.compile(r"^(?:counterpoise \w+|train_net\.py): error: ")


def is_finished(trial: Trial) -> bool:
    """Whether a run has been trained and evaluated, and its page written, which comes last."""
    record = _record(trial.folder)
    if record is None or record.finished is None or not (trial.folder / page.FILE_NAME).is_file():
        return False
    try:
        return trial.test_set in _read_scores(trial.folder)
    except UserError:  # a file that is incomplete or gone
        return False


def result_of(trial: Trial, ended: Ended) -> RunResult:
    """Result of a run that has ended, well or not."""
    outcome, reason, scores = "finished", None, None
    if ended.code:
        text = trial.log_file.read_text(encoding="utf-8", errors="replace")
        outcome, reason = _failure(text, ended.code)
    else:
        try:
            scores = _scores(trial)
        except UserError as error:
            outcome, reason = "failed", str(error)
    record = _record(trial.folder)
    return RunResult(
        config=trial.config,
        dataset=trial.dataset,
        variant=trial.variant,
        settings=trial.settings,
        seed=trial.seed,
        outcome=outcome,
        reason=reason,
        scores=scores,
        iterations=trial.iterations,
        training_seconds=record and record.training_seconds,
        wall_seconds=ended.seconds,
        resumed_from=record and record.resumed_from,
        peak_memory_MB=ended.peak_memory_MB,
        machine=record and record.hardware,
        versions=record.versions if record else {},
        commit=commit(),
    )


def _failure(text: str, code: int) -> tuple[str, str]:
    """Outcome and reason of a process that left some text and an exit code other than 0."""
    if code < 0:
        # Those for real time have no name.
        name = next((each.name for each in signal.Signals if each == -code), f"signal {-code}")
        hint = ", as where memory runs out" if name == "SIGKILL" else ""
        return "failed", f"ended by {name}{hint}"
    if said := _DIVERGED.search(text):
        return "diverged", said["raised"] or f"{said['what']}, {said['rate']}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if _ERROR.match(line)), "")
    return "failed", _ERROR.sub("", said) or (lines[-1] if lines else f"exit code {code}")


def _scores(trial: Trial) -> Scores:
    stored = _read_scores(trial.folder)
    if trial.test_set not in stored:
        raise UserError(f"{trial.folder} has not been evaluated on {trial.test_set}")
    return Scores(
        test_set=trial.test_set,
        seconds_per_image=Run(trial.folder).test_set(trial.test_set).seconds_per_image,
        **vars(stored[trial.test_set]),
    )


@dataclass(frozen=True)
class _StoredScores:
    """What is taken over from ``evaluation.json``, which holds more."""

    test_images: int
    AP: float
    AP50: float
    per_class: tuple[ClassScore, ...]
    groups: tuple[GroupScore, ...]


def _read_scores(folder: Path) -> dict[str, _StoredScores]:
    return read_record(folder / evaluator.FILE_NAME, dict[str, _StoredScores], FIX)


def _record(folder: Path) -> RunRecord | None:
    try:
        return Run(folder).record
    except UserError:  # a run that failed early has no folder, or may leave anything in it
        return None


@cache
def commit() -> str | None:
    """Commit of the checkout that the package is imported from; None where it is in none."""
    package = Path(counterpoise.__file__).parent
    try:
        tracked = _git(package, "ls-files", "__init__.py")
        return _git(package, "describe", "--always", "--dirty", "--abbrev=12") if tracked else None
    except (OSError, subprocess.SubprocessError):  # no git, or no checkout
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
