"""One OUTPUT_DIR, one run: a lock with its owner's name, and a folder that must not vanish."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
from pathlib import Path
from typing import TextIO

from detectron2.engine import HookBase

from counterpoise.errors import UserError

#: Name of the file in OUTPUT_DIR, while a run is at work there.
FILE_NAME = "run.lock"

logger = logging.getLogger(__name__)


class RunLock:
    """Holds a folder for this process within a ``with`` block.

    The lock is the kernel's (POSIX record lock), which frees it when the process dies, however it
    dies, and which workers do not inherit. The file says whose it is. Where a file system has no
    locks, a process that is alive on the same host counts as one.
    """

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: that exists.
        """
        self.path = folder / FILE_NAME
        self._file: TextIO | None = None

    def __enter__(self) -> "RunLock":
        """Take the lock.

        Raises:
            UserError: another process has it, or the folder cannot be written.
        """
        try:
            while self._file is None:
                self._file = self._locked()
        except OSError as error:
            raise UserError(
                f"OUTPUT_DIR {self.path.parent} cannot be written ({error.strerror}): choose "
                "another folder"
            ) from error
        if former := self._owner(self._file):
            logger.info("The run of %s ended without a word: its place is taken over", former)
        self._file.seek(0)
        self._file.truncate()
        json.dump({"host": socket.gethostname(), "pid": os.getpid()}, self._file)
        self._file.flush()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # the folder may be gone
            self.path.unlink()
        self._file.close()

    def _locked(self) -> TextIO | None:
        """Open and lock the file; None where its owner has just removed it."""
        file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            taken = error.errno in (errno.EACCES, errno.EAGAIN)
            if taken or self._alive(file):
                raise UserError(
                    f"OUTPUT_DIR {self.path.parent} is in use by a run of "
                    f"{self._owner(file) or 'another process'}: wait for its end, stop it, or set "
                    "another OUTPUT_DIR"
                ) from error
        try:
            same = os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            same = False
        if same:
            return file
        file.close()
        return None

    @classmethod
    def _owner(cls, file: TextIO) -> str:
        """Who has written the file, in words; empty where nobody has."""
        owner = cls._content(file)
        return f"process {owner['pid']} on {owner['host']}" if owner else ""

    @classmethod
    def _alive(cls, file: TextIO) -> bool:
        owner = cls._content(file)
        if not owner or owner["host"] != socket.gethostname():
            return False
        try:
            os.kill(owner["pid"], 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return owner["pid"] != os.getpid()

    @staticmethod
    def _content(file: TextIO) -> dict[str, str | int]:
        file.seek(0)
        with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError, ValueError):
            content = json.load(file)
            return {"host": str(content["host"]), "pid": int(content["pid"])}
        return {}


class FolderGone(UserError):
    """OUTPUT_DIR was removed while a run wrote to it."""


class FolderGuard(HookBase):
    """Ends a training whose OUTPUT_DIR has vanished, before a writer makes an empty one."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: OUTPUT_DIR.
        """
        self.folder = folder

    def before_train(self) -> None:
        """Remember the folder, which one made anew is not."""
        self._inode = self.folder.stat().st_ino

    def after_step(self) -> None:
        """Look for the folder.

        Raises:
            FolderGone: it is not there, or is another one.
        """
        try:
            there = self.folder.stat().st_ino == self._inode
        except OSError:
            there = False
        if not there:
            raise FolderGone(
                f"OUTPUT_DIR {self.folder} was removed while the training ran, and its checkpoints "
                f"with it, in iteration {self.trainer.iter}: start the run again"
            )
