"""Detectron2's own config files: each trains on the user's data, or is answered in one sentence."""

from pathlib import Path

import detectron2
import pytest
import torch

from counterpoise.commands import console
from counterpoise.config.loading import load_config
from counterpoise.config.validation import check_config
from counterpoise.config.zoo import zoo_configs, zoo_folder
from counterpoise.errors import UserError
from runs import SMALL, write_dataset

#: Names in the model zoo of files whose models find no boxes with classes, and what is said.
OTHER_TASKS = {
    "rpn_": r"META_ARCHITECTURE is 'ProposalNetwork', which finds boxes without classes",
    "panoptic": r"META_ARCHITECTURE is 'PanopticFPN', which needs a label for every pixel",
    "semantic": r"META_ARCHITECTURE is 'SemanticSegmentor', which labels pixels",
}

NARROW = [
    "MODEL.RESNETS.STEM_OUT_CHANNELS", "8",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "16",
    "MODEL.RESNETS.WIDTH_PER_GROUP", "4",
    "MODEL.ROI_BOX_HEAD.CONV_DIM", "16",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", "50",
    "MODEL.RPN.POST_NMS_TOPK_TEST", "50",
    "SOLVER.IMS_PER_BATCH", "2",
    "SOLVER.MAX_ITER", "2",
    # A deep ResNet with random weights and frozen norms has a loss of 1e5: a step at the usual
    # learning rate ends in infinity.
    "SOLVER.BASE_LR", "1e-10",
]  # fmt: skip

#: Group norms have 32 groups.
WIDE_ENOUGH_FOR_GROUPS = [
    "MODEL.RESNETS.STEM_OUT_CHANNELS", "32",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "32",
    "MODEL.RESNETS.WIDTH_PER_GROUP", "32",
    "MODEL.FPN.OUT_CHANNELS", "32",
    "MODEL.ROI_BOX_HEAD.CONV_DIM", "32",
]  # fmt: skip

BOXES_ALONE = ["MODEL.MASK_ON", "False", "MODEL.KEYPOINT_ON", "False"]


def task_of(name: str) -> str | None:
    file = name.rpartition("/")[2].lower().removeprefix("base-")
    return next((said for start, said in OTHER_TASKS.items() if file.startswith(start)), None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("zoo") / "shapes", names=("disc", "bar"))


def train(name: str, data: Path, out: Path, *overrides: str) -> int:
    files = ["--config-file", name, "--config-file", str(data)]
    return console.train_net([*files, *SMALL, *NARROW, "OUTPUT_DIR", str(out), *overrides])


def classes_of(out: Path) -> list[str]:
    return torch.load(out / "model_final.pth")["counterpoise"]["class_names"]


def test_the_zoo_has_files():
    assert len(zoo_configs()) >= 90


@pytest.mark.parametrize("name", zoo_configs())
def test_every_file_loads_and_is_fit_for_detection_or_answered_in_one_sentence(name):
    cfg = load_config([name])
    answer = task_of(name)
    if answer is None:
        check_config(cfg)
        assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.RETINANET.NUM_CLASSES) == (0, 0)
    else:
        with pytest.raises(UserError, match=answer):
            check_config(cfg)


@pytest.mark.parametrize("name", zoo_configs())
def test_every_value_is_the_one_that_detectron2_reads(name):
    theirs, ours = detectron2.config.get_cfg(), load_config([name])
    theirs.merge_from_file(str(zoo_folder() / name))
    for node in (theirs, ours):
        node.MODEL.ROI_HEADS.NUM_CLASSES = node.MODEL.RETINANET.NUM_CLASSES = 0
        node.TEST.EXPECTED_RESULTS = []
    assert {k: same_keys(ours[k], theirs[k]) for k in theirs} == theirs


def same_keys(ours, theirs):
    if not hasattr(theirs, "items"):
        return ours
    return {key: same_keys(ours[key], theirs[key]) for key in theirs}


@pytest.mark.parametrize(
    "name",
    [
        "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml",
        "COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml",
        "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
        "PascalVOC-Detection/faster_rcnn_R_50_FPN.yaml",
    ],
)
def test_a_detector_trains_on_the_classes_of_the_user(name, data, tmp_path):
    assert train(name, data, tmp_path) == 0
    assert classes_of(tmp_path) == ["disc", "bar"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in zoo_configs() if task_of(name) is None])
def test_every_detector_of_the_zoo_trains_on_boxes(name, data, tmp_path, capsys):
    proposals = ["MODEL.LOAD_PROPOSALS", "False", "MODEL.PROPOSAL_GENERATOR.NAME", "RPN"]
    sampler = ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"]
    sampler += ["DATALOADER.REPEAT_THRESHOLD", "0.1"]
    width = WIDE_ENOUGH_FOR_GROUPS if "_gn" in name else []
    size = ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice"]  # of the one that small trainings have
    code = train(name, data, tmp_path, *BOXES_ALONE, *proposals, *sampler, *width, *size)
    if any(load_config([name]).MODEL.RESNETS.DEFORM_ON_PER_STAGE) and code == 2:
        assert "an op of Detectron2's compiled extension" in capsys.readouterr().err
    else:
        assert code == 0
        assert classes_of(tmp_path) == ["disc", "bar"]


@pytest.mark.parametrize(
    "name, said",
    [
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
         r"MODEL.MASK_ON is True, but \d+ of \d+ boxes of shapes_train have no masks: set it to F"),
        ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
         r"MODEL.KEYPOINT_ON is True, but \d+ of \d+ boxes of shapes_train have no keypoints"),
        ("COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml",
         r"MODEL.LOAD_PROPOSALS is True, but shapes_train is a custom dataset"),
        ("COCO-Detection/rpn_R_50_FPN_1x.yaml", OTHER_TASKS["rpn_"]),
        ("COCO-Detection/retinanet_R_50_FPN_1x.py",
         r"is a LazyConfig .*COCO-Detection/retinanet_R_50_FPN_1x\.yaml"),
        ("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py", r"is a LazyConfig .*give a YAML file"),
        ("COCO-Detection/faster_rcnn_R50_FPN_1x.yaml", r"did you mean 'COCO-Detection/faster_rcnn"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_data_is_answered_in_one_sentence(name, said, data, tmp_path, capsys):
    assert train(name, data, tmp_path) == 2
    *_, sentence = capsys.readouterr().err.strip().splitlines()
    with pytest.raises(UserError, match=said):
        raise UserError(sentence)


def test_without_data_of_the_user_the_missing_dataset_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
    assert console.train_net(["--config-file", name, *SMALL, "OUTPUT_DIR", "out"]) == 2
    said = capsys.readouterr().err
    assert "DATASETS.TRAIN names 'coco_2017_train', but " in said
    assert "set DATASETS.TRAIN to data of your own" in said


def test_what_a_file_says_of_its_own_classes_gives_way_with_a_notice(caplog):
    cfg = load_config(["PascalVOC-Detection/faster_rcnn_R_50_FPN.yaml"])
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 0
    assert "NUM_CLASSES of Detectron2's faster_rcnn_R_50_FPN.yaml is left out" in caplog.text


def test_the_number_of_classes_in_a_file_of_the_user_stands(tmp_path):
    leaf = tmp_path / "leaf.yaml"
    base = "_BASE_: PascalVOC-Detection/faster_rcnn_R_50_FPN.yaml"
    leaf.write_text(f"{base}\nMODEL: {{ROI_HEADS: {{NUM_CLASSES: 80}}}}")
    assert load_config([leaf]).MODEL.ROI_HEADS.NUM_CLASSES == 80


def test_a_file_of_the_user_may_build_on_a_computed_one(tmp_path):
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text("{_BASE_: COCO-Detection/retinanet_R_50_FPN_1x.yaml, SEED: 7}")
    sizes = load_config([leaf]).MODEL.ANCHOR_GENERATOR.SIZES
    assert [round(size, 1) for size in sizes[0]] == [32, 40.3, 50.8]


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:eval [\"open({path!r}, 'w')\"]",
        "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{path!r}]]",
        "!!python/object/new:os.system [touch {path}]",
        "!!python/name:os.system",
    ],
)
def test_code_in_a_file_of_the_user_never_runs(tag, tmp_path):
    leaf, trace = tmp_path / "leaf.yaml", tmp_path / "trace"
    leaf.write_text("OUTPUT_DIR: " + tag.format(path=str(trace)))
    with pytest.raises(UserError, match=r"leaf\.yaml holds the tag !!python/.*write out the value"):
        load_config([leaf])
    base = tmp_path / "more.yaml"
    base.write_text("_BASE_: leaf.yaml")
    with pytest.raises(UserError, match=r"leaf\.yaml holds the tag"):
        load_config([base])
    assert not trace.exists()


def test_a_copy_of_a_file_of_detectron2_is_not_trusted_but_a_link_to_it_is(tmp_path):
    copy, link = tmp_path / "copy.yaml", tmp_path / "link.yaml"
    copy.write_text((zoo_folder() / "Base-RetinaNet.yaml").read_text())
    link.symlink_to(zoo_folder() / "Base-RetinaNet.yaml")
    with pytest.raises(UserError, match=r"copy\.yaml holds the tag !!python/object/apply:eval"):
        load_config([copy])
    assert load_config([link]).MODEL.META_ARCHITECTURE == "RetinaNet"


def test_a_file_beside_one_of_detectron2_by_its_path_alone_is_not_trusted(tmp_path):
    disguised = tmp_path / "detectron2" / "model_zoo" / "configs" / "mine.yaml"
    disguised.parent.mkdir(parents=True)
    disguised.write_text((zoo_folder() / "Base-RetinaNet.yaml").read_text())
    with pytest.raises(UserError, match=r"mine\.yaml holds the tag"):
        load_config([disguised])
