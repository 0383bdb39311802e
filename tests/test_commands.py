"""The command line: quick answers, and one training under two names."""

import os
import subprocess
import sys

import pytest
from PIL import Image

import counterpoise
from counterpoise import ROI_LOSS_REGISTRY
from counterpoise.commands.arguments import argument_parser, train_parser
from counterpoise.commands.console import main, train_net
from counterpoise.errors import UserError
from counterpoise.training.run_record import RunRecord
from models import CONFIGS, ROOT
from runs import SMALL, write_dataset

COMMANDS = list(argument_parser()[1])

#: Runs a program in a process of its own; the last line says which slow packages it imported.
PROBE = """
import atexit, runpy, sys
slow = {"torch", "torchvision", "detectron2", "matplotlib", "numpy", "cv2", "PIL", "fvcore"}
atexit.register(lambda: print("imported:", sorted(slow & sys.modules.keys())))
program, *sys.argv[1:] = sys.argv[1:]
if program == "counterpoise":
    from counterpoise.commands.console import main
    sys.exit(main())
sys.argv[0] = program
runpy.run_path(program, run_name="__main__")
"""


def probe(*arguments):
    return subprocess.run(
        [sys.executable, "-c", PROBE, *map(str, arguments)], capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "command",
    [
        ("counterpoise",),
        *(("counterpoise", name) for name in COMMANDS),
        (ROOT / "train_net.py",),
    ],
)
def test_help_and_a_mistyped_option_are_answered_before_anything_slow_is_imported(command):
    for argument, code in (("--help", 0), ("--no-such-option", 2)):
        done = probe(*command, argument)
        assert done.returncode == code
        assert "usage: " in (done.stdout if code == 0 else done.stderr)
        assert done.stdout.splitlines()[-1] == "imported: []"


def test_the_probe_sees_slow_imports(tmp_path):
    (tmp_path / "slow.py").write_text("import numpy")
    assert probe(tmp_path / "slow.py").stdout == "imported: ['numpy']\n"


def test_a_terminal_without_the_letters_of_a_name_is_written_escapes():
    missing = "Zähne細胞"
    program = f"from counterpoise.commands.console import main; main(['compare', {missing!r}])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0 and r"Z\xe4hne\u7d30\u80de" in done.stderr


def test_a_name_with_a_line_break_does_not_cut_the_sentence(capsys):
    assert main(["compare", "first\nsecond", "third"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert r"first\nsecond" in line


def test_train_and_train_net_take_the_same_options():
    arguments = ["A.B", "1", "--resume", "--config-file", "a.yaml", "C.D", "2", "--num-gpus", "2"]
    _, commands = argument_parser()
    parsed = [
        parser.parse_intermixed_args(arguments)
        for parser in (commands["train"], train_parser("train_net.py"))
    ]
    assert parsed[0] == parsed[1]
    assert parsed[0].opts == ["A.B", "1", "C.D", "2"]
    helps = [
        parser.format_help().partition("options:")[2].partition("examples:")[0]
        for parser in (commands["train"], train_parser("train_net.py"))
    ]
    assert helps[0] == helps[1]


def test_a_run_records_and_says_the_program_that_was_typed(tmp_path, capsys):
    data = write_dataset(tmp_path / "shapes")
    files = ["--config-file", str(CONFIGS / "quick" / "baseline.yaml"), "--config-file", str(data)]
    short = [*SMALL, "DATASETS.TEST", "()", "SOLVER.MAX_ITER", "1"]
    for program, start, typed in (
        (lambda arguments: main(["train", *arguments]), "counterpoise train", "counterpoise train"),
        (train_net, "train_net.py", "python train_net.py"),
    ):
        arguments = [*files, *short, "OUTPUT_DIR", str(tmp_path / typed)]
        assert program(arguments) == 0
        record = RunRecord.read(tmp_path / typed / "run.json")
        assert record.command.startswith(f"{typed} --config-file ")
        capsys.readouterr()
        assert program(arguments) == 2
        assert capsys.readouterr().err.startswith(f"{start}: error: OUTPUT_DIR ")


OWN_LOSS = """
import torch.nn.functional as F
from counterpoise import ROI_LOSS_REGISTRY

@ROI_LOSS_REGISTRY.register(name="own_for_test")
def build_own(cfg):
    return lambda logits, gt_classes: F.cross_entropy(
        logits, gt_classes, ignore_index=-1, reduction="none"
    )
"""


def test_a_run_with_a_loss_of_the_users_own_is_usable_by_every_command(
    tmp_path, capsys, monkeypatch
):
    data, out, own = write_dataset(tmp_path / "shapes"), tmp_path / "run", tmp_path / "own.py"
    own.write_text(OWN_LOSS)
    known = ROI_LOSS_REGISTRY._obj_map

    def typed(*arguments):
        """Exit code and errors of a process of its own, which knows what it imports."""
        monkeypatch.setattr(ROI_LOSS_REGISTRY, "_obj_map", dict(known))
        return main([str(argument) for argument in arguments]), capsys.readouterr().err

    config = ["--config-file", "quick/baseline.yaml", "--config-file", data]
    loss = ["BALANCE.ROI_LOSS.NAME", "own_for_test"]
    settings = [*SMALL, "OUTPUT_DIR", out, "DATASETS.VAL", "('shapes_val',)", *loss]
    imported = ["--import", own]
    assert typed("train", *imported, *config, *settings)[0] == 0
    weights = ["--config-file", out / "config.yaml", "MODEL.WEIGHTS", out / "model_final.pth"]
    for command in (
        ["batches", *config, *SMALL, *loss, "--out", tmp_path / "batches"],
        ["calibrate", "--run", out, "--exponents", "1"],
        ["curves", *weights, "--images", "1", "--out", tmp_path / "curves"],
        ["export", "--run", out, "--format", "torchscript"],
        ["inspect", "shapes_train", *config, *loss, "--out", tmp_path / "inspect"],
        ["predict", tmp_path / "shapes" / "images", "--run", out, "--out", tmp_path / "found"],
        ["review", out, "--dataset", "shapes_train"],
        ["thresholds", "--run", out],
    ):
        code, said = typed(*command)
        assert code == 2 and "BALANCE.ROI_LOSS.NAME is 'own_for_test'" in said
        assert typed(*command, *imported)[0] == 0, command
    for flags, said in (([], "BALANCE.ROI_LOSS.NAME is"), (imported, "no_step.pth")):
        found = typed("replay", out / "no_step.pth", *flags)
        assert found[0] == 2 and said in found[1]


def test_overrides_may_stand_on_both_sides_of_options(capsys):
    typed = ["inspect", "bccd_trian", "SEED", "1", "--json", "SOLVER.MAXITER", "2"]
    assert main(typed) == 2
    assert "unknown key 'SOLVER.MAXITER'" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_without_detectron2_a_command_says_what_is_missing(name, capsys, monkeypatch):
    monkeypatch.setattr(counterpoise, "find_spec", lambda name: None)
    needed = {"inspect": ["x"], "predict": ["x"], "report": ["x"], "compare": ["x"]}
    needed |= {"replay": ["x"], "review": ["x"], "retrain-classifier": ["--run", "x"]}
    assert main([name, *needed.get(name, [])]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"counterpoise {name}: error: counterpoise {name} needs Detectron2")
    with pytest.raises(UserError, match=r"add_counterpoise_config needs Detectron2"):
        _ = counterpoise.add_counterpoise_config


@pytest.mark.parametrize(
    "command",
    [
        ("train", "--eval-only"),
        ("thresholds",),
        ("predict", "IMAGE", "--opts"),
        ("curves",),
    ],
    ids=lambda command: command[0],
)
def test_without_a_checkpoint_every_command_that_needs_one_says_so(command, tmp_path, capsys):
    image = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(image)
    name, *more = [str(image) if part == "IMAGE" else part for part in command]
    files = ["--config-file", str(CONFIGS / "quick" / "baseline.yaml")]
    overrides = ["MODEL.WEIGHTS", "", "OUTPUT_DIR", str(tmp_path)]
    out = [] if name == "train" else ["--out", str(tmp_path / "out")]
    assert main([name, *files, *out, *more, *overrides]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"counterpoise {name}: error: MODEL.WEIGHTS is empty: give the path of")


@pytest.mark.parametrize("name", ["predict", "export", "thresholds", "calibrate"])
def test_without_anything_that_names_a_model_run_is_what_to_give(name, tmp_path, capsys):
    image = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(image)
    images = [str(image), "--out", str(tmp_path / "out")] if name == "predict" else []
    assert main([name, *images]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"counterpoise {name}: error: no model is named: give --run with")


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--num-gpus", "-1"], "--num-gpus is -1, expected at least 1"),
        (["--num-machines", "0"], "--num-machines is 0, expected at least 1"),
        (["--machine-rank", "5"], "--machine-rank is 5, expected 0 to 0"),
        (["--machine-rank", "-1"], "--machine-rank is -1, expected 0 to 0"),
        (["--num-machines", "2"], "--dist-url is 'auto', which serves one machine"),
    ],
)
def test_numbers_of_processes_that_cannot_be_are_refused(flags, said, capsys):
    assert main(["train", *flags]) == 2
    assert said in capsys.readouterr().err
