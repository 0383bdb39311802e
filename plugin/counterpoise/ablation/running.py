"""Trainings as processes, several at a time, that may be interrupted at any moment.

Each process holds a lock on its run for as long as it lives. Where the ablation itself was killed,
its trainings go on; the next call finds them locked and waits for them instead of starting them a
second time. Two ablations in one folder share the work in the same way.
"""

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from counterpoise.ablation.plan import Trial

#: Seconds between two looks at the processes, and those that one has to end when it is asked to.
LOOK = 0.2
GRACE = 15.0
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Ended:
    """A training that has ended.

    Attributes:
        trial: of it.
        code: exit code; minus the signal that ended it.
        seconds: that its process took; None where it was not one of this call.
        peak_memory_MB: largest resident memory of its process; None likewise, and without /proc.
    """

    trial: Trial
    code: int = 0
    seconds: float | None = None
    peak_memory_MB: int | None = None


@dataclass
class _Running:
    trial: Trial
    process: subprocess.Popen
    slot: int
    started: float
    peak_memory_MB: int | None = None

    def poll(self) -> Ended | None:
        """Measure the memory of the process; say what became of it, None while it runs."""
        # Linux counts the memory of the process that started it in ru_maxrss, but not here.
        status = Path(f"/proc/{self.process.pid}/status")
        with contextlib.suppress(OSError):
            if peak := _PEAK.search(status.read_text()):  # a process that has ended has none
                self.peak_memory_MB = int(peak[1]) // 1024
        if self.process.poll() is None:
            return None
        seconds = time.monotonic() - self.started
        return Ended(self.trial, self.process.returncode, seconds, self.peak_memory_MB)


def run_trials(
    trials: Sequence[Trial],
    command: Callable[[Trial], Sequence[str]],
    jobs: int,
    gpus: Sequence[str] = (),
    is_finished: Callable[[Trial], bool] = lambda trial: False,
) -> Iterator[Ended | tuple[Trial, ...]]:
    """Run trainings, `jobs` at a time, in the order given.

    When the iterator is closed, or an exception such as ``KeyboardInterrupt`` is raised in it, all
    processes are ended.

    Args:
        trials: to run.
        command: of a trial, asked for when its time has come.
        jobs: at a time, >= 1.
        gpus: for ``CUDA_VISIBLE_DEVICES``, given out in turn; none leaves the variable alone.
        is_finished: asked before each start: another ablation, or a training that an earlier call
            left behind, may have done it.

    Yields:
        each training that has ended, and several times a second those that are running.
    """
    waiting, running = list(trials), []
    try:
        while waiting or running:
            for trial in list(waiting):
                if len(running) == jobs:
                    break
                with _locked(trial.lock_file) as lock:
                    if lock is None:
                        continue
                    waiting.remove(trial)
                    if is_finished(trial):
                        yield Ended(trial)
                        continue
                    slot = min(set(range(jobs)) - {each.slot for each in running})
                    environment = _environment(jobs, gpus[slot % len(gpus)] if gpus else None)
                    process = _start(command(trial), trial.log_file, environment, lock)
                    running.append(_Running(trial, process, slot, time.monotonic()))
            yield tuple(each.trial for each in running)
            time.sleep(LOOK)
            for each in list(running):
                if (ended := each.poll()) is not None:
                    running.remove(each)
                    yield ended
    finally:
        _end(running)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _environment(jobs: int, gpu: str | None) -> dict[str, str]:
    own = {"OMP_NUM_THREADS": str(max(cores() // jobs, 1))} | dict(os.environ)
    return own if gpu is None else own | {"CUDA_VISIBLE_DEVICES": gpu}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int | None]:
    """Hold a lock for a process to inherit; None where another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield None
    else:
        yield file
    finally:
        os.close(file)  # the lock stays with the process that has inherited the file


def _start(
    command: Sequence[str], log: Path, environment: Mapping[str, str], lock: int
) -> subprocess.Popen:
    with log.open("wb") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=environment, pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends the others
        )  # fmt: skip


def _end(running: Sequence[_Running]) -> None:
    """End processes and their children: by request, and by force where that is not heard."""
    deadline = time.monotonic() + GRACE
    for each in running:
        _signal(each.process, signal.SIGTERM)
    for each in running:
        try:
            each.process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            _signal(each.process, signal.SIGKILL)
            each.process.wait()


def _signal(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
