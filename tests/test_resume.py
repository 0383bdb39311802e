"""A training that is ended at any moment and resumed leaves what one leaves that never stopped."""

import random
import signal
from pathlib import Path

import pytest
import torch

from interruptions import Moment, at, different, results, train_until
from models import CONFIGS
from runs import NO_TEST, SMALL, write_dataset

#: Everything that has a state: repeat factors, colour, averaged weights, a best checkpoint.
STATEFUL = [
    "SOLVER.IMS_PER_BATCH", "2",
    "SOLVER.CHECKPOINT_PERIOD", "2",
    "TEST.EVAL_PERIOD", "3",
    "TEST.BEST_METRIC", "AP-tail",
    "INPUT.COLOR_JITTER", "0.4",
    "MODEL.EMA.ENABLED", "True",
    "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler",
    "DATALOADER.REPEAT_THRESHOLD", "0.9",
]  # fmt: skip
SHORT = (*STATEFUL, "SOLVER.MAX_ITER", "6", "INPUT.MIN_SIZE_TRAIN", "48")
#: Detectron2 writes metrics in iterations 19 and 39.
LONG = (
    *STATEFUL,
    "SOLVER.MAX_ITER",
    "24",
    "SOLVER.CHECKPOINT_PERIOD",
    "5",
    "TEST.EVAL_PERIOD",
    "7",
)
STEP = "detectron2.engine.train_loop:SimpleTrainer.run_step"
CHECKPOINT = "counterpoise.modeling.checkpoint:_torch_save"
TAG = "counterpoise.modeling.checkpoint:BalancedCheckpointer.tag_last_checkpoint"
EVALUATION = "counterpoise.training.trainer:evaluate"
IMAGE = "detectron2.modeling.meta_arch.rcnn:GeneralizedRCNN.inference"
REPORT = "counterpoise.commands.train:write_report"


def command(data, out, *arguments, leaf="focal_weights_ohem"):
    flags = [a for a in arguments if a.startswith("--")]
    overrides = [a for a in arguments if not a.startswith("--")]
    files = ["--config-file", str(CONFIGS / "quick" / f"{leaf}.yaml"), "--config-file", str(data)]
    return [*flags, *files, *SMALL, *overrides, "OUTPUT_DIR", str(out)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """What a short run leaves that never stopped."""
    out = tmp_path_factory.mktemp("whole") / "out"
    ended = train_until(command(data, out, *SHORT), out.parent / "log")
    assert ended.code == 0, ended.output
    return results(out)


def test_a_run_that_is_killed_time_and_again_ends_as_one_that_never_stopped(data, whole, tmp_path):
    kills = [
        at(STEP, 2),
        at(CHECKPOINT, 0, after=True),  # the second checkpoint is there under its temporary name
        at(TAG, 0),  # it is there, and last_checkpoint names the one before
        at(IMAGE, 1),
        at(REPORT, 0),
    ]
    for number, moment in enumerate(kills):
        flags = ["--resume"] if number else []
        ended = train_until(
            command(data, tmp_path / "out", *flags, *SHORT), tmp_path / "log", moment
        )
        assert ended.code == -signal.SIGKILL, ended.output
    ended = train_until(command(data, tmp_path / "out", "--resume", *SHORT), tmp_path / "log")
    assert ended.code == 0, ended.output
    assert different(whole, results(tmp_path / "out")) == []


@pytest.mark.parametrize(
    "moment, code, name",
    [
        (at(STEP, 2, signal.SIGTERM), 143, "SIGTERM"),
        (at(IMAGE, 0, signal.SIGINT), 130, "Ctrl-C"),
    ],
    ids=["in a step", "in an evaluation"],
)
def test_a_run_that_is_told_to_stop_saves_says_how_to_continue_and_does(
    data, whole, tmp_path, moment, code, name
):
    ended = train_until(command(data, tmp_path / "out", *SHORT), tmp_path / "log", moment)
    assert ended.code == code and "Traceback" not in ended.output
    # At once, as the step may take long; an evaluation ends where it stands.
    notice = f"{name}: the training saves and ends after this iteration" in ended.output
    assert notice == (name == "SIGTERM")
    said = [line for line in ended.output.splitlines() if "Stopped by" in line]
    assert len(said) == 1
    assert f"Stopped by {name} after 3 iterations, saved in " in said[0]
    assert "model_0000002.pth: continue with `python train_net.py" in said[0]
    assert said[0].endswith("--resume`")
    # More workers draw the same images.
    again = command(data, tmp_path / "out", "--resume", *SHORT, "DATALOADER.NUM_WORKERS", "2")
    ended = train_until(again, tmp_path / "log")
    assert ended.code == 0, ended.output
    assert different(whole, results(tmp_path / "out")) == []


def test_a_run_that_is_stopped_in_its_evaluation_time_and_again_keeps_its_state(
    data, whole, tmp_path
):
    stopped = at(IMAGE, 0, signal.SIGTERM)
    for flags in ([], ["--resume"], ["--resume"]):
        again = command(data, tmp_path / "out", *flags, *SHORT)
        ended = train_until(again, tmp_path / "log", stopped)
        assert ended.code == 143, ended.output
        assert "after 3 iterations, saved in " in ended.output
    ended = train_until(command(data, tmp_path / "out", "--resume", *SHORT), tmp_path / "log")
    assert ended.code == 0, ended.output
    assert different(whole, results(tmp_path / "out")) == []


def test_ctrl_c_that_the_workers_of_an_evaluation_hear_too_stops_it_like_any_other(data, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "import multiprocessing, os, signal\n"
        "from detectron2.modeling import GeneralizedRCNN\n"
        "def inference(self, *_, **__):\n"
        "    for worker in multiprocessing.active_children():\n"  # as in a terminal
        "        os.kill(worker.pid, signal.SIGINT)\n"
        "        worker.join(1)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "GeneralizedRCNN.inference = inference\n"
    )
    workers = ["DATALOADER.NUM_WORKERS", "1"]
    arguments = command(data, tmp_path / "out", f"--import={own}", *SHORT, *workers)
    ended = train_until(arguments, tmp_path / "log")
    assert ended.code == 130, ended.output
    assert "Stopped by Ctrl-C after 3 iterations, saved in " in ended.output
    assert "Traceback" not in ended.output


def test_a_second_ctrl_c_stops_at_once(data, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "import os, signal\n"
        "from detectron2.engine.train_loop import SimpleTrainer\n"
        "def step(self):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "SimpleTrainer.run_step = step\n"
    )
    arguments = command(data, tmp_path / "out", f"--import={own}", *SHORT)
    ended = train_until(arguments, tmp_path / "log")
    assert ended.code == -signal.SIGINT  # which a shell shows as 130
    assert not list((tmp_path / "out").glob("model_*.pth"))


def test_a_run_that_was_extended_equals_a_longer_one_where_its_rates_do(data, tmp_path):
    """A warm-up of Detectron2 that is longer than the run is shortened to it."""
    short = (*SHORT, "SOLVER.WARMUP_ITERS", "0", *NO_TEST)
    ended = train_until(command(data, tmp_path / "long", *short), tmp_path / "log")
    assert ended.code == 0, ended.output
    for flags in (["SOLVER.MAX_ITER", "4"], ["--resume"]):
        ended = train_until(command(data, tmp_path / "out", *short, *flags), tmp_path / "log")
        assert ended.code == 0, ended.output
    long, extended = (
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"]
        for name in ("long", "out")
    )
    assert all(torch.equal(value, extended[name]) for name, value in long.items())


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def device(request):
    """What a command line needs for it; the GPU is one that is not there."""
    return [] if request.param == "cpu" else [f"--import={Path(__file__).with_name('fake_gpu.py')}"]


@pytest.mark.slow
def test_two_processes_go_on_from_each_checkpoint_as_if_they_had_not_stopped(
    data, device, tmp_path
):
    out = tmp_path / "out"
    arguments = command(data, out, "--num-processes=2", *device, *SHORT)
    ended = train_until(arguments, tmp_path / "log")
    assert ended.code == 0, ended.output
    expected = results(out)
    assert len({key for key in expected if key.startswith("final.run_state.processes.1.")}) > 5
    gpu = expected["final.run_state.processes.1.random.cuda."]
    assert (gpu is not None) == bool(device)
    later = ["model_0000005.pth", "model_final.pth"]
    # The evaluation behind the third of the six steps has made the best checkpoint.
    for save_point, made_since in (
        ("model_0000003.pth", later),
        ("model_0000001.pth", [*later, "model_0000003.pth", "model_best.pth"]),
    ):
        for name in made_since:
            (out / name).unlink()
        (out / "last_checkpoint").write_text(save_point)
        ended = train_until(["--resume", *arguments], tmp_path / "log")
        assert ended.code == 0, ended.output
        assert different(expected, results(out)) == [], save_point


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "leaf, more",
    [("focal_weights_ohem", ()), ("baseline", ("SOLVER.OPTIMIZER", "AdamW"))],
)
def test_a_save_point_at_each_step_leads_to_the_same_end(
    data, device, tmp_path, leaf, more, workers
):
    recipe = (*device, *LONG, *more, "DATALOADER.NUM_WORKERS", str(workers))
    ended = train_until(command(data, tmp_path / "whole", *recipe, leaf=leaf), tmp_path / "log")
    assert ended.code == 0, ended.output
    expected = results(tmp_path / "whole")
    for step in (0, 5, 13, 18, 19, 22, 23):
        out = tmp_path / f"out{step}"
        stopped = at(STEP, step, signal.SIGTERM)
        ended = train_until(command(data, out, *recipe, leaf=leaf), tmp_path / "log", stopped)
        assert ended.code == 143, ended.output
        again = command(data, out, "--resume", *recipe, leaf=leaf)
        ended = train_until(again, tmp_path / "log")
        assert ended.code == 0, ended.output
        assert different(expected, results(out)) == [], step


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(data, tmp_path):
    """Moments are calls of Python functions in the main thread, drawn over all that a run makes."""
    never = Moment(call=-1)
    ended = train_until(command(data, tmp_path / "whole", *LONG), tmp_path / "log", never)
    assert ended.code == 0, ended.output
    calls = int(ended.output.splitlines()[-1].removesuffix(" calls"))
    expected = results(tmp_path / "whole")
    draw, kills, ends = random.Random(0), 0, 0
    while kills < 20:
        out = tmp_path / f"out{ends}"
        code = -signal.SIGKILL
        while code != 0:
            flags = ["--resume"] if out.exists() else []
            moment = Moment(call=draw.randrange(calls))
            ended = train_until(command(data, out, *flags, *LONG), tmp_path / "log", moment)
            code = ended.code
            assert code in (0, -signal.SIGKILL), ended.output
            kills += code != 0
        ends += 1
        assert different(expected, results(out)) == []
