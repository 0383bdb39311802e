"""Processes that load images for another one."""

import os
import signal
import threading
from multiprocessing import parent_process


def leave_signals_to_parent(_: int = 0) -> None:
    """Let a worker live on where a signal is for all processes of a run, as Ctrl-C in a terminal.

    The main process needs it to finish the step, takes an end that it has not asked for as an
    error, and asks with a SIGTERM of its own.

    Args:
        _: number of the worker, which ``worker_init_fn`` of a loader is given.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on every system
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by_parent, args=(parent_process().pid,), daemon=True).start()


def _end_by_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
