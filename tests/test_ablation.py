"""Ablations: what is planned, trained once, kept, resumed and told of it."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from ablations import (
    remove_starts,
    start_driver,
    starts,
    use_stubs,
    write_config,
    write_finished_run,
)
from browser import open_page
from counterpoise.ablation import running
from counterpoise.ablation.collecting import is_finished, result_of
from counterpoise.ablation.plan import Trial, config_hash, make_plan
from counterpoise.ablation.progress import Progress, iterations_done
from counterpoise.ablation.results import (
    ClassScore,
    GroupScore,
    RunResult,
    Scores,
    append_result,
    read_results,
)
from counterpoise.ablation.running import Ended, run_trials
from counterpoise.ablation.sections import as_markdown, as_page
from counterpoise.ablation.summary import Resamples, summarize
from counterpoise.ablation.variants import Variant, parse_grids, read_variants, variants_of
from counterpoise.balance.class_counts import ClassCounts
from counterpoise.commands import ablate
from counterpoise.commands.console import main
from counterpoise.config.loading import load_config
from counterpoise.errors import UserError
from counterpoise.utils.files import write_atomically
from runs import SMALL, write_dataset
from scenes import scene
from test_compare import worse

COUNTS = ClassCounts(("class 0", "class 1", "class 2"), (50, 5, 20), (500, 50, 200))
GAMMA = "BALANCE.ROI_LOSS.GAMMA"
LOSS = "BALANCE.ROI_LOSS.NAME"


# What is planned


def test_a_grid_is_the_product_of_values_that_are_yaml():
    points = parse_grids([f"{LOSS}=cross_entropy,softmax_focal  SOLVER.STEPS=[400, 540],[],(7,)"])
    assert [point.settings for point in points[:3]] == [
        ((LOSS, "cross_entropy"), ("SOLVER.STEPS", "[400, 540]")),
        ((LOSS, "cross_entropy"), ("SOLVER.STEPS", "[]")),
        ((LOSS, "cross_entropy"), ("SOLVER.STEPS", "(7")),
    ]
    assert len(points) == 8 and points[0].name == "ROI_LOSS=cross_entropy STEPS=[400, 540]"


def test_several_grids_are_listed_one_after_the_other_under_names_that_tell_them_apart():
    grids = [f"{LOSS}=cross_entropy", f"{GAMMA}=1,2 BALANCE.DENSE_LOSS.GAMMA=3"]
    assert [point.name for point in parse_grids(grids)] == [
        "ROI_LOSS=cross_entropy",
        "ROI_LOSS.GAMMA=1 DENSE_LOSS.GAMMA=3",
        "ROI_LOSS.GAMMA=2 DENSE_LOSS.GAMMA=3",
    ]


def test_a_key_of_a_grid_may_have_no_section():
    points = parse_grids(["CUDNN_BENCHMARK=True,False SOLVER.BASE_LR=1"])
    assert [point.name for point in points] == [
        "CUDNN_BENCHMARK=True BASE_LR=1",
        "CUDNN_BENCHMARK=False BASE_LR=1",
    ]


@pytest.mark.parametrize(
    "grid, said",
    [
        ("", "not of the form"),
        ("SOLVER.BASE_LR", "not of the form"),
        ("0.1 SOLVER.BASE_LR=1", "not of the form"),
        ("0.1 SEED=1", "not of the form"),
        ("SOLVER.BASE_LR=", "expected YAML"),
        ("SOLVER.STEPS=[1", "expected YAML"),
        ("SOLVER.BASE_LR=1 SOLVER.BASE_LR=2", "twice"),
    ],
)
def test_a_grid_that_cannot_be_read_is_refused(grid, said):
    with pytest.raises(UserError, match=said):
        parse_grids([grid])


def test_a_file_of_variants_holds_config_files_and_keys(tmp_path):
    (tmp_path / "own.yaml").write_text(f"{'{'}SOLVER: {'{'}BASE_LR: 0.5{'}'}{'}'}")
    file = tmp_path / "list.yaml"
    file.write_text(
        "baseline:\n"
        "own: own.yaml\n"
        "both: [own.yaml, quick/focal.yaml]\n"
        f"keys: {{_BASE_: own.yaml, {GAMMA}: 1.5, SOLVER: {{STEPS: [1, 2]}}}}\n"
    )
    baseline, own, both, keys = variants_of([], file, [])
    assert baseline == Variant("baseline")
    assert own == Variant("own", (tmp_path / "own.yaml",))
    assert [path.name for path in both.files] == ["own.yaml", "focal.yaml"]
    assert keys.files == own.files
    assert keys.settings == ((GAMMA, "1.5"), ("SOLVER.STEPS", "[1, 2]"))


def test_named_variants_take_every_point_of_a_grid():
    found = variants_of(["quick/focal.yaml", "quick/baseline.yaml"], None, [f"{GAMMA}=1,2"])
    assert [v.name for v in found] == [
        "focal GAMMA=1", "focal GAMMA=2", "baseline GAMMA=1", "baseline GAMMA=2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "files, content, said",
    [
        (["a/x.yaml", "b/x.yaml"], None, "two variants are called 'x'"),
        (["SOLVER.MAX_ITER"], None, "put KEY VALUE overrides before --variants"),
        ([], "x: 3", "the variant 'x' must be a config file"),
        ([], "- x", "must hold"),
    ],
)
def test_variants_that_cannot_be_used_are_refused(tmp_path, files, content, said):
    file = write_atomically(tmp_path / "list.yaml", content) if content else None
    with pytest.raises(UserError, match=said):
        variants_of(files, file, [])


@pytest.mark.parametrize("grids", [[f"{GAMMA}=1,2,1"], [f"{GAMMA}=1", f"{GAMMA}=1,2"]])
def test_a_point_of_the_grids_that_is_there_twice_is_to_be_left_out(grids):
    with pytest.raises(UserError, match="'GAMMA=1' is there twice: leave one of them out"):
        variants_of([], None, grids)


def test_a_config_is_known_by_its_content_and_not_by_how_it_was_given(tmp_path):
    file = write_config(tmp_path, SOLVER__BASE_LR=0.5)
    plain = write_config(tmp_path / "plain", SOLVER__BASE_LR=0.1)
    tree = yaml.safe_load(plain.read_text())
    tree["DATASETS"] = yaml.safe_load(file.read_text())["DATASETS"]
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(tree))
    given = config_hash(load_config([file]))
    overrides = ["SOLVER.BASE_LR", "0.5", "SEED", "7", "OUTPUT_DIR", "elsewhere"]
    assert config_hash(load_config([tmp_path / "other.yaml"], overrides)) == given
    assert config_hash(load_config([tmp_path / "other.yaml"])) != given


def test_a_config_is_the_same_wherever_the_data_lies(tmp_path, monkeypatch):
    hashes = set()
    for name in ("here", "there"):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / name))
        hashes.add(config_hash(load_config(["datasets/bccd.yaml"])))
    assert len(hashes) == 1


def test_a_finished_config_is_found_again_when_there_are_new_keys(tmp_path):
    file = write_config(tmp_path)
    old = load_config([file])
    del old.BALANCE.ROI_LOSS["GAMMA"]  # as if there had been no such key
    write_atomically(tmp_path / "out/runs/old/config.yaml", old.dump())
    own, other = make_plan(
        tmp_path / "out", [file], [], parse_grids([f"{GAMMA}=2.0,3.0"]), [1], []
    ).trials
    assert own.config == own.folder.parent.name == "old"
    assert other.config != "old"


def test_all_configs_come_with_the_first_seed_before_any_with_the_second(tmp_path):
    file = write_config(tmp_path)
    plan = make_plan(tmp_path, [file], [], parse_grids([f"{GAMMA}=1,2"]), [3, 5], [])
    assert [(t.variant, t.seed) for t in plan.trials] == [
        ("GAMMA=1", 3), ("GAMMA=2", 3), ("GAMMA=1", 5), ("GAMMA=2", 5),
    ]  # fmt: skip
    assert [t.settings for t in plan.trials[:2]] == [{}, {GAMMA: "2.0"}]
    assert {t.dataset for t in plan.trials} == {"mine_test"}
    assert not (tmp_path / "runs").exists()
    plan.write_configs()
    assert load_config([plan.trials[1].config_file]).BALANCE.ROI_LOSS.GAMMA == 2


def test_every_variant_is_trained_on_every_dataset_and_a_repeated_config_once(tmp_path):
    files = [write_config(tmp_path / name, SOLVER__MAX_ITER=7) for name in ("a", "b")]
    files = [file.rename(file.with_name(f"{file.parent.name}.yaml")) for file in files]
    grid = parse_grids([f"{GAMMA}=1,1.0,2"])
    plan = make_plan(tmp_path, [], files, grid, [1], ["SOLVER.BASE_LR", "0.3"])
    assert [(t.dataset, t.variant) for t in plan.trials] == [
        ("a", "GAMMA=1"), ("a", "GAMMA=2"), ("b", "GAMMA=1"), ("b", "GAMMA=2"),
    ]  # fmt: skip
    assert len(plan.notices) == 2
    assert (
        "'GAMMA=1.0' on a is left out, for it is the same config as 'GAMMA=1' on a"
        in (plan.notices[0])
    )
    assert {t.iterations for t in plan.trials} == {7}


@pytest.mark.parametrize(
    "overrides, datasets, said",
    [
        (["SEED", "3"], [], "SEED is set by --seeds"),
        (["OUTPUT_DIR", "x"], [], "OUTPUT_DIR is set by --out"),
        (["DATASETS.TEST", "()"], [], "DATASETS.TEST is empty"),
        ([GAMMA, "-1"], [], "GAMMA"),
        ([], ["mine.yaml", "mine.yaml"], "two files mine.yaml"),
    ],
)
def test_plans_that_cannot_work_are_refused_before_anything_is_trained(
    tmp_path, overrides, datasets, said
):
    file = write_config(tmp_path)
    datasets = [str(tmp_path / name) for name in datasets]
    with pytest.raises(UserError, match=said):
        make_plan(tmp_path / "out", [file], datasets, [Variant("x")], [1], overrides)


@pytest.mark.parametrize("key, option", [("SEED", "--seeds"), ("OUTPUT_DIR", "--out")])
def test_what_an_option_sets_for_every_training_is_no_key_of_a_variant(tmp_path, key, option):
    file = write_config(tmp_path)
    for variants in (parse_grids([f"{key}=1,2"]), [Variant("x", (), ((key, "3"),))]):
        with pytest.raises(UserError, match=f"{key} is set by {option} for every training"):
            make_plan(tmp_path / "out", [file], [], variants, [1], [])


# Results


def result(variant="a", seed=1, config=None, **fields):
    truth_free = {
        "config": config or variant, "dataset": "mine", "variant": variant, "settings": {},
        "seed": seed, "outcome": "failed", "reason": "why", "scores": None, "iterations": 10,
        "training_seconds": None, "wall_seconds": None, "resumed_from": None,
        "peak_memory_MB": None, "machine": None, "versions": {}, "commit": None,
    }  # fmt: skip
    return RunResult(**{**truth_free, **fields})


def test_a_line_that_a_killed_process_left_incomplete_is_replaced(tmp_path):
    file = tmp_path / "new" / "results.jsonl"
    append_result(file, result(seed=1))
    append_result(file, result(seed=2))
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    assert read_results([file]) == [result(seed=1)]
    append_result(file, result(seed=3))
    assert read_results([file]) == [result(seed=1), result(seed=3)]


def test_of_a_run_its_last_line_counts(tmp_path):
    file = tmp_path / "results.jsonl"
    for reason in ("first", "second"):
        append_result(file, result(reason=reason))
    assert [each.reason for each in read_results([file])] == ["second"]


@pytest.mark.parametrize(
    "line", [b"{}\n", b"nonsense\n", b'{"config": 3}\n', b'{"config": "\xff"}\n']
)
def test_a_line_that_is_no_result_is_named(tmp_path, line):
    file = tmp_path / "results.jsonl"
    append_result(file, result())
    with file.open("ab") as opened:
        opened.write(line)
    with pytest.raises(UserError, match="line 2"):
        read_results([file])


# Processes


def trials_in(folder, count):
    return [
        Trial("c", "mine", f"v{i}", 1, {}, folder / "c.yaml", folder / f"v{i}" / "seed1",
              "mine_test", 10)
        for i in range(count)
    ]  # fmt: skip


def shell(text):
    return lambda trial: ["sh", "-c", text.format(folder=trial.folder)]


def test_jobs_share_the_cores_and_take_the_gpus_in_turn(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(running, "cores", lambda: 9)
    trials = trials_in(tmp_path, 5)
    command = shell("echo $OMP_NUM_THREADS $CUDA_VISIBLE_DEVICES; sleep 0.3")
    most, ended = 0, []
    for event in run_trials(trials, command, 3, ["4", "7"]):
        if isinstance(event, Ended):
            ended.append(event)
        else:
            most = max(most, len(event))
    assert most == 3 and len(ended) == 5
    said = [trial.log_file.read_text().split() for trial in trials]
    assert said[:3] == [["3", "4"], ["3", "7"], ["3", "4"]]
    assert all(e.code == 0 and e.seconds > 0.25 for e in ended)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_memory_is_that_of_the_training_and_not_of_the_ablation(tmp_path):
    small, large = trials_in(tmp_path, 2)

    def command(trial):
        size = 1 if trial is small else 300
        program = f"import time; kept = b'x' * ({size} << 20); time.sleep(1)"
        return [sys.executable, "-S", "-c", program]

    ended = [e for e in run_trials([small, large], command, 1) if isinstance(e, Ended)]
    assert ended[0].peak_memory_MB < 50
    assert 300 <= ended[1].peak_memory_MB < 350


def test_a_number_of_threads_that_the_user_has_set_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (trial,) = trials_in(tmp_path, 1)
    list(run_trials([trial], shell("echo $OMP_NUM_THREADS"), 2))
    assert trial.log_file.read_text() == "1\n"


def is_alive(pid):
    state = Path(f"/proc/{pid}/stat")
    return state.is_file() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_processes_and_their_children_end_when_the_ablation_does(tmp_path):
    (trial,) = trials_in(tmp_path, 1)
    events = run_trials([trial], shell("sleep 60 & echo $! >{folder}.pid; wait"), 1)
    pid_file = trial.folder.with_suffix(".pid")
    for _ in events:
        if pid_file.is_file() and pid_file.read_text():
            break
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt())
    pid = int(pid_file.read_text())
    for _ in range(50):  # until its new parent has taken note of its end
        if not (alive := is_alive(pid)):
            break
        time.sleep(0.1)
    assert not alive


def test_a_run_that_another_process_trains_is_waited_for_and_not_started_twice(tmp_path):
    first, second = trials_in(tmp_path, 2)
    done = tmp_path / "done"
    events = run_trials([first], shell(f"sleep 1; touch {done}"), 1)
    next(events)
    order = [
        (event.trial.variant, event.seconds is not None)
        for event in run_trials(
            [first, second], shell("echo started"), 1,
            is_finished=lambda trial: trial is first and done.exists(),
        )
        if isinstance(event, Ended)
    ]  # fmt: skip
    assert order == [("v1", True), ("v0", False)]
    assert "started" not in first.log_file.read_text()
    list(events)


@pytest.mark.parametrize(
    "text, code, outcome, reason",
    [
        ("x\ncounterpoise train: error: no data\n", 2, "failed", "no data"),
        ("Traceback\n  File x\nKeyError: 'a'\n", 1, "failed", "KeyError: 'a'"),
        ("", 3, "failed", "exit code 3"),
        ("x\n", -9, "failed", "ended by SIGKILL, as where memory runs out"),
        ("x\n", -40, "failed", "ended by signal 40"),
        (
            "counterpoise train: error: In iteration 3 loss_cls is nan (learning rate 0.02, "
            "images /a/b.jpg): lower it\n",
            1, "diverged", "In iteration 3 loss_cls is nan, learning rate 0.02",
        ),
        ("FloatingPointError: Loss became infinite\nx\n", 1, "diverged", "Loss became infinite"),
    ],
)  # fmt: skip
def test_the_reason_of_a_failure_is_what_the_training_said_last(
    tmp_path, text, code, outcome, reason
):
    (trial,) = trials_in(tmp_path, 1)
    write_atomically(trial.log_file, text)
    found = result_of(trial, Ended(trial, code, 1.0, 5))
    assert (found.outcome, found.reason, found.scores) == (outcome, reason, None)


def test_a_run_is_finished_when_its_page_is_written(tmp_path):
    (trial,) = trials_in(tmp_path, 1)
    assert not is_finished(trial)
    write_finished_run(trial.folder, *scene(), COUNTS)
    assert is_finished(trial)
    assert not is_finished(dataclasses.replace(trial, test_set="other"))
    (trial.folder / "report.html").unlink()
    assert not is_finished(trial)


def test_progress_counts_parts_of_runs_and_only_what_this_call_has_done(tmp_path):
    now = [0.0]
    progress = Progress(kept=2, total=6, clock=lambda: now[0])
    first, second = trials_in(tmp_path, 2)
    write_atomically(second.folder / "metrics.json", '{"iteration": 4}\n{"iter')
    progress.look([first, second])  # the second one is resumed half done
    assert progress.seconds_left is None and progress.finished == 2.5
    now[0] = 60.0
    write_atomically(first.folder / "metrics.json", '{"iteration": 9}\n')
    progress.look([first, second])
    assert iterations_done(first.folder) == 10
    assert progress.seconds_left == pytest.approx(60 * 2.5)
    progress.end(first, trained=True)
    assert progress.done == 3 and progress.seconds_left == pytest.approx(60 * 2.5)


# The command


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Finished runs: of the baseline for seeds 1 and 2, and worse ones of GAMMA=2."""
    folder = tmp_path_factory.mktemp("finished")
    truth, detections = scene()
    for seed in (1, 2):
        write_finished_run(folder / f"seed{seed}", truth, worse(detections, seed), COUNTS)
        low = worse(worse(detections, seed), seed + 10)
        write_finished_run(folder / f"GAMMA=2-seed{seed}", truth, low, COUNTS)
    return folder


@pytest.fixture
def arguments(tmp_path):
    file = write_config(tmp_path)
    return ["--config-file", str(file), "--grid", f"{GAMMA}=1,2,3", "--seeds", "2",
            "--out", str(tmp_path / "out")]  # fmt: skip


def replacing(monkeypatch):
    return lambda name, stub: monkeypatch.setattr(ablate, name, stub)


def test_what_is_finished_is_kept_and_what_failed_is_tried_again(
    tmp_path, monkeypatch, capsys, finished, arguments
):
    remove_starts(finished)
    fails = {
        ("GAMMA=3", 1): "counterpoise train: error: no room",
        ("GAMMA=3", 2): "FloatingPointError: Loss became infinite",
    }
    use_stubs(replacing(monkeypatch), finished, fails=fails)
    assert main(["ablate", *arguments]) == 0
    captured = capsys.readouterr()
    said = captured.err
    assert "3 variants x 1 dataset x 2 seeds: 6 runs, 0 of them done" in said
    assert "[6/6]" in said and "failed: no room" in said
    assert "GAMMA=3, seed 2, diverged: Loss became infinite" in captured.out
    assert len(starts(finished)) == 6
    file = tmp_path / "out/results.jsonl"
    assert [r.outcome for r in read_results([file])].count("finished") == 4

    remove_starts(finished)
    use_stubs(replacing(monkeypatch), finished)
    assert main(["ablate", *arguments, "--baseline", "GAMMA=3", "--json"]) == 0
    captured = capsys.readouterr()
    assert "the baseline is GAMMA=3" in captured.err
    (again,) = starts(finished)
    assert again.endswith("seed1")  # a run that diverged would do so again
    summaries = json.loads((tmp_path / "out/ablation.json").read_text())
    assert json.loads(captured.out) == summaries
    assert [v["seeds"] for v in summaries[0]["variants"]] == [[1], [1, 2], [1, 2]]


@pytest.mark.parametrize("fails, flag", [("143", "--resume"), ("no room", "--overwrite")])
def test_a_training_that_was_stopped_goes_on_and_one_that_failed_starts_anew(
    monkeypatch, finished, arguments, fails, flag
):
    command, trials = ablate._command, []
    use_stubs(replacing(monkeypatch), finished, fails={("GAMMA=3", 1): fails})
    stub = ablate._command
    replacing(monkeypatch)("_command", lambda trial, files: trials.append(trial) or stub(trial, ()))
    assert main(["ablate", *arguments]) == 0
    (ended,) = [trial for trial in trials if (trial.variant, trial.seed) == ("GAMMA=3", 1)]
    assert flag in command(ended, [])
    # A checkpoint of the next attempt is gone on from in any case.
    (ended.folder / "last_checkpoint").write_text("model_0000002.pth")
    assert "--resume" in command(ended, [])


def test_settings_differ_from_the_baseline_that_is_named(
    tmp_path, monkeypatch, finished, arguments
):
    use_stubs(replacing(monkeypatch), finished)
    assert main(["ablate", *arguments, "--baseline", "GAMMA=3"]) == 0
    settings = {r.variant: r.settings for r in read_results([tmp_path / "out/results.jsonl"])}
    assert settings == {"GAMMA=3": {}, "GAMMA=1": {GAMMA: "1.0"}, "GAMMA=2": {GAMMA: "2.0"}}


def test_a_run_is_kept_under_another_name_of_its_config(
    tmp_path, monkeypatch, finished, arguments, capsys
):
    use_stubs(replacing(monkeypatch), finished)
    assert main(["ablate", *arguments]) == 0
    remove_starts(finished)
    file = write_atomically(tmp_path / "list.yaml", f"plain: {{{GAMMA}: 1}}\n")
    other = [*arguments[:2], "--variants-file", str(file), *arguments[4:]]
    capsys.readouterr()
    assert main(["ablate", *other]) == 0
    assert not starts(finished)
    assert "plain, seed" not in capsys.readouterr().err  # nothing was trained
    assert json.loads((tmp_path / "out/ablation.json").read_text())[0]["variants"][0]["name"] == (
        "plain"
    )


def test_a_dry_run_lists_the_runs_and_trains_none(
    tmp_path, monkeypatch, capsys, finished, arguments
):
    remove_starts(finished)
    use_stubs(replacing(monkeypatch), finished)
    assert main(["ablate", *arguments, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"{GAMMA} 3.0" in said and "seeds 1, 2\n" in said
    assert main(["ablate", *arguments, "--dry-run", "--seeds", "2,"]) == 0
    assert "  seed 2\n" in capsys.readouterr().out
    assert not starts(finished) and not (tmp_path / "out").exists()


def test_an_ablation_without_a_finished_run_says_why(
    tmp_path, monkeypatch, capsys, finished, arguments
):
    fails = {(f"GAMMA={g}", s): "counterpoise train: error: no data" for g in "123" for s in (1, 2)}
    use_stubs(replacing(monkeypatch), finished, fails=fails)
    assert main(["ablate", *arguments]) == 2
    assert "no run has finished: no data" in capsys.readouterr().err


def wait_for(condition, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)


def test_several_datasets_are_set_beside_each_other(
    tmp_path, monkeypatch, capsys, finished, arguments
):
    files = [write_config(tmp_path / n).rename(tmp_path / f"{n}.yaml") for n in ("one", "two")]
    for file in files:  # the paths of the data, which are relative, set the two apart
        file.write_text(file.read_text().replace("images", file.stem))
    use_stubs(replacing(monkeypatch), finished)
    given = ["--datasets", *map(str, files), *arguments[2:]]
    assert main(["ablate", *given, "--seeds", "1"]) == 0
    captured = capsys.readouterr()
    assert "3 variants x 2 datasets x 1 seed: 6 runs" in captured.err
    assert captured.out.index("All datasets") < captured.out.index("one: ")
    assert main(["ablate", "--table", str(tmp_path / "out/results.jsonl")]) == 0
    table = capsys.readouterr().out
    assert "**All datasets**" in table and table.count("**two: ") == 1
    assert "| variant | one AP | one tail | two AP | two tail |" in table


@pytest.mark.slow
def test_after_a_kill_each_run_is_still_trained_once(tmp_path, monkeypatch, finished, arguments):
    folder = tmp_path / "finished"
    folder.symlink_to(finished)
    remove_starts(folder)
    process = start_driver(folder, arguments, seconds=2)
    wait_for(lambda: len(starts(folder)) == 2, process)
    process.kill()  # the second training goes on as an orphan
    process.communicate()
    use_stubs(replacing(monkeypatch), folder)
    assert main(["ablate", *arguments]) == 0
    assert len(starts(folder)) == len(set(starts(folder))) == 6
    results = read_results([tmp_path / "out/results.jsonl"])
    assert len(results) == 6 and {each.outcome for each in results} == {"finished"}


@pytest.mark.slow
def test_ctrl_c_ends_the_trainings_and_says_how_to_go_on(tmp_path, finished, arguments):
    remove_starts(finished)
    process = start_driver(finished, [*arguments, "--jobs", "2"], seconds=30)
    wait_for(lambda: len(starts(finished)) == 2, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "0 of 6 runs are done. The same command goes on" in said and "Traceback" not in said
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path / "out") not in left


def test_under_nohup_an_ablation_outlives_the_end_of_the_session(
    tmp_path, monkeypatch, finished, arguments
):
    use_stubs(replacing(monkeypatch), finished)
    command = ablate._command

    def hang_up(trial, imports):
        os.kill(os.getpid(), signal.SIGHUP)
        return command(trial, imports)

    replacing(monkeypatch)("_command", hang_up)
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
    try:
        assert main(["ablate", *arguments]) == 0
    finally:
        signal.signal(signal.SIGHUP, earlier)
    assert len(read_results([tmp_path / "out/results.jsonl"])) == 6


def test_tables_and_page_show_what_the_results_say(
    tmp_path, monkeypatch, capsys, finished, arguments
):
    use_stubs(replacing(monkeypatch), finished)
    assert main(["ablate", *arguments]) == 0
    text = capsys.readouterr().out
    (summary,) = json.loads((tmp_path / "out/ablation.json").read_text())
    baseline, other, same = summary["variants"]
    assert summary["covers"] == "seeds and test images"
    assert other["AP"]["difference"] < 0 and other["AP"]["interval"] is not None
    assert (same["AP"]["difference"], same["AP"]["interval"]) == (0, [0, 0])
    assert baseline["minutes"] == 1.5 and baseline["AP"]["difference"] is None
    assert f"{baseline['AP']['mean']:.1f} +- {baseline['AP']['std']:.1f}" in text
    page = open_page(tmp_path / "out/ablation.html")
    assert not page.console_errors and page.images == 1 and page.broken_images == 0
    assert not page.scrolls_sideways
    assert page.tables[0][2][0] == "GAMMA=1"
    assert f"{GAMMA} 2.0" in page.text

    file = str(tmp_path / "out/results.jsonl")
    assert main(["ablate", "--table", file, "--baseline", "GAMMA=3"]) == 0
    table = capsys.readouterr().out
    assert "it covers seeds alone" in table
    rows = [line for line in table.splitlines() if line.startswith("| GAMMA=")]
    assert rows[0].startswith("| GAMMA=3 | 2 | ")
    assert f"{baseline['AP']['mean']:.1f} \N{PLUS-MINUS SIGN}" in table


def test_files_of_results_are_given_as_json_too(tmp_path, capsys):
    file = tmp_path / "results.jsonl"
    append_result(file, result("a", outcome="finished", reason=None, scores=some_scores()))
    assert main(["ablate", "--table", str(file), "--json"]) == 0
    (summary,) = json.loads(capsys.readouterr().out)
    assert summary["variants"][0]["AP"]["by_seed"] == [10.0]


def test_a_run_that_is_gone_counts_by_its_line_with_an_interval_over_seeds_alone(
    tmp_path, monkeypatch, finished, arguments
):
    use_stubs(replacing(monkeypatch), finished)
    assert main(["ablate", *arguments]) == 0
    remove_starts(finished)
    for folder in (tmp_path / "out/runs").glob("*/seed2"):
        folder.rename(tmp_path / f"gone-{folder.parent.name}")
    assert main(["ablate", *arguments]) == 0
    assert not starts(finished)
    (summary,) = json.loads((tmp_path / "out/ablation.json").read_text())
    assert summary["covers"] == "seeds alone"
    assert summary["variants"][1]["AP"]["interval"] is not None


def test_checkpoints_can_be_removed_when_a_run_has_finished(
    tmp_path, monkeypatch, finished, arguments
):
    runs = tmp_path / "finished"
    shutil.copytree(finished, runs)
    for folder in runs.glob("*seed*"):
        for name in ("model_final.pth", "last_checkpoint"):
            (folder / name).write_text("model_final.pth")
    use_stubs(replacing(monkeypatch), runs)
    assert main(["ablate", *arguments, "--discard-models"]) == 0
    left = {path.name for path in (tmp_path / "out/runs").rglob("*")}
    assert "evaluation.json" in left and not left & {"model_final.pth", "last_checkpoint"}
    remove_starts(runs)
    assert main(["ablate", *arguments]) == 0
    assert not starts(runs)


def test_a_baseline_that_is_no_variant_is_refused_before_anything_is_trained(
    tmp_path, capsys, arguments
):
    assert main(["ablate", *arguments, "--baseline", "GAMMA=4"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--seeds", "--jobs"])
@pytest.mark.parametrize("value", ["0", "x", "-1", ""])
def test_numbers_that_make_no_sense_are_refused(capsys, option, value):
    with pytest.raises(SystemExit, match="2"):
        main(["ablate", f"{option}={value}"])
    assert option in capsys.readouterr().err


def test_a_variant_that_was_trained_again_is_told_of_by_its_newest_config():
    old, new = result(config="old", seed=1), result(config="new", seed=1)
    scored = dataclasses.replace(new, outcome="finished", reason=None, scores=some_scores())
    (summary,) = summarize([dataclasses.replace(old, scores=some_scores()), scored])
    assert summary.variants[0].config == "new"
    assert "Left out: 1 line of another config" in summary.notes[0]


def test_variants_that_are_still_to_follow_a_change_of_the_common_config_are_named():
    def line(variant, config, **fields):
        fields |= {"settings": {"KEY": variant} if variant != "a" else {}}
        return result(variant, config=config, scores=some_scores(), outcome="finished", **fields)

    def said(lines):
        (summary,) = summarize(lines)
        return [note for note in summary.notes if note.startswith("The config of a has changed")]

    before = [line(v, f"{v} old", seed=s) for s in (1, 2) for v in "abc"]
    assert said(before) == []
    (note,) = said([*before, line("a", "a new")])
    assert note.startswith("The config of a has changed since b, c were trained, so that other")
    (note,) = said([*before, line("b", "b new"), line("a", "a new")])  # side by side
    assert " since c was trained" in note
    assert said([*before, *(line(v, f"{v} new") for v in "abc")]) == []
    # A variant alone may change, and be new.
    assert said([*before, line("b", "b new"), line("d", "d")]) == []


def test_intervals_of_one_seed_are_said_to_cover_the_images_alone():
    drawn = {("a", 1): np.full((5, 1), 10.0)}
    resamples = Resamples(("a|b",), np.array([2]), drawn, drawn)
    (summary,) = summarize([result(scores=some_scores())], lambda runs: resamples)
    assert summary.covers == "test images alone"


def test_data_that_was_moved_is_found_by_new_seeds_of_a_kept_config(tmp_path, monkeypatch):
    for place in ("old", "new"):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / place))
        config = tmp_path / "config.yaml"
        folder = "$DETECTRON2_DATASETS/i"
        entry = {"FORMAT": "coco", "IMAGES": folder, "ANNOTATIONS": f"{folder}.json"}
        data = {"CUSTOM": {"m": entry}, "TRAIN": ["m"], "TEST": ["m"]}
        config.write_text(yaml.safe_dump({"_BASE_": "quick/baseline.yaml", "DATASETS": data}))
        plan = make_plan(tmp_path / "out", [str(config)], [], [Variant("config")], [1], [])
        plan.write_configs()
        (file,) = (tmp_path / "out").glob("runs/*/config.yaml")
        assert str(tmp_path / place / "i") in file.read_text()


def test_paths_in_a_file_of_variants_are_relative_to_it(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "v.yaml").write_text(
        "a: {DATASETS.CUSTOM.m.IMAGES: im, BALANCE.SCORE_THRESHOLDS: t.json, SOLVER.BASE_LR: 0.1}"
    )
    monkeypatch.chdir(tmp_path)
    (variant,) = read_variants(Path("sub/v.yaml"))
    assert dict(variant.settings) == {
        "DATASETS.CUSTOM.m.IMAGES": str(tmp_path / "sub" / "im"),
        "BALANCE.SCORE_THRESHOLDS": str(tmp_path / "sub" / "t.json"),
        "SOLVER.BASE_LR": "0.1",
    }


def test_the_baseline_is_the_one_that_differs_in_nothing_whichever_run_ended_first():
    first = result("low_rate", settings={"SOLVER.BASE_LR": "0.1"}, scores=some_scores())
    (summary,) = summarize([first, result("plain", scores=some_scores())])
    assert summary.baseline.name == "plain"
    (summary,) = summarize([first, result("plain", scores=some_scores())], baseline="low_rate")
    assert summary.baseline.name == "low_rate"


def test_a_variant_that_takes_the_place_of_a_baseline_without_a_run_is_named():
    scored = {"settings": {"SOLVER.BASE_LR": "0.1"}, "scores": some_scores()}
    (summary,) = summarize([result("low_rate", **scored)])
    assert "There is no run of the baseline here: differences are from low_rate" in summary.notes[0]
    here, there = result("plain", scores=some_scores()), result("low_rate", **scored)
    first, second = summarize([here, dataclasses.replace(there, dataset="other")], baseline="plain")
    assert "There is no run of the baseline, plain, here" in second.notes[0]
    assert not any("There is no run" in note for note in first.notes)


def test_a_dataset_on_which_no_run_has_finished_is_named_with_the_reasons():
    scored, failed = result(scores=some_scores()), result(dataset="other", reason="no such folder")
    (summary,) = summarize([scored, failed])
    said = "No run on other has finished, so it has no table: no such folder."
    assert summary.notes[-1] == said and said in as_markdown([summary])


def some_scores():
    return Scores("mine_test", 3, 10.0, 20.0, (ClassScore("a|b", 5, 2, 10.0, 20.0),), (), None)


def of_two_classes(groups, images=3):
    classes = (ClassScore("a", 9, 2, 60.0, 80.0), ClassScore("b", 3, 2, 20.0, 40.0))
    head, tail = groups
    names = (GroupScore("head", (head,), 0.0, 0.0), GroupScore("tail", (tail,), 0.0, 0.0))
    return Scores("mine_test", images, 40.0, 60.0, classes, names, None)


def test_groups_are_of_the_same_classes_in_all_variants():
    first = result("first", outcome="finished", scores=of_two_classes("ab"))
    second = result("second", outcome="finished", scores=of_two_classes("ba"))
    (summary,) = summarize([first, second])
    assert [v.groups["tail"].mean for v in summary.variants] == [20.0, 20.0]
    assert summary.variants[1].groups["tail"].difference == 0
    assert any("differ in which classes are frequent" in note for note in summary.notes)


def test_seeds_of_a_config_that_saw_other_training_data_are_pointed_out():
    classes = (ClassScore("a|b", 6, 2, 10.0, 20.0),)
    relabelled = dataclasses.replace(some_scores(), per_class=classes)
    runs = [result(seed=1, scores=some_scores()), result("b", scores=relabelled)]
    said = "The training data have changed between the seeds of"
    (summary,) = summarize(runs)  # variants may train on other data by design
    assert not any(note.startswith(said) for note in summary.notes)
    (summary,) = summarize([*runs, result(seed=2, scores=relabelled)])
    assert any(note.startswith(f"{said} a: a run is kept by its") for note in summary.notes)


def test_a_variant_without_a_finished_run_is_not_said_to_vary():
    finished = [result("a", seed, scores=some_scores()) for seed in (1, 2, 3)]
    one = result("b", scores=some_scores(), settings={"SEED": "9"})
    failed = result("c", outcome="failed", reason="diverged", settings={"SOLVER.BASE_LR": "9"})
    said = "is taken to vary with the seed as the baseline does"
    assert any(said in note for note in summarize([*finished, one])[0].notes)
    assert not any(said in note for note in summarize([*finished, failed])[0].notes)


def test_single_seeds_beside_a_baseline_of_a_single_seed_are_said_not_to_cover_seeds():
    base = result("a", seed=1, scores=some_scores())
    other = {"settings": {"SOLVER.BASE_LR": "9"}}
    lower = dataclasses.replace(some_scores(), AP=5.0)
    several = [
        result("b", 1, scores=some_scores(), **other), result("b", 2, scores=lower, **other)
    ]  # fmt: skip
    (summary,) = summarize([base, *several, result("c", 1, scores=lower, **other)])
    assert summary.variants[1].AP.interval is not None and summary.variants[2].AP.interval is None
    said = "One seed of the baseline alone has finished."
    assert any(note.startswith(said) for note in summary.notes)
    assert not any("as the baseline does" in note for note in summary.notes)


def test_runs_on_other_test_images_are_not_compared():
    runs = [
        result(f"v{n}", outcome="finished", scores=of_two_classes("ab", images=n)) for n in (3, 4)
    ]
    with pytest.raises(UserError, match="mine_test with 3 images; mine_test with 4 images"):
        summarize(runs)


def test_without_any_interval_nothing_is_claimed():
    runs = [result(name, outcome="finished", scores=of_two_classes("ab")) for name in "xy"]
    assert "there is no interval by which" in as_page("Ablation", summarize(runs), "")


def test_of_many_variants_it_is_said_how_many_differ_by_chance():
    runs = [result(f"v{i}", scores=some_scores()) for i in range(41)]
    said = "of 40 variants expect 2 to do so in each column"
    assert said in as_markdown(summarize(runs))
    assert "by chance" not in as_markdown(summarize(runs[:5]))


def test_a_name_with_a_bar_does_not_break_a_markdown_table():
    scored = result(variant="x|y", outcome="finished", scores=some_scores())
    text = as_markdown(summarize([scored]))
    assert "x&#124;y" in text and "a&#124;b (5)" in text


@pytest.mark.slow
def test_real_trainings_are_ablated_and_resumed(tmp_path, capsys):
    data = write_dataset(tmp_path / "shapes")
    arguments = [
        "ablate", *SMALL, "--variants", "quick/baseline.yaml", "quick/focal_weights.yaml",
        "--datasets", str(data), "--seeds", "2", "--jobs", "2", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main(arguments) == 0
    results = read_results([tmp_path / "out/results.jsonl"])
    assert [(r.dataset, r.outcome) for r in results] == [("data", "finished")] * 4
    assert all(r.peak_memory_MB > 100 and r.training_seconds > 0 for r in results)
    assert results[0].commit is None or len(results[0].commit) >= 12
    # As if the first run had been killed after its checkpoint, and its result was not written.
    first = tmp_path / "out/runs" / results[0].config / f"seed{results[0].seed}"
    (first / "report.html").unlink()
    (first / "model_final.pth").unlink()
    (first / "last_checkpoint").write_text("model_0000001.pth")
    lines = (tmp_path / "out/results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out/results.jsonl").write_text("".join(lines[1:]))
    assert main(arguments) == 0
    again = read_results([tmp_path / "out/results.jsonl"])[-1]
    assert (again.config, again.seed) == (results[0].config, results[0].seed)
    assert again.resumed_from == 2
    assert main(["compare", "--over-seeds", "--out", str(tmp_path / "compare"),
                 *map(str, sorted((tmp_path / "out/runs").glob("*/seed*/")))]) == 0  # fmt: skip
