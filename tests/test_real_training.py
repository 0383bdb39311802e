"""The main job on real data, short of what it takes for good figures."""

import json

import pytest

from counterpoise.commands.console import train_net
from models import CONFIGS
from scenes import assert_equals_pycocotools, stored


@pytest.mark.slow
@pytest.mark.parametrize(
    "dataset, boxes",
    [
        ("bccd", {"Platelets": 292, "RBC": 3348, "WBC": 301}),
        ("aquarium", {"fish": 1961, "starfish": 78}),
    ],
)
def test_a_pretrained_detector_learns_from_real_data(
    real_data, tmp_path, monkeypatch, dataset, boxes
):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(real_data))
    files = [CONFIGS / "quick" / "focal_weights.yaml", CONFIGS / "datasets" / f"{dataset}.yaml"]
    arguments = [part for file in files for part in ("--config-file", str(file))]
    arguments += ["OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "80", "SOLVER.STEPS", "()"]
    assert train_net(arguments) == 0
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    steps = [step for step in map(json.loads, lines) if "loss_rpn_cls" in step]
    assert steps[-1]["loss_rpn_cls"] < 0.7 * steps[0]["loss_rpn_cls"]
    (result,) = json.loads((tmp_path / "evaluation.json").read_text()).values()
    counted = {c["name"]: c["train_boxes"] for c in result["per_class"]}
    assert counted | boxes == counted
    truth, detections = stored(tmp_path)
    assert len(detections) > 100
    assert result["AP"] == assert_equals_pycocotools(truth, detections).AP
    assert (tmp_path / "report.html").is_file()
