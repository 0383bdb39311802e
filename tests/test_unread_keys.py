"""Keys of Detectron2: honoured, or refused in one sentence before anything long begins."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from counterpoise import ROI_LOSS_REGISTRY
from counterpoise.config import preparation
from counterpoise.config.declaration import Choices, Interval
from counterpoise.config.keys import DECLARED, training_config
from counterpoise.config.loading import load_config
from counterpoise.config.preparation import prepare
from counterpoise.config.tree import value_at
from counterpoise.config.unread_keys import unread_keys
from counterpoise.config.validation import check_config
from counterpoise.datasets import load_dataset
from counterpoise.datasets.mapper import training_mapper
from counterpoise.errors import UserError
from models import CONFIGS, quick_config
from runs import NO_TEST, SMALL, train_net, write_dataset


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler"],
         r"'WeightedTrainingSampler', which reads DATASETS.TRAIN_REPEAT_FACTOR, a key that this"),
        (["DATALOADER.SAMPLER_TRAIN", "WeightedCategoryTrainingSampler"], "TRAIN_REPEAT_FACTOR"),
        (["DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"], "RANDOM_SUBSET_RATIO"),
        (["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"],
         r"REPEAT_THRESHOLD is 0, with which .* repeats no image: set it to the share"),
        (["DATALOADER.REPEAT_THRESHOLD", "0.1"], "'TrainingSampler', which does not read it"),
        (["BALANCE.IMAGE_SAMPLER.NAME", "irfs", "DATALOADER.REPEAT_THRESHOLD", "0.1",
          "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"],
         "IMAGE_SAMPLER.NAME is 'irfs', but DATALOADER.SAMPLER_TRAIN is 'RepeatFactorTrainingSam"),
        (["BALANCE.IMAGE_SAMPLER.THRESHOLD", "0.1"],
         "is 0.1, but BALANCE.IMAGE_SAMPLER.NAME is 'none', with which nothing reads it: set that "
         "to 'repeat_factor' or 'irfs' or 'eirfs', or this back to -1.0"),
        (["BALANCE.IMAGE_SAMPLER.NAME", "irfs", "BALANCE.IMAGE_SAMPLER.EXPONENT", "1.0"],
         "IMAGE_SAMPLER.EXPONENT is 1.0, but BALANCE.IMAGE_SAMPLER.NAME is 'irfs', with which"),
        (["BALANCE.IMAGE_SAMPLER.NAME", "irfs", "BALANCE.IMAGE_SAMPLER.THRESHOLD", "0.0"],
         r"THRESHOLD is 0.0, expected a number in \(0, 1\]; -1 takes the median of f"),
        (["BALANCE.CALIBRATION.EXPONENT", "0.5"],
         "CALIBRATION.EXPONENT is 0.5, but BALANCE.CALIBRATION.NAME is 'none', with which nothing "
         "reads it: set that to 'norcal' or 'logit_adjustment', or this back to 0.0"),
        (["BALANCE.PISA.CARL", "True"], "PISA.CARL is True, but BALANCE.PISA.ENABLED is False"),
        (["BALANCE.PISA.POWER", "1.0"], "or this back to 2.0"),
        (["BALANCE.PISA.CARL_BIAS", "0.1"], "CARL_BIAS is 0.1, but BALANCE.PISA.CARL is False"),
        (["BALANCE.PISA.CARL_BIAS", "0.1", "BALANCE.PISA.CARL", "True"],
         "PISA.CARL is True, but BALANCE.PISA.ENABLED is False"),
        (["BALANCE.CLASSIFIER.SCALE", "16.0"], "CLASSIFIER.NAME is 'linear', with which nothing"),
        (["MODEL.META_ARCHITECTURE", "ProposalNetwork"], "which finds boxes without classes"),
        (["MODEL.META_ARCHITECTURE", "PanopticFPN"], "which needs a label for every pixel"),
        (["MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"], "which makes rotated boxes"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"], "which proposes rotated boxes"),
        (["MODEL.ROI_HEADS.NAME", "RROIHeads"], "which detects rotated boxes"),
        (["MODEL.ANCHOR_GENERATOR.NAME", "DefaultGenerator"], "did you mean 'DefaultAnchorGenera"),
        (["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.MASK_ON", "True"],
         "MODEL.MASK_ON is True, but RetinaNet finds boxes only"),
        (["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.LOAD_PROPOSALS", "True"],
         "MODEL.LOAD_PROPOSALS is True, but RetinaNet uses no proposals"),
        (["MODEL.LOAD_PROPOSALS", "True"], "'BalancedRPN', which makes its own proposals"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"], "LOAD_PROPOSALS is False: set"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", "MODEL.LOAD_PROPOSALS", "True",
          "BALANCE.ANCHOR_SAMPLER.NAME", "ohem"], "'PrecomputedProposals', which does not read it"),
        (["MODEL.BACKBONE.FREEZE_AT", "0"], "which reads MODEL.TORCHVISION.FREEZE_AT: set that"),
        (["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.TORCHVISION.NAME", "resnet18"],
         "which does not read it: set that to 'build_torchvision_fpn_backbone'"),
        (["TEST.KEYPOINT_OKS_SIGMAS", "[0.1]"], "boxes alone are evaluated here"),
        (["INPUT.MASK_FORMAT", "bitmsk"], "did you mean 'bitmask'"),
    ],
)  # fmt: skip
def test_what_nothing_would_read_is_refused(overrides, said):
    with pytest.raises(UserError, match=said):
        check_config(quick_config(*overrides))


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["BALANCE.ROI_LOSS.NAME", "eqlv2", "BALANCE.ROI_LOSS.GAMMA", "1.0"],
         "BALANCE.ROI_LOSS.GAMMA is 1.0, but BALANCE.ROI_LOSS.NAME is 'eqlv2', with which nothing "
         "reads it: set that to 'softmax_focal' or 'sigmoid_focal', or this back to 2.0"),
        (["BALANCE.ROI_LOSS.NAME", "cross_entropy", "BALANCE.ROI_LOSS.TAU", "0.5"], "'logit_adju"),
        (["BALANCE.ANCHOR_SAMPLER.RATIO", "1.0"], "ANCHOR_SAMPLER.NAME is 'random', with which"),
        (["BALANCE.ANCHOR_SAMPLER.NAME", "ohem", "BALANCE.ANCHOR_SAMPLER.NEG_POS_UB", "1.0"],
         "set that to 'random', or this back to -1.0"),
        (["BALANCE.ROI_SAMPLER.BUDGET", "128"], "set that to 'ohem', or this back to 64"),
        (["BALANCE.RPN_LOSS.GAMMA", "1.0"], "RPN_LOSS.NAME is 'cross_entropy', with which nothing"),
        (["BALANCE.CLASS_WEIGHTS.VALUES", "[1, 2, 3]"], "WEIGHTS.SOURCE is 'dataset', with which"),
        (["BALANCE.CLASS_WEIGHTS.BETA", "0.9"], "CLASS_WEIGHTS.RULE is 'log', with which nothing"),
        (["BALANCE.CLASS_WEIGHTS.SOURCE", "none", "BALANCE.CLASS_WEIGHTS.LOG_OFFSET", "1.2"],
         "LOG_OFFSET is 1.2, but BALANCE.CLASS_WEIGHTS.SOURCE is 'none', with which nothing"),
        (["MODEL.EMA.DECAY", "0.9"], "MODEL.EMA.ENABLED is False, with which nothing reads it"),
        (["SOLVER.EARLY_STOPPING.METRIC", "AP50"], "PATIENCE is 0, with which nothing reads it: "
         "set that to a number >= 1, or this back to "),
        (["INPUT.COPY_PASTE.MAX_BOXES", "5"], "PROB is 0.0, with which nothing reads it"),
        (["MODEL.META_ARCHITECTURE", "BalancedRetinaNet", "BALANCE.DENSE_LOSS.NAME", "ohem",
          "BALANCE.DENSE_LOSS.GAMMA", "1.0"], "DENSE_LOSS.NAME is 'ohem', with which nothing"),
    ],
)  # fmt: skip
def test_a_key_of_another_choice_is_named_and_not_refused(overrides, said):
    cfg = quick_config(*overrides)
    if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
        check_config(cfg)
    (sentence,) = unread_keys(cfg)
    assert said in sentence


@pytest.mark.parametrize("path", [path.as_posix() for path in CONFIGS.rglob("*.yaml")])
def test_the_configs_here_set_nothing_in_vain(path):
    assert unread_keys(load_config([path])) == []


def test_what_a_choice_reads_is_not_named():
    read = ["BALANCE.ROI_LOSS.NAME", "eqlv2", "BALANCE.ROI_LOSS.EQL_MU", "0.5"]
    read += ["BALANCE.ANCHOR_SAMPLER.NAME", "ohem", "BALANCE.ANCHOR_SAMPLER.RATIO", "1.0"]
    read += ["BALANCE.CLASS_WEIGHTS.SOURCE", "batch", "BALANCE.CLASS_WEIGHTS.LOG_OFFSET", "1.2"]
    read += ["SOLVER.EARLY_STOPPING.PATIENCE", "2", "SOLVER.EARLY_STOPPING.METRIC", "AP50"]
    assert unread_keys(quick_config(*read)) == []


def test_readers_are_keys_beside_and_values_that_these_allow():
    for name, key in DECLARED.items():
        if key.read_by is None:
            continue
        other = f"{name.rpartition('.')[0]}.{key.read_by.key}"
        assert value_at(training_config(), other) is not None
        if other in DECLARED and isinstance(DECLARED[other].allowed, Choices):
            assert set(key.read_by.values) <= set(DECLARED[other].allowed.known)
        elif isinstance(key.read_by.values, Interval):
            assert value_at(training_config(), other) not in key.read_by.values


def test_a_loss_of_the_users_own_may_read_every_key():
    ROI_LOSS_REGISTRY.register(lambda cfg: None, name="read_all")
    cfg = quick_config("BALANCE.ROI_LOSS.TAU", "0.5", "BALANCE.ROI_LOSS.NAME", "read_all")
    assert unread_keys(cfg) == []


def test_a_sampler_whose_key_this_detectron2_defines_is_taken():
    cfg = quick_config("DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler")
    cfg.defrost()
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [["a", 2.0]]
    check_config(cfg)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_float16_without_a_gpu_is_refused_for_training_alone(run, tmp_path, capsys):
    data, out = run
    half = ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", "float16"]
    half += ["MODEL.DEVICE", "cuda"]
    assert train_net(data, tmp_path / "out", *half) == 2
    assert "'float16', but the model is on the device cpu" in capsys.readouterr().err
    weights = ["MODEL.WEIGHTS", str(out / "model_final.pth")]
    assert train_net(data, tmp_path / "out", "--eval-only", *half, *weights) == 0


def with_masks(folder, count=None, encoded=False):
    data = write_dataset(folder)
    content = json.loads((folder / "labels.json").read_text())
    for annotation in content["annotations"][:count]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        if encoded:
            before, inside = 64 * x + y, [h, 64 - h] * (w - 1) + [h]
            counts = [before, *inside, 64 * 80 - before - sum(inside)]
            annotation["segmentation"] = {"size": [64, 80], "counts": counts}
    (folder / "labels.json").write_text(json.dumps(content))
    return data


STEP = ["SOLVER.MAX_ITER", "1", *NO_TEST]
MASKS = [*STEP, "MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.CONV_DIM", "8"]


def test_masks_train_where_every_box_has_one(tmp_path):
    data = with_masks(tmp_path / "shapes")
    assert train_net(data, tmp_path / "out", *MASKS) == 0
    weights = torch.load(tmp_path / "out" / "model_final.pth")["model"]
    assert any("mask_head" in name for name in weights)
    metrics = (tmp_path / "out" / "metrics.json").read_text()
    assert "loss_mask" in metrics


@pytest.mark.parametrize(
    "count, encoded, said",
    [
        (0, False, "boxes of shapes_train have no masks: set it to False to train on the boxes"),
        (3, False, "boxes of shapes_train have no masks"),
        (None, True, "shapes_train has run-length encoded masks: set it to 'bitmask'"),
    ],
)
def test_masks_that_boxes_lack_or_cannot_be_read_are_answered(
    tmp_path, capsys, count, encoded, said
):
    data = with_masks(tmp_path / "shapes", count, encoded)
    assert train_net(data, tmp_path / "out", *MASKS) == 2
    assert said in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_encoded_masks_train_as_bitmasks(tmp_path):
    data = with_masks(tmp_path / "shapes", encoded=True)
    assert train_net(data, tmp_path / "out", *MASKS, "INPUT.MASK_FORMAT", "bitmask") == 0


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_boxes_end_where_jitter_of_the_scale_cuts_their_masks_off(tmp_path):
    data = with_masks(tmp_path / "shapes", encoded=True)
    masks = ["MODEL.MASK_ON", "True", "INPUT.MASK_FORMAT", "bitmask"]
    jitter = ["INPUT.SCALE_JITTER", "[1.0, 2.0]"]
    cfg = load_config([CONFIGS / "quick" / "baseline.yaml", data], [*SMALL, *masks, *jitter])
    prepare(cfg)
    mapper, records = training_mapper(cfg), load_dataset("shapes_train")[0]
    for seed in range(10):
        np.random.seed(seed)
        for record in records:
            instances = mapper(record)["instances"]
            fitting = instances.gt_masks.get_bounding_boxes().tensor
            torch.testing.assert_close(instances.gt_boxes.tensor, fitting)


@pytest.mark.parametrize(
    "cut", [["INPUT.SCALE_JITTER", "[1.0, 2.0]"], ["INPUT.CROP.ENABLED", "True"]]
)
def test_polygons_that_cannot_be_cut_are_answered(tmp_path, capsys, monkeypatch, cut):
    monkeypatch.setattr(preparation, "find_spec", lambda name: None)
    data = with_masks(tmp_path / "shapes")
    assert train_net(data, tmp_path / "out", *MASKS, *cut) == 2
    assert f"{cut[0]} cuts the polygons of shapes_train, for which" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names, files, said",
    [
        (["shapes_train"], 1, "shapes_train is a custom dataset, for which there are no files"),
        (["stored"], 0, "DATASETS.PROPOSAL_FILES_TRAIN has 0 files for 1 datasets"),
    ],
)
def test_proposals_that_the_data_does_not_have_are_answered(
    tmp_path, capsys, names, files, said, stored
):
    data = write_dataset(tmp_path / "shapes")
    loaded = ["MODEL.LOAD_PROPOSALS", "True", "DATASETS.TRAIN", str(names)]
    loaded += ["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"]
    loaded += ["DATASETS.PROPOSAL_FILES_TRAIN", str(["p.pkl"] * files)]
    assert train_net(data, tmp_path / "out", *loaded, leaf="base") == 2
    assert said in capsys.readouterr().err


@pytest.fixture
def stored():
    DatasetCatalog.register("stored", list)
    MetadataCatalog.get("stored").thing_classes = ["disc", "bar"]
    yield
    DatasetCatalog.remove("stored")
    MetadataCatalog.remove("stored")


def test_training_images_are_shown_and_batch_norms_made_precise_when_asked(tmp_path):
    data = write_dataset(tmp_path / "shapes")
    asked = ["VIS_PERIOD", "1", "TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITER", "1"]
    asked += ["MODEL.FPN.NORM", "BN", *STEP]
    assert train_net(data, tmp_path / "out", *asked) == 0
    assert "Running precise-BN for 1 iterations" in (tmp_path / "out" / "log.txt").read_text()


def test_expected_results_are_verified(run, tmp_path):
    weights = ["MODEL.WEIGHTS", str(run[1] / "model_final.pth"), "TEST.EXPECTED_RESULTS"]
    assert train_net(run[0], tmp_path, "--eval-only", *weights, "[['bbox','AP',50,100]]") == 0
    with pytest.raises(SystemExit):
        train_net(run[0], tmp_path, "--eval-only", *weights, "[['bbox','AP',500,1]]")
