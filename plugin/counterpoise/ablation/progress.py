"""How far an ablation is, and how long it will take."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from counterpoise.ablation.plan import Trial
from counterpoise.utils.output_dir import METRICS

_TAIL = 8192  # bytes of a log of metrics, more than its last two lines


def iterations_done(folder: Path) -> int:
    """Iterations of a training so far, by its log of metrics, which grows every 20 iterations."""
    try:
        with (folder / METRICS).open("rb") as file:
            file.seek(max(file.seek(0, 2) - _TAIL, 0))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["iteration"]) + 1
        except (ValueError, KeyError, TypeError):  # half a line, at either end
            continue
    return 0


class Progress:
    """Trainings done, counted with parts of those that are running.

    Attributes:
        done: that have ended.
        total: of all.
    """

    def __init__(self, kept: int, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            kept: results that are there already and take no time.
            total: trainings, those among them.
            clock: seconds.
        """
        self.done = kept
        self.total = total
        self._clock = clock
        self._started = clock()
        self._parts: dict[Path, float] = {}
        self._first: dict[Path, float] = {}
        self._worked = 0.0  # trainings' worth of work that this call has seen to its end

    def look(self, running: Iterable[Trial]) -> None:
        """See how far the running trainings are."""
        for trial in running:
            part = min(iterations_done(trial.folder) / trial.iterations, 1.0)
            # A run that is resumed has a part of its work behind it.
            self._first.setdefault(trial.folder, part)
            self._parts[trial.folder] = part

    def end(self, trial: Trial, trained: bool) -> None:
        """Count a training that has ended; one that another process did is no work of this call."""
        first = self._first.pop(trial.folder, 0.0)
        self._parts.pop(trial.folder, None)
        self.done += 1
        self._worked += 1 - first if trained else 0.0

    @property
    def finished(self) -> float:
        """Trainings' worth of work that is done, in [0, total]."""
        return self.done + sum(self._parts.values())

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; None before there is one."""
        begun = sum(part - self._first[folder] for folder, part in self._parts.items())
        worked = self._worked + begun
        if worked <= 0:
            return None
        return (self._clock() - self._started) / worked * (self.total - self.finished)
