"""Trainings in processes of their own, which are ended at a chosen moment, and what they leave."""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context, set_start_method, util
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from counterpoise.commands import console, train  # noqa: F401  (imported once, for all processes)

#: Its server imports this module once, and each training is forked from it within milliseconds.
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])

#: Values that tell how long something took.
_TIMES = {"time", "data_time", "rank_data_time", "eta_seconds"}


@dataclass(frozen=True)
class Moment:
    """When a process gets a signal."""

    function: str = ""
    """``module:name``, or empty for Python's functions of any name."""
    call: int = 0
    """Number of the call, from 0, at whose start it happens."""
    after: bool = False
    """At the end of that call."""
    signal: int = signal.SIGKILL

    def arm(self) -> None:
        """Let it happen in this process."""
        if not self.function:
            _count_calls(self.call, self.signal)
            return
        module, _, name = self.function.partition(":")
        owner = import_module(module)
        *path, name = name.split(".")
        for part in path:
            owner = getattr(owner, part)
        original, calls = getattr(owner, name), Counter()

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            calls["made"] += 1
            now = calls["made"] == self.call + 1
            if now and not self.after:
                os.kill(os.getpid(), self.signal)
            result = original(*args, **kwargs)
            if now and self.after:
                os.kill(os.getpid(), self.signal)
            return result

        setattr(owner, name, wrapped)


def _count_calls(last: int, number: int) -> None:
    """Send a signal at a call of the main thread, and print the number of calls at the end."""
    made = 0

    def count(_: Any, event: str, __: Any) -> None:
        nonlocal made
        if event == "call":
            made += 1
            if made == last:
                os.kill(os.getpid(), number)

    sys.setprofile(count)
    util.Finalize(None, lambda: print(f"{made} calls"), exitpriority=0)


def _main(arguments: list[str], output: Path, moment: Moment | None) -> None:
    """A training in this process, whose output goes to a file."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    torch.set_num_threads(1)
    set_start_method("fork", force=True)  # of workers, as in a program that is started in a shell
    if moment is not None:
        moment.arm()
    sys.exit(console.train_net(arguments))


@dataclass(frozen=True)
class Ended:
    """A training that has ended."""

    code: int
    """Exit code; that of a signal is negative."""
    output: str
    """What it wrote to the terminal."""


def train_until(
    arguments: list[str], output: Path, moment: Moment | None = None, seconds: float = 600
) -> Ended:
    """Run a training until it ends, at `moment` if it gets there, and for some seconds at most."""
    process = _CONTEXT.Process(target=_main, args=(arguments, output, moment))
    # Before Python 3.12 the server does not get sys.path otherwise.
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))):
        process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"the training hangs: {output.read_text()[-2000:]}")
    return Ended(process.exitcode, output.read_text())


def killed_while_writing(action: Callable[[], Any], share: float) -> None:
    """Run an action in a process that is killed while it writes its first file.

    Args:
        action: writes the file with ``write_atomically``.
        share: of the file's bytes that are written by then.
    """
    process = get_context("fork").Process(target=_write_and_die, args=(action, share))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def _write_and_die(action: Callable[[], Any], share: float) -> None:
    write = Path.write_bytes

    def poisoned(path: Path, data: bytes) -> None:
        write(path, data[: int(share * len(data))])
        os.kill(os.getpid(), signal.SIGKILL)

    with patch.object(Path, "write_bytes", poisoned):
        action()


def results(out: Path) -> dict[str, Any]:
    """All that a run leaves and that takes no time: equal for runs that are equal bit for bit."""
    final = torch.load(out / "model_final.pth", weights_only=True)
    state = final["run_state"]
    final["trainer"]["hooks"].pop("RunRecordWriter")
    for key in ("config", "logs", "events"):
        state.pop(key)
    found = {f"final.{name}": value for name, value in _flat(final).items()}
    if (out / "model_best.pth").is_file():
        best = torch.load(out / "model_best.pth", weights_only=True)
        found |= {f"best.{name}": value for name, value in _flat(best["model"]).items()}
        found["best.iteration"] = best["iteration"]
    found["metrics"] = [
        {name: value for name, value in json.loads(line).items() if name not in _TIMES}
        for line in (out / "metrics.json").read_text().splitlines()
    ]
    found["class_losses"] = (out / "class_losses.jsonl").read_text()
    found["events"] = events(out)
    if (out / "evaluation.json").is_file():
        found["evaluation"] = (out / "evaluation.json").read_text()
    found["report"] = (out / "report.html").is_file()
    found["last_checkpoint"] = (out / "last_checkpoint").read_text()
    found["left"] = sorted(p.name for p in out.glob(".*")) + sorted(
        p.name for p in out.glob("*.lock")
    )
    return found


def events(out: Path) -> list[tuple]:
    """Tag, step and value of all events, sorted; an event that is there twice is here twice."""
    found = []
    for path in out.glob("events.out.tfevents.*"):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag not in _TIMES:
                    found.append((value.tag, event.step, repr(value.tensor.float_val)))
    return sorted(found)


def different(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names of the results that differ."""
    return [
        name
        for name in sorted(a.keys() | b.keys())
        if name not in a or name not in b or not _equal(a[name], b[name])
    ]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    return json.dumps(a) == json.dumps(b)  # where NaN equals NaN


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, dict | list) and tree:
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
        flat: dict[str, Any] = {}
        for name, value in pairs:
            flat |= _flat(value, f"{prefix}{name}.")
        return flat
    return {prefix: tree}


def at(function: str, call: int, number: int = signal.SIGKILL, after: bool = False) -> Moment:
    """A moment by the call of a function."""
    return Moment(function, call, after, number)
