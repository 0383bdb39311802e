"""One OUTPUT_DIR takes one run, and a folder that vanishes is said in a sentence."""

import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from counterpoise.errors import UserError
from counterpoise.training import run_lock
from counterpoise.training.run_lock import FolderGone, FolderGuard, RunLock

HOLD = """
import sys
from pathlib import Path
from counterpoise.training.run_lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_folder_in_use_is_refused_with_its_owner_and_free_when_that_is_killed(tmp_path, owner):
    said = f"is in use by a run of process {owner.pid} on {socket.gethostname()}"
    with pytest.raises(UserError, match=said), RunLock(tmp_path):
        pass
    owner.kill()
    owner.wait()
    assert (tmp_path / run_lock.FILE_NAME).exists()  # it had no time to remove it
    with RunLock(tmp_path):
        content = json.loads((tmp_path / run_lock.FILE_NAME).read_text())
        assert content == {"host": socket.gethostname(), "pid": os.getpid()}
    assert not (tmp_path / run_lock.FILE_NAME).exists()


def test_a_folder_is_free_after_its_run(tmp_path, owner):
    owner.communicate("")
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "elsewhere", "pid": 1}'])
def test_a_file_that_nobody_has_locked_is_no_lock(tmp_path, content):
    (tmp_path / run_lock.FILE_NAME).write_text(content)
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize("host, alive, taken", [
    ("here", True, True), ("here", False, False), ("elsewhere", True, False),
])  # fmt: skip
def test_without_locks_of_the_file_system_a_live_process_of_this_host_counts(
    tmp_path, monkeypatch, owner, host, alive, taken
):
    if not alive:
        owner.kill()
        owner.wait()

    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "lockf", no_locks)
    name = socket.gethostname() if host == "here" else host
    (tmp_path / run_lock.FILE_NAME).write_text(json.dumps({"host": name, "pid": owner.pid}))
    if taken:
        with pytest.raises(UserError, match="is in use"), RunLock(tmp_path):
            pass
    else:
        with RunLock(tmp_path):
            pass


@pytest.mark.parametrize("again", [False, True], ids=["gone", "made anew"])
def test_a_folder_that_vanishes_is_said_in_a_sentence(tmp_path, again):
    folder = tmp_path / "out"
    folder.mkdir()
    guard = FolderGuard(folder)
    guard.trainer = SimpleNamespace(iter=7)
    guard.before_train()
    guard.after_step()
    folder.rename(tmp_path / "kept")
    if again:
        folder.mkdir()
    with pytest.raises(FolderGone, match=r"was removed while the training ran, .* in iteration 7"):
        guard.after_step()
