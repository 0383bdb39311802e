"""Ablations whose trainings are stubs: a process that copies a finished run, or fails."""

import subprocess
import sys
from pathlib import Path

import yaml

from counterpoise.evaluation import evaluate_detections
from counterpoise.evaluation.stored import write_inference
from counterpoise.inference.evaluator import write_evaluations
from counterpoise.training.run_record import RunRecord

#: A training in a few milliseconds. It notes that it ran, waits, and leaves a run, or a checkpoint
#: and what it says as it fails, or an exit code.
STUB = """
import shutil, sys, time
from pathlib import Path
folder, finished, seconds, fails, starts = sys.argv[1:]
with open(starts, "a") as file:
    file.write(folder + "\\n")
time.sleep(float(seconds))
if fails:
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, "last_checkpoint").write_text("model_0000001.pth")
    sys.exit(int(fails) if fails.isdigit() else fails)
shutil.copytree(finished, folder, dirs_exist_ok=True)
"""

#: Runs ``counterpoise ablate`` with stubs in a process that can be killed, and interrupted even
#: where the tests are a job in the background, which ignores Ctrl-C.
DRIVER = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:0] = {path!r}
from ablations import use_stubs
from counterpoise.commands import ablate
from counterpoise.commands.console import main
from pathlib import Path
use_stubs(lambda name, stub: setattr(ablate, name, stub), Path({folder!r}), seconds={seconds})
sys.exit(main(sys.argv[1:]))
"""


def write_finished_run(folder: Path, truth, detections, training, name="mine_test") -> Path:
    """All that a training leaves and an ablation reads."""
    result = evaluate_detections(truth, detections, training, resamples=10)
    write_inference(folder, name, truth, detections, result, training, seconds_per_image=0.1)
    write_evaluations({name: result}, folder / "evaluation.json")
    RunRecord(
        "counterpoise train", (), 1, finished="2026-01-01T00:00:00+00:00", training_seconds=90,
        hardware="1 x CPU", versions={"torch": "2.4"},
    ).write(folder / "run.json")  # fmt: skip
    (folder / "report.html").write_text("")
    return folder


def write_config(folder: Path, **keys) -> Path:
    """A config of a dataset that is never read, and other keys."""
    entry = {"FORMAT": "coco", "IMAGES": "images", "ANNOTATIONS": "labels.json"}
    tree = {
        "_BASE_": "quick/baseline.yaml",
        "DATASETS": {
            "CUSTOM": {"mine_train": entry, "mine_test": entry},
            "TRAIN": ["mine_train"],
            "TEST": ["mine_test"],
        },
    }
    for key, value in keys.items():
        node = tree
        *parents, last = key.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def use_stubs(replace, folder: Path, seconds=0.0, fails=None) -> None:
    """Let ``counterpoise ablate`` start stubs.

    Args:
        replace: called with the name of a function of the command, and what takes its place.
        folder: holds the finished runs, one per seed, ``seed<N>`` or ``<variant>-seed<N>``; the
            stubs note their starts in ``starts.txt``.
        seconds: that a training takes.
        fails: by variant and seed what a training says as it fails, or its exit code.
    """

    def command(trial, imports):
        own = folder / f"{trial.variant}-seed{trial.seed}"
        finished = own if own.is_dir() else folder / f"seed{trial.seed}"
        return [
            sys.executable, "-S", "-c", STUB, str(trial.folder), str(finished), str(seconds),
            (fails or {}).get((trial.variant, trial.seed), ""), str(folder / "starts.txt"),
        ]  # fmt: skip

    replace("_command", command)


def start_driver(folder: Path, arguments, seconds: float) -> subprocess.Popen:
    """Start an ablation of stubs in a process of its own."""
    program = DRIVER.format(path=sys.path, folder=str(folder), seconds=seconds)
    return subprocess.Popen(
        [sys.executable, "-c", program, "ablate", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def starts(folder: Path) -> list[str]:
    """Folders of the trainings that were started, in that order."""
    file = folder / "starts.txt"
    return file.read_text().splitlines() if file.is_file() else []


def remove_starts(folder: Path) -> None:
    """Forget them."""
    (folder / "starts.txt").unlink(missing_ok=True)
