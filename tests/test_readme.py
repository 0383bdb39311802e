"""What the README tells a user to type exists and works."""

import dataclasses
import json
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from counterpoise import ROI_LOSS_REGISTRY
from counterpoise.commands.arguments import argument_parser
from counterpoise.commands.console import main
from counterpoise.config.keys import training_config
from counterpoise.evaluation import ClassResult, Evaluation
from scenes import scene

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_files_that_are_named_exist():
    named = re.findall(r"(?:configs|plugin|docs|benchmarks|demo)/[\w./]*\w", README)
    assert named
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_and_functions_that_a_page_names_exist(page):
    text = page.read_text()
    for file, name in re.findall(r"`(?:tests/)?(test_\w+\.py)(?:::(\w+))?`", text):
        assert f"def {name}" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"
    for module, name in re.findall(r"`((?:balance|evaluation)\.\w+)\.(\w+)`", text):
        assert hasattr(import_module(f"counterpoise.{module}"), name), f"{module}.{name}"


def test_config_keys_that_are_named_exist():
    cfg = training_config()
    for key in re.findall(r"`((?:BALANCE|MODEL|DATASETS|INPUT|TEST|SOLVER)\.[A-Z_.]+)", README):
        node = cfg
        for part in key.split("."):
            assert part in node, key
            node = node[part]


def test_python_snippets_run():
    own_script, own_loss, *_ = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    names: dict = {}
    exec(own_script, names)
    cfg = names["cfg"]
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    assert type(build_model(cfg).roi_heads).__name__ == "BalancedROIHeads"
    exec(own_loss, {})
    loss = ROI_LOSS_REGISTRY.get("smoothed")(cfg)
    values = loss(torch.zeros(3, 4), torch.tensor([0, -1, 3]))
    assert values.tolist() == pytest.approx([1.3863, 0, 1.3863], abs=1e-4)


def test_every_command_is_named_and_has_an_example(capsys):
    _, commands = argument_parser()
    for name in commands:
        # The README may call the training by its script.
        assert f"counterpoise {name}" in README or (name == "train" and "train_net.py" in README)
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        assert f"examples:\n  counterpoise {name} " in capsys.readouterr().out


def test_metrics_that_are_documented_are_in_the_results_and_the_snippet_runs(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "evaluation.md").read_text()
    table = text[text.index("| key in") : text.index("Rates are in")]
    keys = set(re.findall(r"`(?:per_class\[\]\.)?(\w+)(?:\.counts)?`", table))
    known = {f.name for part in (Evaluation, ClassResult) for f in dataclasses.fields(part)}
    assert len(keys) > 20 and keys <= known
    (snippet,) = re.findall(r"```python\n(.+?)```", text, re.DOTALL)
    truth, detections = scene()
    (tmp_path / "ground_truth.json").write_text(json.dumps(truth))
    (tmp_path / "detections.json").write_text(json.dumps(detections))
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
