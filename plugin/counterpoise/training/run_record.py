"""What a training was: its command, seed, time, hardware and versions, in ``run.json``."""

import dataclasses
import importlib
import os
import platform
import shlex
import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path

import torch

from counterpoise.errors import UserError
from counterpoise.utils.decoding import read_record
from counterpoise.utils.files import write_json

#: Name of the file in a run's OUTPUT_DIR.
FILE_NAME = "run.json"


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def hardware() -> str:
    """Processors and GPUs of this machine, such as ``"2 x AMD EPYC 7763, no GPU"``."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        model = next(
            (line.split(": ")[1] for line in lines if line.startswith("model name")), model
        )
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    kinds = [f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)]
    return ", ".join([f"{os.cpu_count()} x {model}", *(kinds or ["no GPU"])])


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that a result depends on; None where one is absent."""
    packages = ("torch", "torchvision", "detectron2", "counterpoise")
    return {"python": platform.python_version()} | {
        name: str(importlib.import_module(name).__version__) if find_spec(name) else None
        for name in packages
    }


def command_line() -> str:
    """Command of this process as a shell takes it, without the path of the interpreter."""
    return shlex.join(["python", *sys.argv])


@dataclass(frozen=True)
class RunRecord:
    """A training run, written when it starts and when it ends."""

    command: str
    """Command line, quoted for a shell."""
    config_files: tuple[str, ...]
    """Config files as given, in order."""
    seed: int
    """``SEED`` of the config; >= 0 unless the seed was left to chance."""
    started: str = field(default_factory=now)
    """ISO 8601, UTC; of a resumed run, when it was first started."""
    finished: str | None = None
    """ISO 8601, UTC, after the last iteration; None until then."""
    training_seconds: float = 0.0
    """Seconds spent in iterations, data loading included and evaluation not; of a resumed run,
    all iterations that led to its model."""
    resumed_from: int | None = None
    """Iteration at which the run was resumed the last time."""
    hardware: str = field(default_factory=hardware)
    """Processors and GPUs."""
    versions: dict[str, str | None] = field(default_factory=versions)
    """Package -> version."""

    def write(self, path: Path) -> Path:
        """Write the record as JSON.

        Raises:
            UserError: the file cannot be written.
        """
        return write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> "RunRecord":
        """Read a record.

        Raises:
            UserError: the file is missing, incomplete or not the record of a run.
        """
        fix = "remove the file, or train the run again"
        record = read_record(path, cls, fix)
        for name in ("started", "finished"):
            moment = getattr(record, name)
            try:
                _ = moment is None or datetime.fromisoformat(moment)
            except ValueError as error:
                raise UserError(
                    f"{path}.{name}: {moment!r:.40} is not an ISO 8601 time: {fix}"
                ) from error
        return record
