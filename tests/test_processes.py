"""Trainings in several processes: started by the program, or by torchrun, on a CPU."""

import contextlib
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

import pytest
import torch
import torch.distributed as dist

from counterpoise.commands import console, processes, train
from counterpoise.commands.processes import TORCHRUN, Place, place_by_launcher
from counterpoise.errors import RunFailed, UserError
from interruptions import different, results
from models import CONFIGS, ROOT
from runs import NO_TEST, SMALL, train_net, write_dataset
from test_resume import SHORT

#: Of either launcher.
KILLS = 5
#: What torchrun tells the second of four processes on two machines.
SECOND = dict(zip(TORCHRUN, ("1", "1", "4", "2", "localhost", "29500"), strict=True))
LAUNCHERS = {
    "program": [str(ROOT / "train_net.py"), "--num-processes", "2"],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                 str(ROOT / "train_net.py")],
}  # fmt: skip


def command(launcher: str, data: Path, out: Path, *overrides: str) -> list[str]:
    files = ["--config-file", str(CONFIGS / "quick" / "focal_weights_ohem.yaml")]
    given = [*files, "--config-file", str(data), *SMALL, "OUTPUT_DIR", str(out), *overrides]
    return [sys.executable, *LAUNCHERS[launcher], *given]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT / "plugin"), str(ROOT / "tests")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def run(launcher: str, data: Path, out: Path, *overrides: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(launcher, data, out, *overrides),
        env=environment(), capture_output=True, text=True, timeout=600,
    )  # fmt: skip


#: Writes at the end of a program, before Python is torn down, which threads there are.
THREADS_AT_EXIT = """
import atexit, os
from pathlib import Path

def write():
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    Path({folder!r}, "threads" + os.environ.get("RANK", "")).write_text(" ".join(names))

atexit.register(write)
"""


# Of the processes that the program starts, two other tests here show in less time that they train
# and that they evaluate.
@pytest.mark.parametrize("launcher", [pytest.param("program", marks=pytest.mark.slow), "torchrun"])
def test_processes_train_together_and_the_first_one_writes(tmp_path, launcher):
    data, out = write_dataset(tmp_path / "shapes"), tmp_path / "out"
    own = tmp_path / "own.py"
    own.write_text(THREADS_AT_EXIT.format(folder=str(tmp_path)))
    done = run(launcher, data, out, f"--import={own}")
    assert done.returncode == 0, done.stderr
    if launcher == "torchrun":  # of the program's own processes Python is not torn down
        # A thread of gloo that wants Python while that is torn down aborts the process.
        for rank in range(2):
            assert "gloo" not in (tmp_path / f"threads{rank}").read_text()
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "total_loss" in line] == [2]
    assert (out / "log.txt.rank1").is_file()
    (result,) = json.loads((out / "evaluation.json").read_text()).values()
    assert sum(c["test_boxes"] for c in result["per_class"]) == 3
    (inference,) = (out / "inference").iterdir()
    assert inference.is_dir() or inference.stat().st_size > 0


def test_evaluation_in_two_processes_is_that_of_one(tmp_path):
    data = write_dataset(tmp_path / "shapes")
    assert train_net(data, tmp_path / "one") == 0
    weights = str(tmp_path / "one" / "model_final.pth")
    # The validation set has two images: each process gets one.
    both = run("program", data, tmp_path / "two", "--eval-only", "MODEL.WEIGHTS", weights)
    assert both.returncode == 0, both.stderr
    one, two = (
        json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("one", "two")
    )
    assert one == two


def test_a_process_that_is_killed_ends_the_run_with_its_number(tmp_path):
    data, out = write_dataset(tmp_path / "shapes"), tmp_path / "out"
    started = subprocess.Popen(
        command("program", data, out, *NO_TEST, "SOLVER.MAX_ITER", "100000"),
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = out / "log.txt.rank1"
    deadline = time.monotonic() + 600
    while not list(out.glob("model_*.pth")):
        assert time.monotonic() < deadline and started.poll() is None
        time.sleep(0.2)
    assert log.is_file()
    second = next(pid for pid in children_of(started.pid) if rank_of(pid) == 1)
    os.kill(second, signal.SIGKILL)
    killed_at = time.monotonic()
    _, error = started.communicate(timeout=60)
    assert started.returncode == 1 and time.monotonic() - killed_at < 60
    last = error.strip().splitlines()[-1]
    assert "process 1 was ended from outside by SIGKILL" in last and "--resume" in last


#: Lets a process of a training be killed at a call of a Python function, or counts the calls.
ENDED_AT_A_CALL = """
import os
from detectron2.utils import comm
from interruptions import Moment
rank, call = map(int, os.environ["ENDED_AT"].split(":"))
if comm.get_rank() == rank:
    Moment(call=call).arm()
"""


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_of_which_one_is_killed_at_random_end_as_if_none_had_been(
    tmp_path, launcher, monkeypatch
):
    data, own = write_dataset(tmp_path / "shapes"), tmp_path / "own.py"
    own.write_text(ENDED_AT_A_CALL)

    def train(out, rank, call, *flags):
        monkeypatch.setenv("ENDED_AT", f"{rank}:{call}")
        return run(launcher, data, tmp_path / out, f"--import={own}", *flags, *SHORT)

    never, calls = -1, []
    for rank in range(2):
        done = train(f"whole{rank}", rank, never)
        assert done.returncode == 0, done.stderr
        calls.append(int(re.findall(r"(\d+) calls", done.stdout)[-1]))
    expected = results(tmp_path / "whole0")
    assert different(expected, results(tmp_path / "whole1")) == []
    draw, kills, ends = random.Random(0), 0, 0
    while kills < KILLS:
        out, flags, code = f"out{ends}", [], 1
        while code:
            rank = draw.randrange(2)
            done = train(out, rank, draw.randrange(calls[rank]), *flags)
            code, flags = done.returncode, ["--resume"]
            kills += code != 0
            assert not code or "SIGKILL" in done.stderr, done.stderr
        ends += 1
        assert different(expected, results(tmp_path / out)) == []


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rank_of(pid: int) -> int | None:
    """Rank of a training process by the log that it holds open."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if link.is_symlink() and os.readlink(link).endswith("log.txt.rank1"):
            return 1
    return None


def test_bad_input_of_several_processes_is_one_sentence_and_code_2(tmp_path):
    data = write_dataset(tmp_path / "shapes")
    done = run("program", data, tmp_path / "out", "SOLVER.IMS_PER_BATCH", "3")
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith("train_net.py: error: SOLVER.IMS_PER_BATCH is 3")
    )
    assert "Traceback" not in done.stderr


def test_a_process_knows_its_place_from_torchrun():
    place = place_by_launcher(SECOND)
    assert (place.rank, place.local_rank, place.size, place.local_size) == (1, 1, 4, 2)
    assert place_by_launcher({}) is None
    alone = dict(zip(TORCHRUN, ("0", "0", "1", "1", "localhost", "29500"), strict=True))
    assert place_by_launcher(alone) is None


@pytest.mark.parametrize(
    "environment, said",
    [
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "mpirun has started 4 processes"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "srun has started 2 processes"),
        ({"WORLD_SIZE": "2"}, "but not RANK, LOCAL_RANK"),
        ({**SECOND, "MASTER_ADDR": ""}, "but not MASTER_ADDR"),
        ({**SECOND, "RANK": "first"}, "must be whole numbers"),
        ({**SECOND, "WORLD_SIZE": "5"}, "of 5 processes 2 are on this machine"),
    ],
)
def test_a_launcher_that_cannot_be_honoured_is_refused(environment, said):
    with pytest.raises(UserError, match=said):
        place_by_launcher(environment)


@pytest.mark.parametrize("flag", ["--num-gpus=2", "--num-processes=2", "--num-machines=2"])
def test_numbers_beside_those_of_torchrun_are_refused(tmp_path, monkeypatch, capsys, flag):
    data = write_dataset(tmp_path / "shapes")
    for name, value in SECOND.items():
        monkeypatch.setenv(name, value)
    assert train_net(data, tmp_path / "out", flag) == 2
    assert "torchrun has started 4 processes: leave it out" in capsys.readouterr().err


def test_processes_of_a_cpu_are_asked_for_by_their_own_flag(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    data = write_dataset(tmp_path / "shapes")
    assert train_net(data, tmp_path / "out", "--num-gpus=2") == 2
    assert "--num-processes for several processes on the CPU" in capsys.readouterr().err


def test_gpus_that_a_training_on_the_cpu_would_leave_idle_are_refused(
    tmp_path, monkeypatch, capsys
):
    data = write_dataset(tmp_path / "shapes")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert train_net(data, tmp_path / "out", "--num-gpus=2") == 2
    assert "--num-gpus is 2, but MODEL.DEVICE is no GPU" in capsys.readouterr().err


@pytest.mark.parametrize("started_by", ["torchrun", "--num-gpus"])
def test_a_gpu_by_its_number_is_refused_for_several_processes(
    tmp_path, monkeypatch, capsys, started_by
):
    data = write_dataset(tmp_path / "shapes")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if started_by == "torchrun":
        for name, value in SECOND.items():
            monkeypatch.setenv(name, value)
    flags = ["--num-gpus=2"] if started_by == "--num-gpus" else []
    assert train_net(data, tmp_path / "out", *flags, "MODEL.DEVICE", "cuda:1") == 2
    assert "MODEL.DEVICE is 'cuda:1', but" in capsys.readouterr().err


class Cached:
    """A function without effect, with the cache that Detectron2's has."""

    def __call__(self, *_):
        pass

    def cache_clear(self):
        pass


@pytest.mark.parametrize("on_gpu, left", [(True, []), (False, ["group"])])
def test_a_process_that_fails_on_a_gpu_does_not_wait_for_what_the_others_are_in(
    monkeypatch, on_gpu, left
):
    ended = []
    monkeypatch.setattr(processes.dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(processes.dist, "destroy_process_group", lambda: ended.append("group"))
    for name in ("create_local_process_group", "_get_global_gloo_group"):
        monkeypatch.setattr(processes.comm, name, Cached())
    monkeypatch.setattr(processes.comm, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    with pytest.raises(KeyError), processes.joined(Place(0, 0, 2, 2, "env://"), on_gpu):
        raise KeyError
    assert ended == left
    with processes.joined(Place(0, 0, 2, 2, "env://"), on_gpu):
        pass
    assert ended == [*left, "group"]


def one_is_told_to_stop(folder: Path) -> None:
    pids: list[int] = [0, 0]
    dist.all_gather_object(pids, os.getpid())
    if dist.get_rank() == 1:
        raise SystemExit(128 + signal.SIGTERM)
    with contextlib.suppress(ProcessLookupError):
        while not os.kill(pids[1], 0):
            time.sleep(0.1)
    time.sleep(1)
    (folder / "saved").touch()


def test_a_process_that_still_saves_is_not_ended_where_another_was_told_to_stop(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(processes, "GRACE", 0.1)
    with pytest.raises(SystemExit, match="143"):
        processes.start_processes(one_is_told_to_stop, tmp_path, False, processes.Launch(2))
    assert (tmp_path / "saved").is_file()


def one_is_done(folder: Path) -> None:
    if dist.get_rank() == 0:
        (folder / "waits").touch()
        time.sleep(60)


def test_sigterm_reaches_the_others_where_a_process_is_done(tmp_path, monkeypatch):
    program, over, wait = os.getpid(), Event(), processes._wait

    def stop(done) -> None:
        while not over.wait(0.1):
            if done.exitcode is not None and (tmp_path / "waits").is_file():
                os.kill(program, signal.SIGTERM)
                return

    def watched(started):
        Thread(target=stop, args=(started[1],), daemon=True).start()
        return wait(started)

    monkeypatch.setattr(processes, "_wait", watched)
    try:
        with pytest.raises(RunFailed, match="process 0 was ended from outside by SIGTERM"):
            processes.start_processes(one_is_done, tmp_path, False, processes.Launch(2))
    finally:
        over.set()  # a signal from now on would be for the tests


def test_the_command_that_continues_a_training_of_torchrun_starts_torchrun(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train, "train_or_evaluate", lambda args: seen.append(args.typed))
    monkeypatch.setattr(train, "joined", lambda *_: contextlib.nullcontext())
    arguments = ["--config-file", str(write_dataset(tmp_path / "shapes"))]
    for machines, size in (("", "2"), ("--nnodes 2 ", "4")):
        for name, value in (SECOND | {"WORLD_SIZE": size}).items():
            monkeypatch.setenv(name, value)
        common = f"torchrun {machines}--nproc-per-node 2"
        for program, typed in (
            (console.train_net, "train_net.py"),
            (lambda own: console.main(["train", *own]), "-m counterpoise train"),
        ):
            assert program(arguments) == 0
            assert seen.pop() == shlex.join([*f"{common} {typed}".split(), *arguments])


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_a_single_process_that_torchrun_starts_again_goes_on(tmp_path, monkeypatch, flags):
    alone = dict(zip(TORCHRUN, ("0", "0", "1", "1", "localhost", "29500"), strict=True))
    for name, value in (alone | {"TORCHELASTIC_RESTART_COUNT": "1"}).items():
        monkeypatch.setenv(name, value)
    seen = []
    monkeypatch.setattr(train, "train_or_evaluate", seen.append)
    data = write_dataset(tmp_path / "shapes")
    assert train_net(data, tmp_path / "out", *flags) == 0
    assert [(args.resume, args.overwrite) for args in seen] == [(True, False)]


@pytest.mark.parametrize(
    "text, of_another",
    [
        ("NCCL error in: x.cpp:1, unhandled system error", True),
        ("[../gloo] Connection closed by peer [127.0.0.1]:1", True),
        ("NCCL error in: x.cpp:1, invalid usage\nDuplicate GPU detected : rank 1", False),
        ("shape '[2]' is invalid", False),
    ],
)
def test_what_this_process_has_asked_for_in_vain_is_not_laid_on_another(text, of_another):
    assert processes._tells_of_another(RuntimeError(text)) == of_another
