"""Loading config files: order, paths, types, and answers to mistakes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from detectron2.config import get_cfg

import counterpoise
from counterpoise.config import loading
from counterpoise.config.keys import training_config
from counterpoise.config.loading import load_config, refuse_overruled
from counterpoise.config.tree import flat_leaves, value_at
from counterpoise.config.validation import check_config
from counterpoise.errors import UserError
from models import CONFIGS, quick_config

LEAVES = [
    "baseline", "recommended", "ohem", "focal", "focal_weights", "focal_weights_ohem", "documents",
]  # fmt: skip


def write(folder: Path, name: str, content: dict) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def test_only_the_documented_keys_are_added_to_detectron2s():
    plain, ours = get_cfg(), get_cfg()
    counterpoise.add_counterpoise_config(ours)
    before, after = dict(flat_leaves(plain)), dict(flat_leaves(ours))
    assert {k: after[k] for k in before} == before
    sections = {".".join(k.split(".")[:2]) for k in after.keys() - before.keys()}
    assert sections == {
        "BALANCE.ROI_LOSS", "BALANCE.DENSE_LOSS", "BALANCE.CLASS_WEIGHTS", "BALANCE.ANCHOR_SAMPLER",
        "BALANCE.ROI_SAMPLER", "BALANCE.SCORE_THRESHOLDS", "DATASETS.BAD_RECORDS", "DATASETS.CACHE",
        "DATASETS.VAL", "MODEL.TORCHVISION", "BALANCE.CALIBRATION", "BALANCE.CLASSIFIER",
        "BALANCE.PISA", "BALANCE.RPN_LOSS",
    }  # fmt: skip
    assert ours.DATASETS.CUSTOM == {}


def test_later_files_override_earlier_ones_and_the_command_line_comes_last(tmp_path):
    first = write(tmp_path, "a.yaml", {"SOLVER": {"MAX_ITER": 10, "BASE_LR": 0.1}, "SEED": 3})
    second = write(tmp_path, "b.yaml", {"SOLVER": {"MAX_ITER": 20}})
    cfg = load_config([first, second], ["SEED", "4"])
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.SEED) == (20, 0.1, 4)


def test_bases_come_first_and_may_be_a_list(tmp_path):
    write(tmp_path, "a.yaml", {"SEED": 1, "SOLVER": {"MAX_ITER": 10}})
    write(tmp_path, "b.yaml", {"SEED": 2})
    leaf = write(tmp_path, "leaf.yaml", {"_BASE_": ["a.yaml", "b.yaml"], "SOLVER": {"GAMMA": 1}})
    cfg = load_config([leaf])
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.SOLVER.GAMMA) == (2, 10, 1.0)


def test_dataset_paths_are_relative_to_the_file_that_names_them(tmp_path, monkeypatch):
    entry = {"FORMAT": "coco", "ANNOTATIONS": "labels.json", "IMAGES": "../images"}
    write(tmp_path, "data/sets.yaml", {"DATASETS": {"CUSTOM": {"mine": entry}}})
    leaf = write(tmp_path, "exp/leaf.yaml", {"_BASE_": "../data/sets.yaml"})
    monkeypatch.chdir(tmp_path)
    mine = load_config([leaf]).DATASETS.CUSTOM.mine
    assert Path(mine.ANNOTATIONS) == tmp_path / "data" / "labels.json"
    assert Path(mine.IMAGES).resolve() == tmp_path / "images"
    moved = load_config([leaf], ["DATASETS.CUSTOM.mine.ANNOTATIONS", "here.json"])
    assert Path(moved.DATASETS.CUSTOM.mine.ANNOTATIONS) == tmp_path / "here.json"


def test_a_dumped_config_loads_from_anywhere(tmp_path):
    entry = {"FORMAT": "coco", "ANNOTATIONS": "labels.json", "IMAGES": "images"}
    source = write(tmp_path, "sets.yaml", {"DATASETS": {"CUSTOM": {"mine": entry}}})
    cfg = load_config([source, CONFIGS / "quick" / "documents.yaml"])
    dumped = tmp_path / "elsewhere" / "config.yaml"
    dumped.parent.mkdir()
    dumped.write_text(cfg.dump())
    assert json.dumps(load_config([dumped])) == json.dumps(cfg)  # tuples are dumped as lists


def test_environment_variables_in_paths_are_expanded(tmp_path, monkeypatch):
    entry = {"FORMAT": "voc", "IMAGES": "$MY_DATA/img", "ANNOTATIONS": "${MY_DATA}/xml"}
    source = write(tmp_path, "sets.yaml", {"DATASETS": {"CUSTOM": {"mine": entry}}})
    monkeypatch.setenv("MY_DATA", str(tmp_path / "root"))
    mine = load_config([source]).DATASETS.CUSTOM.mine
    assert Path(mine.IMAGES) == tmp_path / "root" / "img"
    assert Path(mine.ANNOTATIONS) == tmp_path / "root" / "xml"
    monkeypatch.delenv("MY_DATA")
    with pytest.raises(UserError, match=r"IMAGES is '\$MY_DATA/img'.*MY_DATA is not set"):
        load_config([source])


def test_detectron2_datasets_defaults_to_the_folder_that_detectron2_uses(tmp_path, monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.chdir(tmp_path)
    cfg = load_config([CONFIGS / "datasets" / "bccd.yaml"])
    images = Path(cfg.DATASETS.CUSTOM.bccd_train.IMAGES)
    assert images == tmp_path / "datasets" / "bccd" / "JPEGImages"


def test_any_dataset_key_can_be_overridden_though_the_file_does_not_set_it(tmp_path):
    entry = {"FORMAT": "coco", "ANNOTATIONS": "a.json", "IMAGES": "i"}
    source = write(tmp_path, "sets.yaml", {"DATASETS": {"CUSTOM": {2024: entry}}})
    cfg = load_config([source], ["DATASETS.CUSTOM.2024.HOLDOUT", "0.2"])
    assert cfg.DATASETS.CUSTOM["2024"].HOLDOUT == 0.2


@pytest.mark.parametrize(
    "key, text, value",
    [
        ("BALANCE.ROI_LOSS.GAMMA", "2", 2.0),
        ("BALANCE.ROI_LOSS.GAMMA", "5e-1", 0.5),
        ("SOLVER.MAX_ITER", "7.0", 7),
        ("SOLVER.STEPS", "(3, 5)", (3, 5)),
        ("INPUT.MIN_SIZE_TRAIN", "320", (320,)),
        ("DATASETS.TRAIN", "mine", ("mine",)),
        ("DATASETS.TEST", "[2024, 'mine']", ("2024", "mine")),
        ("OUTPUT_DIR", "2024", "2024"),
        ("SOLVER.AMP.ENABLED", "true", True),
        ("BALANCE.CLASS_WEIGHTS.VALUES", "[1, 2]", [1, 2]),
    ],
)
def test_values_take_the_type_of_their_key(key, text, value):
    loaded = value_at(load_config([], [key, text]), key)
    assert loaded == value and type(loaded) is type(value)


@pytest.mark.parametrize(
    "key, value",
    [("SOLVER.AMP.ENABLED", "False"), ("SOLVER.FUSED", "False"),
     ("MODEL.ROI_ALIGN", "torchvision"), ("MODEL.CHANNELS_LAST", "False")],
)  # fmt: skip
def test_what_speed_auto_would_overrule_is_not_taken_from_the_command_line(key, value):
    quick = CONFIGS / "quick" / "base.yaml"
    with pytest.raises(UserError, match=rf"sets {key} {value}, which MODEL\.SPEED auto overrules"):
        refuse_overruled(load_config([quick], [key, value]), [key, value])
    for taken in ([key, value, "MODEL.SPEED", "stock"], ["SOLVER.AMP.ENABLED", "True"]):
        refuse_overruled(load_config([quick], taken), taken)


def test_a_path_that_the_system_refuses_is_answered():
    with pytest.raises(UserError, match="cannot be read"):
        load_config(["x" * 300])


def test_integers_in_files_are_accepted_where_floats_are_meant(tmp_path):
    leaf = write(tmp_path, "a.yaml", {"BALANCE": {"ANCHOR_SAMPLER": {"RATIO": 2}}})
    assert load_config([leaf]).BALANCE.ANCHOR_SAMPLER.RATIO == 2.0


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["BALANCE.ROI_LOS.GAMMA", "1"], "unknown key 'BALANCE.ROI_LOS', did you mean 'ROI_LOSS'"),
        (["SOLVER.MAXITER", "1"], "did you mean 'MAX_ITER'"),
        (["DATASETS.CUSTOM.a.FORMT", "voc"], "did you mean 'FORMAT'"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER must be a whole number, got 'many'"),
        (["SOLVER.MAX_ITER", "1.5"], "must be a whole number"),
        (["SOLVER.BASE_LR", "fast"], "must be a number"),
        (["SOLVER.AMP.ENABLED", "1"], "must be True or False"),
        (["SOLVER", "1"], "SOLVER holds keys"),
        (["SEED"], "'SEED' stands alone"),
        (["SOLVER.MAX_ITER", "OUTPUT_DIR", "o/x"], "'SOLVER.MAX_ITER' stands alone"),
        (["SEED", "SOLVER.MAX_ITER", "5", "1"], "'SEED' stands alone"),
        (
            ["SOLVER.MAX_ITER=5", "OUTPUT_DIR", "o/x"],
            "'SOLVER.MAX_ITER=5': write SOLVER.MAX_ITER 5",
        ),
        (["_BASE_", "a.yaml"], "unknown key '_BASE_'"),
        (["a.yaml"], "the file 'a.yaml': write --config-file a.yaml"),
        (["quick/a.yaml", "my.yml"], "write --config-file quick/a.yaml"),
        (["SEED", "1", "a.yaml", "OUTPUT_DIR", "o/x"], "write --config-file a.yaml"),
    ],
)
def test_mistakes_on_the_command_line_are_answered(overrides, said):
    with pytest.raises(UserError, match=said):
        load_config([], overrides)


def test_a_string_that_reads_as_a_number_or_a_list_stays_a_string(tmp_path):
    leaf = write(tmp_path, "a.yaml", {"OUTPUT_DIR": "[1]", "MODEL": {"WEIGHTS": 7}})
    cfg = load_config([leaf], ["INPUT.FORMAT", "1e3"])
    assert (cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS, cfg.INPUT.FORMAT) == ("[1]", "7", "1e3")


def test_keys_that_detectron2_has_renamed_or_dropped_are_answered_as_it_does(monkeypatch):
    cfg = training_config()
    cfg.register_renamed_key("SOLVER.LR", "SOLVER.BASE_LR")
    cfg.register_deprecated_key("SOLVER.OLD")
    monkeypatch.setattr(loading, "training_config", cfg.clone)
    assert load_config([], ["SOLVER.OLD", "1"]) == cfg
    with pytest.raises(UserError, match=r"Key SOLVER\.LR was renamed to SOLVER\.BASE_LR"):
        load_config([], ["SOLVER.LR", "1"])


def test_what_detectron2s_own_node_refuses_is_answered_with_the_file(tmp_path):
    leaf = tmp_path / "a.yaml"
    leaf.write_text("SOLVER: {WEIGHT_DECAY_BIAS: 2020-01-01}")
    with pytest.raises(UserError, match=r"a\.yaml: .*not a valid type"):
        load_config([leaf])


@pytest.mark.parametrize(
    "text, said",
    [
        ("a: [1", "not valid YAML"),
        ("- 1", "must hold 'KEY: value' pairs"),
        ("_BASE_: leaf.yaml", "leads back to this file"),
        ("_BASE_: nowhere.yaml", "nowhere.yaml cannot be read"),
        ("_BASE_: 5", "_BASE_ must name a file or a list of files, got 5"),
        ("_BASE_: [{a: b}]", "_BASE_ must name a file or a list of files"),
        ("VERSION: 1", "VERSION is 1, but this Detectron2 reads configs of version 2: convert"),
        ("_BASE_: laef.yaml", "did you mean 'leaf.yaml'"),
        ("DATASETS: {CUSTOM: [a]}", "DATASETS.CUSTOM maps names to datasets"),
        ("DATASETS: {CUSTOM: {a: voc}}", "DATASETS.CUSTOM.a must hold the keys"),
        ("BALANCE: {ROI_LOSS: {GAMA: 1}}", "did you mean 'GAMMA'"),
    ],
)
def test_mistakes_in_files_name_the_file(tmp_path, text, said):
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        load_config([leaf])
    assert "leaf.yaml" in str(error.value) or "nowhere.yaml" in str(error.value)


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["BALANCE.ROI_LOSS.NAME", "focal"], "did you mean 'softmax_focal'"),
        (["BALANCE.ROI_LOSS.GAMMA", "-1"], "GAMMA is -1.0, expected a number >= 0"),
        (["BALANCE.ROI_LOSS.NORMALIZER", "weigth_sum"], "did you mean 'weight_sum'"),
        (["BALANCE.CLASS_WEIGHTS.RULE", "logg"], "did you mean 'log'"),
        (["BALANCE.CLASS_WEIGHTS.BACKGROUND", "sum"], "known: .*sum_div3"),
        (["BALANCE.ANCHOR_SAMPLER.RATIO", "0"], "RATIO is 0.0, expected a number > 0"),
        (["BALANCE.ANCHOR_SAMPLER.TIE_BREAK", "indx"], "TIE_BREAK is 'indx', did you mean 'index'"),
        (["BALANCE.ROI_SAMPLER.NAME", "ohme"], "ROI_SAMPLER.NAME is 'ohme', did you mean 'ohem'"),
        (["BALANCE.ROI_SAMPLER.BUDGET", "0"], "BUDGET is 0, expected a number >= 1"),
        (["BALANCE.ROI_SAMPLER.NMS_THRESH", "1.5"], "NMS_THRESH is 1.5, expected a number in"),
        (["MODEL.ROI_HEADS.NAME", "StandardROIHeads", "BALANCE.ROI_SAMPLER.NAME", "all"],
         "BALANCE.ROI_SAMPLER.NAME is set, but MODEL.ROI_HEADS.NAME is 'StandardROIHeads'"),
        (["BALANCE.CLASS_WEIGHTS.VALUES", "[1, nan]"], "VALUES holds '.*nan.*', expected finite"),
        (["BALANCE.CLASS_WEIGHTS.VALUES", "[1, 1e999]"], "VALUES holds inf, expected finite"),
        (["BALANCE.ROI_LOSS.ALPHA", "[1.5]"], r"ALPHA is \[1.5\], expected numbers in"),
        (["BALANCE.ROI_LOSS.ALPHA", "much"], "ALPHA holds 'much', expected finite numbers"),
        (["DATASETS.BAD_RECORDS", "drop"], "known: refuse, skip"),
        (["MODEL.ROI_HEADS.NAME", "BalancedRoiHeads"], "did you mean 'BalancedROIHeads'"),
        (["MODEL.ROI_HEADS.NAME", "StandardROIHeads", "BALANCE.ROI_LOSS.GAMMA", "1"],
         "BALANCE.ROI_LOSS.GAMMA is set, but MODEL.ROI_HEADS.NAME is 'StandardROIHeads'"),
    ],
)  # fmt: skip
def test_unusable_values_are_refused_with_the_valid_ones(overrides, said):
    with pytest.raises(UserError, match=said):
        check_config(quick_config(*overrides))


@pytest.mark.parametrize(
    "key, taken_from_files",
    [
        ("BALANCE.ROI_LOSS.NAME", True),
        ("MODEL.BACKBONE.NAME", True),
        ("BALANCE.ANCHOR_SAMPLER.TIE_BREAK", False),
    ],
)
def test_a_name_that_a_file_may_register_is_refused_with_the_option_for_it(key, taken_from_files):
    with pytest.raises(UserError, match=f"{key} is 'mine'") as error:
        check_config(quick_config(key, "mine"))
    assert ("--import" in str(error.value)) == taken_from_files


@pytest.mark.parametrize("family", ["quick", "r50_fpn"])
@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("dataset", ["bccd", "aquarium", "dental"])
def test_every_config_loads_and_passes_the_checks(family, leaf, dataset):
    files = [CONFIGS / family / f"{leaf}.yaml", CONFIGS / "datasets" / f"{dataset}.yaml"]
    check_config(load_config(files))


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_are_short_and_the_same_for_every_model(leaf):
    quick = (CONFIGS / "quick" / f"{leaf}.yaml").read_text()
    assert len(quick.splitlines()) <= 10
    assert (CONFIGS / "r50_fpn" / f"{leaf}.yaml").read_text() == quick


def test_without_detectron2_the_core_works_and_the_rest_says_what_is_missing():
    code = (
        "import sys; sys.modules['detectron2'] = None\n"
        "from counterpoise.balance.losses import softmax_focal_loss\n"
        "import counterpoise\n"
        "counterpoise.add_counterpoise_config"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "needs Detectron2, which is not installed" in done.stderr.splitlines()[-1]
