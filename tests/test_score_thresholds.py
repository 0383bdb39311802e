"""A score threshold per class: its file, and what it does to a model's detections."""

import hashlib
import json
import math
import shutil

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from counterpoise.config.loading import load_config
from counterpoise.config.preparation import prepare
from counterpoise.config.validation import check_config
from counterpoise.errors import UserError
from counterpoise.inference.evaluation import load_for_evaluation
from counterpoise.modeling.score_thresholds import (
    Checkpoint,
    ScoreThresholds,
    inference_thresholds,
)
from counterpoise.training.trainer import BalancedTrainer
from models import C4, CASCADE, CONFIGS, STOCK, batch, build, quick_config
from runs import SMALL
from test_retinanet import STOCK as STOCK_RETINANET
from test_retinanet import retinanet_config

NAMES = ("disc", "bar", "ring")
FEW = ("MODEL.RPN.POST_NMS_TOPK_TEST", "60")
UNLIMITED = ("TEST.DETECTIONS_PER_IMAGE", "100000")
#: Model -> (function that makes its config, overrides, those of Detectron2's own model).
MODELS = {
    "fpn": (quick_config, FEW, (*STOCK, *FEW)),
    "c4": (quick_config, ("MODEL.ROI_HEADS.NAME", "BalancedRes5ROIHeads", *C4[2:], *FEW),
           (*STOCK[:2], *C4, *FEW)),
    "cascade": (
        quick_config, ("MODEL.ROI_HEADS.NAME", "BalancedCascadeROIHeads", *CASCADE[2:], *FEW),
        (*STOCK[:2], *CASCADE, *FEW),
    ),
    "retinanet": (retinanet_config, ("MODEL.RETINANET.TOPK_CANDIDATES_TEST", "100000"),
                  (*STOCK_RETINANET, "MODEL.RETINANET.TOPK_CANDIDATES_TEST", "100000")),
}  # fmt: skip
ALL = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "MODEL.RETINANET.SCORE_THRESH_TEST", "0.0")


def write(path, scores, names=NAMES):
    return ScoreThresholds(tuple(names), tuple(scores), "max F1", "shapes_val").write(path)


def key(path):
    return ("BALANCE.SCORE_THRESHOLDS", str(path))


def spread(_module, _inputs, logits):
    generator = torch.Generator().manual_seed(logits.numel())  # another one on every level
    return 2 * torch.randn(logits.shape, generator=generator)


def detections(cfg):
    """Per image (scores, classes, boxes) of an untrained model with random scores."""
    model = build(cfg).eval()
    for name, module in model.named_modules():
        if name.endswith("cls_score"):
            module.register_forward_hook(spread)
    with torch.no_grad():
        found = [result["instances"] for result in model(batch())]
    return [(f.scores, f.pred_classes, f.pred_boxes.tensor) for f in found]


# In a model


@pytest.mark.parametrize("family", MODELS)
def test_exactly_the_detections_below_the_threshold_of_their_class_go(tmp_path, family):
    config, settings, _ = MODELS[family]
    everything = detections(config(*settings, *ALL, *UNLIMITED))
    scores, classes, _ = everything[0]
    # Of class 0 a score that occurs, which stays; of class 1 all go; of class 2 all stay.
    middle = scores[classes == 0].sort().values[int((classes == 0).sum()) // 2].item()
    thresholds = (middle, 1.0, 0.0)
    kept = detections(config(*settings, *key(write(tmp_path / "t.json", thresholds)), *UNLIMITED))
    limits = torch.tensor(thresholds, dtype=torch.float64)
    for before, after in zip(everything, kept, strict=True):
        stays = before[0].double() >= limits[before[1]]
        for ours, expected in zip(after, before, strict=True):
            assert torch.equal(ours, expected[stays])
    scores, classes, _ = kept[0]
    assert scores[classes == 0].min().item() == middle
    assert set(classes.tolist()) == {0, 2}


@pytest.mark.parametrize("family", MODELS)
def test_thresholds_take_no_place_among_the_best_of_an_image(tmp_path, family):
    config, settings, _ = MODELS[family]
    path = write(tmp_path / "t.json", (1.0, 1.0, 0.0))
    (scores, classes, _), _ = detections(
        config(*settings, *key(path), "TEST.DETECTIONS_PER_IMAGE", "5")
    )
    assert len(scores) == 5 and (classes == 2).all()


@pytest.mark.parametrize("family", MODELS)
def test_without_a_file_every_bit_is_detectron2s(family):
    config, settings, stock = MODELS[family]
    for ours, theirs in zip(
        detections(config(*settings, *ALL)), detections(config(*stock, *ALL)), strict=True
    ):
        assert len(ours[0]) > 0
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("family", MODELS)
def test_thresholds_move_with_the_model_and_stay_out_of_its_checkpoints(tmp_path, family):
    config, settings, _ = MODELS[family]
    plain = build(config(*settings))
    model = build(config(*settings, *key(write(tmp_path / "t.json", (0.5, 0.5, 0.5)))))
    assert model.state_dict().keys() == plain.state_dict().keys()
    buffers = [b for n, b in model.named_buffers() if n.endswith("test_score_thresh")]
    assert len(buffers) == (3 if family == "cascade" else 1)
    moved = [b for n, b in model.to("meta").named_buffers() if n.endswith("test_score_thresh")]
    assert all(buffer.is_meta for buffer in moved)


def test_greater_than_the_number_of_the_model_is_at_least_the_threshold(tmp_path):
    # 0.1 as float32 is above 0.1, 0.7 as float32 below it.
    thresholds = (0.1, 0.7, 0.0, 1.0)
    path = write(tmp_path / "t.json", thresholds, "abcd")
    limits = inference_thresholds(quick_config(*key(path)), 4)
    for limit, threshold in zip(limits, thresholds, strict=True):
        score = torch.tensor(threshold)
        for step in (-math.inf, math.inf):
            for candidate in (score, torch.nextafter(score, torch.tensor(step))):
                assert bool(candidate > limit) == (candidate.item() >= threshold)


def test_thresholds_follow_the_class_names_where_the_catalogue_knows_them(tmp_path):
    path = write(tmp_path / "t.json", (0.25, 0.5, 0.75))
    MetadataCatalog.get("thresholds_test").thing_classes = ["ring", "disc", "bar"]
    try:
        cfg = quick_config(*key(path), "DATASETS.TEST", "thresholds_test")
        assert inference_thresholds(cfg, 3).tolist() == pytest.approx([0.75, 0.25, 0.5])
    finally:
        MetadataCatalog.remove("thresholds_test")
    assert inference_thresholds(quick_config(*key(path)), 3)[0].item() == pytest.approx(0.25)
    with pytest.raises(UserError, match="has 3 classes, but the model has 4"):
        build(quick_config(*key(path), classes=4))


def test_evaluation_sees_all_detections_and_prediction_those_above_the_thresholds(run, tmp_path):
    data, out = run
    path = write(tmp_path / "t.json", (0.5, 0.6), ("disc", "bar"))
    overrides = [*SMALL, *key(path), "MODEL.WEIGHTS", str(out / "model_final.pth")]
    cfg = load_config([CONFIGS / "quick" / "focal_weights_ohem.yaml", data], overrides)
    prepare(cfg, eval_only=True)
    for model in (BalancedTrainer.build_model(cfg), load_for_evaluation(cfg)[0]):
        assert model.roi_heads.box_predictor.test_score_thresh == 0.05
    for model in (build_model(cfg), load_for_evaluation(cfg, all_detections=False)[0]):
        assert model.roi_heads.box_predictor.test_score_thresh.tolist() == pytest.approx([0.5, 0.6])
    assert str(path) == cfg.BALANCE.SCORE_THRESHOLDS


# The file


@pytest.mark.parametrize(
    "criterion, dataset, said",
    [
        ("maximal F1", "shapes_val", "maximal F1 on shapes_val"),
        ("by eye", "", "by eye"),
        ("", "", "written by hand"),
    ],
)
def test_thresholds_say_where_they_come_from_as_far_as_their_file_does(criterion, dataset, said):
    assert ScoreThresholds(NAMES, (0.1, 0.2, 0.3), criterion, dataset).origin == said


def test_a_file_is_read_as_it_was_written(tmp_path):
    for origin in ((None, None), (Checkpoint("model_final.pth", "0a1b"), "norcal 0.6")):
        thresholds = ScoreThresholds(
            NAMES, (0.1, 1 / 3, 1.0), "recall >= 0.9", "shapes_val", *origin
        )
        assert ScoreThresholds.read(thresholds.write(tmp_path / "t.json")) == thresholds
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["thresholds"]["bar"] == 1 / 3
    assert content["checkpoint"] == {"path": "model_final.pth", "sha256": "0a1b"}


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "does not exist"),
        ('{"thresholds": {"disc": 0.', "not a complete JSON file"),
        ("[]", "holds no score thresholds"),
        ('{"thresholds": {}}', "holds no score thresholds"),
        ('{"thresholds": [0.5]}', "holds no score thresholds"),
        ('{"thresholds": {"disc": "high"}}', r"of 'disc' is 'high', expected a number in \[0, 1\]"),
        ('{"thresholds": {"disc": true}}', "of 'disc' is True"),
        ('{"thresholds": {"disc": 1.5}}', "of 'disc' is 1.5"),
        ('{"thresholds": {"disc": -0.1}}', "of 'disc' is -0.1"),
        ('{"thresholds": {"disc": NaN}}', "of 'disc' is nan"),
        ('{"thresholds": {"disc": 0.5}, "checkpoint": "m.pth"}', "the checkpoint is 'm.pth'"),
        ('{"thresholds": {"disc": 0.5}, "checkpoint": {"path": "m.pth"}}', "the checkpoint is"),
        (
            '{"thresholds": {"disc": 0.5}, "checkpoint": {"path": "m.pth", "sha256": 1}}',
            "choose the thresholds again",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_in_a_sentence(tmp_path, text, said):
    if text is not None:
        (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match=said) as error:
        ScoreThresholds.read(tmp_path / "t.json")
    assert str(tmp_path / "t.json") in str(error.value)


@pytest.mark.parametrize(
    "names, said",
    [
        (("disc", "barr"), "unknown class 'barr', did you mean 'bar'"),
        (("disc",), "no threshold for bar"),
        (("disc", "bar", "ring"), "unknown class 'ring'"),
    ],
)
def test_thresholds_of_other_classes_are_refused_before_anything_is_built(
    run, tmp_path, names, said
):
    data, out = run
    path = write(tmp_path / "t.json", [0.5] * len(names), names)
    overrides = [*SMALL, *key(path), "MODEL.WEIGHTS", str(out / "model_final.pth")]
    cfg = load_config([CONFIGS / "quick" / "baseline.yaml", data], overrides)
    with pytest.raises(UserError, match=said):
        prepare(cfg, eval_only=True)


# The checkpoint that they were chosen on


@pytest.fixture
def checkpoints(run, tmp_path):
    """(config, a checkpoint, a copy of it, one of other weights)."""
    data, out = run
    content = torch.load(out / "model_final.pth", weights_only=True)
    content["model"]["roi_heads.box_predictor.cls_score.bias"] += 1
    torch.save(content, tmp_path / "other.pth")
    shutil.copy(out / "model_final.pth", tmp_path / "copy.pth")
    return data, out / "model_final.pth", tmp_path / "copy.pth", tmp_path / "other.pth"


def chosen_on(path, checkpoint):
    identity = Checkpoint.of(str(checkpoint))
    return ScoreThresholds(("disc", "bar"), (0.5, 0.6), "max F1", "shapes_val", identity).write(
        path
    )


def test_a_checkpoint_is_known_by_its_content_as_sha256sum_prints_it(tmp_path):
    path = tmp_path / "model.pth"
    for content in (b"abc", b"xyz" * 2**20, b"abd"):
        path.write_bytes(content)
        expected = Checkpoint(str(path), hashlib.sha256(content).hexdigest())
        assert Checkpoint.of(str(path)) == expected
        assert Checkpoint.of(f"{path}?matching_heuristics=True") == expected


def test_thresholds_of_another_checkpoint_are_refused_by_name(checkpoints, tmp_path):
    data, checkpoint, copied, other = checkpoints
    path = chosen_on(tmp_path / "t.json", checkpoint)

    def config(weights):
        overrides = [*SMALL, *key(path), "MODEL.WEIGHTS", str(weights)]
        return load_config([CONFIGS / "quick" / "baseline.yaml", data], overrides)

    said = rf"t\.json were chosen on the checkpoint {checkpoint} .* is {other} .*choose thresholds"
    with pytest.raises(UserError, match=said):
        prepare(config(other), eval_only=True)
    prepared = config(copied)
    prepare(prepared, eval_only=True)
    load_for_evaluation(prepared, all_detections=False)
    # A script of the user's may build a model without prepare().
    prepared.MODEL.WEIGHTS = str(other)
    with pytest.raises(UserError, match=said):
        build_model(prepared)


def test_thresholds_of_scores_that_are_calibrated_otherwise_are_refused(checkpoints, tmp_path):
    data, checkpoint, *_ = checkpoints
    path, identity = tmp_path / "t.json", Checkpoint.of(str(checkpoint))
    common = [*SMALL, *key(path), "MODEL.WEIGHTS", str(checkpoint)]
    norcal = ["BALANCE.CALIBRATION.NAME", "norcal", "BALANCE.CALIBRATION.EXPONENT"]

    def config(*calibration):
        return load_config([CONFIGS / "quick" / "baseline.yaml", data], [*common, *calibration])

    def choose(calibration):
        scores = (0.5, 0.6)
        ScoreThresholds(("disc", "bar"), scores, "F1", "v", identity, calibration).write(path)

    for chosen, other, same in (
        ("none", [*norcal, "0.6"], [*norcal, "0.0"]),
        ("norcal 0.6", [*norcal, "0.5"], [*norcal, "0.6"]),
    ):
        choose(chosen)
        with pytest.raises(UserError, match=f"chosen with BALANCE.CALIBRATION '{chosen}', but it"):
            prepare(config(*other), eval_only=True)
        prepared = config(*same)
        prepare(prepared, eval_only=True)
        # A script of the user's may build a model without prepare().
        prepared.BALANCE.CALIBRATION.EXPONENT = 0.7
        with pytest.raises(UserError, match=r"it is 'norcal 0\.7', which gives"):
            build_model(prepared)
    choose(None)  # as of a file written by hand, or by an earlier version
    prepare(config(*norcal, "0.6"), eval_only=True)


def test_a_checkpoint_that_a_new_training_has_replaced_is_another_one(checkpoints, tmp_path):
    _, _, copied, other = checkpoints
    path = chosen_on(tmp_path / "t.json", copied)
    shutil.copy(other, copied)
    with pytest.raises(UserError, match="chosen on the checkpoint"):
        ScoreThresholds.read(path).check_checkpoint(str(copied), "t.json")


def test_thresholds_written_by_hand_are_applied_to_any_checkpoint_with_a_warning(
    checkpoints, tmp_path, caplog
):
    data, checkpoint, *_ = checkpoints
    (tmp_path / "t.json").write_text(json.dumps({"thresholds": {"disc": 0.5, "bar": 0.6}}))
    overrides = [*SMALL, *key(tmp_path / "t.json"), "MODEL.WEIGHTS", str(checkpoint)]
    cfg = load_config([CONFIGS / "quick" / "baseline.yaml", data], overrides)
    prepare(cfg, eval_only=True)
    model, _ = load_for_evaluation(cfg, all_detections=False)
    assert model.roi_heads.box_predictor.test_score_thresh.tolist() == pytest.approx([0.5, 0.6])
    (warning,) = [r.message for r in caplog.records if "t.json" in r.message]
    assert "does not name the checkpoint" in warning


def test_a_training_takes_thresholds_written_by_hand_and_no_others(checkpoints, tmp_path):
    data, checkpoint, *_ = checkpoints
    path = tmp_path / "t.json"
    weights = ("MODEL.WEIGHTS", str(checkpoint))  # also where it goes on from that checkpoint
    overrides = [*SMALL, *key(path), *weights]
    chosen_on(path, checkpoint)
    with pytest.raises(UserError, match="a training makes another one"):
        prepare(load_config([CONFIGS / "quick" / "baseline.yaml", data], overrides))
    write(path, (0.5, 0.6), ("disc", "bar"))
    prepare(load_config([CONFIGS / "quick" / "baseline.yaml", data], overrides))


# The key


def test_the_path_is_relative_to_the_file_that_names_it_or_to_the_working_directory(
    tmp_path, monkeypatch
):
    config = tmp_path / "configs" / "a.yaml"
    config.parent.mkdir()
    config.write_text("BALANCE: {SCORE_THRESHOLDS: ../t.json}")
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path / "configs" / "../t.json") == load_config([config]).BALANCE.SCORE_THRESHOLDS
    moved = load_config([config], ["BALANCE.SCORE_THRESHOLDS", "u.json"])
    assert str(tmp_path / "u.json") == moved.BALANCE.SCORE_THRESHOLDS
    assert load_config([config], ["BALANCE.SCORE_THRESHOLDS", ""]).BALANCE.SCORE_THRESHOLDS == ""


@pytest.mark.parametrize(
    "cfg, said",
    [
        (quick_config(*STOCK, *key("t.json")),
         "SCORE_THRESHOLDS is set, but MODEL.ROI_HEADS.NAME is 'StandardROIHeads'"),
        (retinanet_config(*STOCK_RETINANET, *key("t.json")), "to 'BalancedRetinaNet'"),
    ],
)  # fmt: skip
def test_heads_that_do_not_read_the_key_are_refused(cfg, said):
    with pytest.raises(UserError, match=said):
        check_config(cfg)
