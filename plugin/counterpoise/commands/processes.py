"""The processes of a training: started here, or by ``torchrun``, whose processes join.

A launcher's environment that cannot be honoured is refused: ignored, it would make several separate
trainings that write into one folder.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from multiprocessing.connection import wait
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import multiprocessing

from counterpoise.errors import RunFailed, UserError

#: What torchrun tells each process.
TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
#: Launcher -> where it tells each process how many there are.
OTHER_LAUNCHERS = {
    "srun": "SLURM_STEP_NUM_TASKS",
    "mpirun": "OMPI_COMM_WORLD_SIZE",
    "mpiexec": "PMI_SIZE",
}
#: For one process to wait for the others, such as while the first of them reads a dataset.
TIMEOUT = timedelta(minutes=30)
#: Seconds in which the other processes may end by themselves where one has failed, and where one
#: was told to stop, as the first of them may still be saving.
GRACE, SAVING = 5.0, 300.0
#: Exit codes of a process that SIGTERM or Ctrl-C has told to stop.
TOLD_TO_STOP = (128 + signal.SIGTERM, 128 + signal.SIGINT)
#: What a process says of itself where another one has gone.
LOST = "has lost another one"


@dataclass(frozen=True)
class Place:
    """Where a process stands among those of a training.

    Attributes:
        rank: among all, from 0.
        local_rank: among those of its machine, from 0; the number of its GPU.
        local_size: processes on its machine.
        size: of all.
        address: at which they meet, as ``torch.distributed.init_process_group`` takes it.
    """

    rank: int
    local_rank: int
    local_size: int
    size: int
    address: str


@dataclass(frozen=True)
class Launch:
    """Processes to start on this machine.

    Attributes:
        local_size: how many.
        machines: on which the training runs.
        machine: number of this one, from 0.
        address: of machine 0, or ``auto`` on a single machine.
    """

    local_size: int = 1
    machines: int = 1
    machine: int = 0
    address: str = "auto"

    @property
    def size(self) -> int:
        """Processes on all machines, each of which starts as many."""
        return self.local_size * self.machines

    def places(self) -> list[Place]:
        """Where each process of this machine stands."""
        address = f"tcp://127.0.0.1:{_free_port()}" if self.address == "auto" else self.address
        first = self.machine * self.local_size
        return [
            Place(first + i, i, self.local_size, self.size, address) for i in range(self.local_size)
        ]


def place_by_launcher(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Where a launcher has put this process; None where it was started alone.

    Raises:
        UserError: the launcher is not torchrun, or says only a part of what torchrun says.
    """
    if "WORLD_SIZE" not in environment and "RANK" not in environment:
        for launcher, variable in OTHER_LAUNCHERS.items():
            if environment.get(variable, "1") != "1":
                raise UserError(
                    f"{variable} says that {launcher} has started {environment[variable]} "
                    "processes, which cannot join each other: let it start one `torchrun` per "
                    "machine"
                )
        return None
    missing = [name for name in TORCHRUN if not environment.get(name)]
    if missing:
        raise UserError(
            "the environment holds a part of what torchrun tells its processes, but not "
            f"{', '.join(missing)}: start the program by torchrun, or unset RANK and WORLD_SIZE"
        )
    try:
        rank, local_rank, size, local_size = (int(environment[name]) for name in TORCHRUN[:4])
    except ValueError as error:
        raise UserError(
            f"{', '.join(TORCHRUN[:4])} must be whole numbers ({error}): start the program by "
            "torchrun"
        ) from error
    if size % local_size:
        raise UserError(
            f"of {size} processes {local_size} are on this machine, but every machine must have as "
            "many: give each torchrun the same --nproc-per-node"
        )
    return Place(rank, local_rank, local_size, size, "env://") if size > 1 else None


@contextlib.contextmanager
def joined(place: Place, on_gpu: bool) -> Iterator[None]:
    """Be one of several processes within the block.

    Args:
        place: of this process.
        on_gpu: whether each has a GPU, or all share the CPU.

    Raises:
        UserError: there are fewer GPUs than processes, or the others cannot be reached.
        RunFailed: another process has ended, or does not answer.
    """
    gpus = torch.cuda.device_count()
    if on_gpu and place.local_size > gpus:
        raise UserError(
            f"{place.local_size} processes on a machine with {gpus} GPUs: start at most {gpus}, or "
            "set MODEL.DEVICE cpu"
        )
    if on_gpu:
        torch.cuda.set_device(place.local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max((os.cpu_count() or 1) // place.local_size, 1))
    # Imported within a group, as DistributedDataParallel does, its functions keep that group as the
    # default of their arguments for as long as Python lives.
    import_module("torch.distributed.nn")
    try:
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            init_method=place.address,
            rank=place.rank,
            world_size=place.size,
            timeout=TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"process {place.rank} of {place.size} cannot join the others at {place.address} "
            f"({_first_line(error)}): check the address and that all machines have started"
        ) from error
    comm.create_local_process_group(place.local_size)
    comm.synchronize()
    failed = False
    try:
        yield
    except BaseException as error:
        failed = True
        _forget_values(error)
        if not _tells_of_another(error):
            raise
        raise RunFailed(
            f"process {place.rank} of {place.size} {LOST} ({_first_line(error)}): see "
            "what that one says, and go on with --resume"
        ) from error
    finally:
        _leave(failed and on_gpu)


def _forget_values(error: BaseException | None) -> None:
    """Let go of what the functions that an error has ended still hold, the model among it."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _tells_of_another(error: BaseException) -> bool:
    """Whether an error says that another process has ended, or does not answer."""
    # torch gives the errors of gloo and NCCL no class of their own on every version.
    words = ("connection closed", "connection reset", "broken pipe", "timed out", "nccl")
    own = "invalid usage", "duplicate gpu"  # NCCL's words for what this process asks of it
    text = str(error).lower()
    lost = isinstance(error, RuntimeError) and not isinstance(error, RunFailed)
    return lost and any(word in text for word in words) and not any(word in text for word in own)


def _leave(abandoned: bool) -> None:
    """End the group and its threads, which live for as long as anything refers to it.

    Where they outlive the program, one of them may want Python while that is torn down, and the
    process is aborted after all its work.

    Args:
        abandoned: whether the others are in the middle of something, which NCCL would wait for, so
            that a process that has failed would not end; the end of the process ends its group.
    """
    if not abandoned:
        dist.destroy_process_group()
    comm._LOCAL_PROCESS_GROUP = None
    for keeper in (comm.create_local_process_group, comm._get_global_gloo_group):
        keeper.cache_clear()
    gc.collect()  # a trainer and its model, which refers to the group, are in a circle


def start_processes(
    task: Callable[[Any], None], argument: Any, on_gpu: bool, launch: Launch
) -> None:
    """Run ``task(argument)`` in several processes of this machine, and wait for them.

    SIGTERM is handed on to them. Where one fails the others are ended.

    Args:
        task: a function of a module.
        argument: its argument, which can be pickled.
        on_gpu: whether each has a GPU.
        launch: how many.

    Raises:
        UserError, RunFailed: what a process has raised, or died of.
        SystemExit: a process was told to stop, or has printed a traceback; its exit code.
    """
    places = launch.places()
    sentences = multiprocessing.get_context("spawn").SimpleQueue()
    # torch's function, since its processes end with this one even where it is killed.
    started = multiprocessing.start_processes(
        _run, (task, argument, on_gpu, places, sentences), launch.local_size, join=False
    ).processes
    former = signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in started])
    try:
        failed = _wait(started)
    finally:
        signal.signal(signal.SIGTERM, former)
    if failed is not None:
        _raise(sentences, places[failed].rank, started[failed].exitcode)


def _run(
    local_rank: int,
    task: Callable[[Any], None],
    argument: Any,
    on_gpu: bool,
    places: list[Place],
    sentences: Any,
) -> None:
    try:
        with joined(places[local_rank], on_gpu):
            task(argument)
    except (UserError, RunFailed) as error:
        sentences.put((type(error), str(error)))
        sys.exit(2 if isinstance(error, UserError) else 1)


def _wait(processes: list[Any]) -> int | None:
    """Wait for all processes; where one fails end the others and return its index."""
    running = {process.sentinel: i for i, process in enumerate(processes)}
    failed = None
    with contextlib.suppress(KeyboardInterrupt):  # they have got the signal, too
        while running and failed is None:
            for sentinel in wait(list(running)):
                process = processes[running[sentinel]]
                process.join()
                # One that was killed is the cause of what others that end with it say.
                if process.exitcode and (failed is None or process.exitcode < 0):
                    failed = running[sentinel]
                del running[sentinel]
        if failed is not None:
            seconds = SAVING if processes[failed].exitcode in TOLD_TO_STOP else GRACE
            _end([processes[i] for i in running.values()], seconds)
    for process in processes:
        process.join()
    if failed is None:  # after Ctrl-C, which each of them ends with a code of its own
        failed = next((i for i, process in enumerate(processes) if process.exitcode), None)
    return failed


def _end(processes: list[Any], seconds: float) -> None:
    """Give processes time to end by themselves, as they do once they miss the failed one."""
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(until - time.monotonic(), 0))
    for process in processes:
        process.kill()


def _raise(sentences: Any, rank: int, code: int) -> None:
    """Raise for the process `rank`, which ended first and with `code`."""
    said = []
    while not sentences.empty():
        said.append(sentences.get())
    for kind, text in sorted(said, key=lambda each: LOST in each[1]):
        if LOST not in text or code == 1:
            raise kind(text)
    if code < 0:
        raise RunFailed(
            f"process {rank} was ended from outside by {signal.Signals(-code).name}, perhaps for "
            "want of memory: go on with --resume"
        )
    raise SystemExit(code)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
