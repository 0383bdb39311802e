"""Being told to stop: by a cluster's SIGTERM, or by Ctrl-C."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from detectron2.utils import comm

STDERR = 2
#: Printed at once, as an iteration may take long.
NOTICES = {
    signal.SIGTERM: "SIGTERM: the training saves and ends after this iteration\n",
    signal.SIGINT: "Ctrl-C: the training saves and ends after this iteration; once more ends it at "
    "once, without saving\n",
}


class Stopped(SystemExit):
    """The end of a training that was told to stop; exit code 143 for SIGTERM, 130 for Ctrl-C.

    It is no ``Exception``: nothing has failed, and nothing is to be handled but the way out.
    """

    def __init__(self, number: int) -> None:
        """
        Args:
            number: of the signal.
        """
        super().__init__(128 + number)
        self.name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class StopRequest:
    """Keeps a signal until the step is done; within a ``with`` block, and in the main thread alone.

    A second Ctrl-C meets the system's own handler, which ends the process at once.
    """

    def __init__(self) -> None:
        self._number = 0
        self._at_once = False
        self._former: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._receive) for number in NOTICES}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            # A handler that no Python code has set is given as None.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self._number = number
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
        if self._at_once:
            raise Stopped(number)
        if comm.is_main_process():
            # Not by a logger or print, in the middle of which the signal may have come.
            os.write(STDERR, NOTICES[number].encode())

    def asked(self) -> int:
        """Number of the signal that any of the processes has got, 0 for none; for all to call."""
        return max(comm.all_gather(self._number))

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal end the block where it stands, for what a resumed run does again.

        Raises:
            Stopped: a signal comes, or came before the block.
        """
        if self._number:
            raise Stopped(self._number)
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False
