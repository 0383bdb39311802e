"""Two training processes that the tests share: starting one takes seconds, a task milliseconds."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

WORLD_SIZE = 2


class TrainingProcesses:
    """Processes that are one gloo group on this machine, each with a pool of one worker."""

    def __init__(self, workers: list[ProcessPoolExecutor]) -> None:
        self.workers = workers

    def start(self, task: Callable, *arguments: Any) -> Callable[[], list]:
        """Start ``task(rank, *arguments)`` in every process.

        Args:
            task: a function of a module, since it is found by its name in the other process.
            arguments: passed on to it.

        Returns:
            function that waits for the results and returns them in the order of the ranks.
        """
        running = [w.submit(task, rank, *arguments) for rank, w in enumerate(self.workers)]

        def results() -> list:
            wait(running)  # a process that still waits for one that failed must not meet the next
            return [future.result() for future in running]

        return results

    def run(self, task: Callable, *arguments: Any) -> list:
        """Run ``task(rank, *arguments)`` in every process and return the results by rank."""
        return self.start(task, *arguments)()


def join_group(rank: int, store: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=WORLD_SIZE,
        timeout=timedelta(seconds=60),  # a process that waits for one that failed fails too
    )


@contextmanager
def training_processes(folder: Path) -> Iterator[TrainingProcesses]:
    """Start the processes; `folder` holds the file by which they find each other."""
    context = get_context("spawn")
    workers = [ProcessPoolExecutor(1, context) for _ in range(WORLD_SIZE)]
    try:
        processes = TrainingProcesses(workers)
        processes.run(join_group, folder / "store")
        yield processes
    finally:
        for worker in workers:
            worker.shutdown()
