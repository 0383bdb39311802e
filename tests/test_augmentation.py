"""``TEST.AUG``: every command that detects sees an image at several sizes, and mirrored."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_test_loader
from detectron2.evaluation.evaluator import inference_context
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.structures import Boxes, Instances

from counterpoise.commands import console
from counterpoise.config.loading import load_config
from counterpoise.config.preparation import prepare
from counterpoise.datasets.mapper import CheckedMapper
from counterpoise.evaluation.stored import read_inference
from counterpoise.inference.augmentation import with_augmentation
from counterpoise.inference.evaluation import load_for_evaluation
from models import CONFIGS
from runs import SMALL, train_net, write_dataset

AUG = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48, 64)", "TEST.AUG.MAX_SIZE", "120"]


def weights(run):
    return ["MODEL.WEIGHTS", str(run[1] / "model_final.pth")]


def config(run, *overrides):
    files = [CONFIGS / "quick" / "focal_weights_ohem.yaml", run[0]]
    cfg = load_config(files, [*SMALL, *weights(run), *overrides])
    prepare(cfg, eval_only=True)
    return cfg


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory):
    """OUTPUT_DIR of an augmented evaluation."""
    out = tmp_path_factory.mktemp("augmented")
    assert train_net(run[0], out, "--eval-only", *weights(run), *AUG) == 0
    return out


def test_evaluation_detects_what_detectron2s_augmented_model_detects(run, evaluated):
    cfg = config(run, *AUG)
    model = GeneralizedRCNNWithTTA(cfg, load_for_evaluation(cfg)[0].eval())
    mapper = CheckedMapper(cfg, is_train=False)
    scores = []
    with torch.no_grad():
        for batch in build_detection_test_loader(cfg, "shapes_val", mapper=mapper):
            scores += model(batch)[0]["instances"].scores.tolist()
    found = read_inference(evaluated, "shapes_val").detections.scores
    assert scores
    np.testing.assert_allclose(sorted(found), sorted(scores), atol=1e-6)
    assert sorted(read_inference(run[1], "shapes_val").detections.scores) != sorted(found)


def test_its_time_is_measured_and_proposals_of_changed_images_are_not_scored(evaluated):
    assert read_inference(evaluated, "shapes_val").seconds_per_image > 0
    (result,) = json.loads((evaluated / "evaluation.json").read_text()).values()
    assert result["proposals"] is None


def test_a_merged_box_without_area_is_no_detection(run, monkeypatch):
    cfg = config(run, *AUG)
    model = with_augmentation(cfg, load_for_evaluation(cfg)[0])
    found = Instances((50, 50))
    found.pred_boxes = Boxes(torch.tensor([[1.0, 1, 9, 9], [50, 3, 50, 9]]))
    found.scores = torch.tensor([0.9, 0.8])
    merged = [{"instances": found}]
    monkeypatch.setattr(GeneralizedRCNNWithTTA, "__call__", lambda *_: merged)
    (output,) = model([{}])
    assert output["instances"].scores.tolist() == pytest.approx([0.9])


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_kept(run, training):
    cfg = config(run, *AUG)
    model = load_for_evaluation(cfg)[0].train(training)
    with inference_context(with_augmentation(cfg, model)):
        assert not model.training
    assert model.training == training


def test_a_training_goes_on_after_an_augmented_evaluation(tmp_path):
    data = write_dataset(tmp_path / "shapes")
    arguments = ["TEST.EVAL_PERIOD", "1", "SOLVER.MAX_ITER", "2", *AUG]
    assert train_net(data, tmp_path / "out", *arguments) == 0
    assert (tmp_path / "out" / "model_best.pth").is_file()


def test_thresholds_and_predictions_are_of_the_augmented_model(run, tmp_path, capsys):
    def scores(*aug):
        arguments = ["--run", str(run[1]), "--json", "--out", str(tmp_path / "out")]
        images = str(run[0].parent / "images" / "0.png")
        opts = ["--no-images", "--min-score", "0", "--opts", *SMALL[:2], *aug]
        assert console.main(["predict", images, *arguments, *opts]) == 0
        return sorted(a["score"] for a in json.loads(capsys.readouterr().out)["annotations"])

    def thresholds(*aug):
        arguments = ["--run", str(run[1]), "--json", "--out", str(tmp_path / "t.json")]
        opts = [*SMALL[:2], "DATASETS.VAL", "('shapes_val',)", *aug]
        assert console.main(["thresholds", *arguments, *opts]) == 0
        return [c["point"]["threshold"] for c in json.loads(capsys.readouterr().out)["per_class"]]

    assert scores() != scores(*AUG)
    assert thresholds() != thresholds(*AUG)


def test_without_the_key_the_model_stays_itself():
    cfg = load_config([CONFIGS / "quick" / "baseline.yaml"], SMALL)
    model = torch.nn.Linear(1, 1)
    assert with_augmentation(cfg, model) is model


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["MODEL.META_ARCHITECTURE", "RetinaNet"], "META_ARCHITECTURE is 'RetinaNet', for which"),
        (["MODEL.KEYPOINT_ON", "True"], "MODEL.KEYPOINT_ON is True, for which"),
        (["TEST.AUG.MIN_SIZES", "()"], "TEST.AUG.MIN_SIZES is empty: name sizes"),
    ],
)
def test_models_without_augmentation_are_answered_in_one_sentence(
    run, tmp_path, capsys, overrides, said
):
    assert train_net(run[0], tmp_path, *AUG, *overrides, leaf="base") == 2
    assert said in capsys.readouterr().err
