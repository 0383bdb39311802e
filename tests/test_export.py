"""Exported models: equal detections, one self-contained file, and one sentence where it fails."""

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image
from torch import nn

from counterpoise.commands.console import main
from counterpoise.errors import UserError
from counterpoise.export.describing import detection_graph
from counterpoise.export.graph import best_per_class
from counterpoise.export.writing import EXTRA_FILE, onnx_bytes, torchscript_bytes
from counterpoise.runtime.description import (
    METADATA_KEY,
    VERSION,
    ModelDescription,
    Preprocessing,
)
from counterpoise.runtime.images import read_pixels
from models import C4, CASCADE, CONFIGS, build, quick_config
from runs import SMALL
from test_autocast import spread_predictions
from test_retinanet import retinanet_config

SIZES = ((96, 128), (150, 85))  # the second one needs padding on both sides
PREPROCESSING = Preprocessing("RGB", 0, 0, (0.0,) * 3, (1.0,) * 3, 32)
DESCRIPTION = ModelDescription(
    VERSION, "GeneralizedRCNN", ("a", "b", "c"), (0.05,) * 3, "", PREPROCESSING, "0" * 64,
    "counterpoise 0",
)  # fmt: skip

KINDS = {
    "two stages": quick_config(),
    "cross-entropy of Detectron2": quick_config("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
    "sigmoid focal": quick_config("BALANCE.ROI_LOSS.NAME", "sigmoid_focal"),
    "one box for all classes": quick_config("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"),
    "adaptive pooling": quick_config("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", "0"),
    "C4": quick_config(*C4),
    "one stage": retinanet_config(),
}
TWO = ("two stages", "one stage")


def detector(cfg) -> nn.Module:
    model = build(cfg)
    spread_predictions(model)
    return model.eval()


@pytest.fixture(scope="module")
def detectors():
    return {kind: detector(KINDS[kind]) for kind in TWO}


def noise(size) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8)


def found_by(model, image):
    with torch.no_grad():
        (output,) = model([{"image": image.permute(2, 0, 1)}])
    instances = output["instances"]
    return instances.pred_boxes.tensor, instances.scores, instances.pred_classes


def assert_same_detections(found, expected):
    boxes, scores, classes = (torch.as_tensor(each) for each in found)
    assert len(expected[0]) > 10
    assert classes.tolist() == expected[2].tolist()
    assert (boxes - expected[0]).abs().max() < 0.1
    assert (scores - expected[1]).abs().max() < 1e-3


def with_runtime(content: bytes, image: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image.numpy()})


def with_torchscript(content: bytes, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return torch.jit.load(io.BytesIO(content))(image)


WRITERS = ((onnx_bytes, with_runtime), (torchscript_bytes, with_torchscript))


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_finds_what_the_model_finds(kind):
    model = detector(KINDS[kind])
    graph = detection_graph(model, KINDS[kind])
    for size in SIZES:
        with torch.no_grad():
            found = graph(noise(size))
        expected = found_by(model, noise(size))
        assert_same_detections(found, expected)
        assert (found[0] - expected[0]).abs().max() < 1e-3


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
@pytest.mark.parametrize("kind", TWO)
@pytest.mark.parametrize("write, run", WRITERS, ids=["onnx", "torchscript"])
def test_one_file_finds_in_images_of_any_size_what_the_model_finds(detectors, kind, write, run):
    model = detectors[kind]
    content = write(detection_graph(model, KINDS[kind]), DESCRIPTION)
    for size in (*SIZES, (33, 200)):
        assert_same_detections(run(content, noise(size)), found_by(model, noise(size)))


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
def test_a_torchscript_file_takes_the_size_of_an_image_on_its_device(detectors):
    """Traced as it is made on the CPU, it would stay there."""
    content = torchscript_bytes(
        detection_graph(detectors["two stages"], KINDS["two stages"]), DESCRIPTION
    )
    graph = torch.jit.load(io.BytesIO(content)).inlined_graph
    sizes = [node for node in graph.nodes() if node.kind() in ("aten::full", "aten::new_full")]
    assert [node.kind() for node in sizes] == ["aten::new_full"] * 2


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
@pytest.mark.parametrize("kind", TWO)
def test_an_image_without_detections_gives_empty_outputs(kind):
    section = "RETINANET" if kind == "one stage" else "ROI_HEADS"
    cfg = KINDS[kind].clone()
    cfg.defrost()
    cfg.MODEL[section].SCORE_THRESH_TEST = 1.0
    graph = detection_graph(detector(cfg), cfg)
    for write, run in WRITERS:
        content = write(graph, DESCRIPTION)
        boxes, scores, classes = run(content, noise(SIZES[1]))
        assert tuple(boxes.shape) == (0, 4) and tuple(scores.shape) == tuple(classes.shape) == (0,)


@pytest.mark.parametrize("kind", TWO)
def test_score_thresholds_hold_per_class(tmp_path, kind):
    file = tmp_path / "t.json"
    file.write_text(json.dumps({"thresholds": {"a": 0.0, "b": 0.6, "c": 1.0}}))
    base = KINDS[kind].clone()
    base.defrost()
    base.BALANCE.SCORE_THRESHOLDS = str(file)
    model = detector(base)
    found = with_runtime(onnx_bytes(detection_graph(model, base), DESCRIPTION), noise(SIZES[0]))
    assert_same_detections(found, found_by(model, noise(SIZES[0])))
    _, scores, classes = found
    assert set(classes) <= {0, 1}
    assert (scores[classes == 1] >= 0.6).all() and (scores[classes == 0] < 0.6).any()


def refused(*overrides, match):
    cfg = quick_config(*overrides)
    with pytest.raises(UserError, match=match):
        detection_graph(build(cfg), cfg)


def test_models_that_a_graph_would_not_repeat_are_refused():
    refused(*CASCADE, match="MODEL.ROI_HEADS.NAME makes a CascadeROIHeads, and .* knows Standard")
    refused("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool", match="POOLER_TYPE is 'ROIPool'")
    refused("TEST.AUG.ENABLED", "True", match="looks at an image once")


def test_the_size_of_an_image_is_that_of_detectron2():
    generator = np.random.default_rng(0)
    sizes = [(640, 480), (480, 640), (500, 500), (3000, 400), (7, 5), (401, 241)]
    for width, height in [*sizes, *generator.integers(20, 2000, (300, 2)).tolist()]:
        for least, most in ((240, 400), (800, 1333)):
            given = Preprocessing("RGB", least, most, (), (), 32)
            expected = ResizeShortestEdge.get_output_shape(height, width, least, most)
            assert given.resized(width, height) == expected[::-1]
    assert PREPROCESSING.resized(50, 70) == (50, 70)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
def test_pixels_are_those_that_detectron2_reads_also_from_a_turned_image(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode in ("RGB", "L", "CMYK") else "a.png")
    image = Image.fromarray(noise((40, 60)).numpy()).convert(mode)
    for orientation in (1, 3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(path, exif=exif)
        assert np.array_equal(read_pixels(path), read_image(str(path), "RGB"))


@pytest.fixture(scope="module")
def thresholds(tmp_path_factory):
    """Chosen for the run's classes, at scores that a hardly trained model reaches."""
    file = tmp_path_factory.mktemp("thresholds") / "chosen.json"
    file.write_text(json.dumps({"thresholds": {"disc": 0.3, "bar": 0.25}, "criterion": "by hand"}))
    return file


@pytest.fixture(scope="module")
def exported(run, thresholds, tmp_path_factory):
    """The run's model as an ONNX file with thresholds."""
    file = tmp_path_factory.mktemp("exported") / "detector.onnx"
    chosen = ["--thresholds", str(thresholds)]
    assert main(["export", "--run", str(run[1]), "--out", str(file), *chosen]) == 0
    return file


def predicted(out: Path, *arguments) -> dict:
    assert main(["predict", *map(str, arguments), "--no-images", "--out", str(out)]) == 0
    return json.loads((out / "predictions.json").read_text())


def test_predict_finds_with_the_file_what_it_finds_with_the_run(
    run, exported, thresholds, tmp_path
):
    folder = tmp_path / "photos"
    shutil.copytree(run[0].parent / "images", folder)
    with Image.open(folder / "0.png") as image:  # one that is resized and turned
        exif = Image.Exif()
        exif[0x0112] = 6
        image.resize((300, 170)).save(folder / "turned.jpg", exif=exif)
    (folder / "broken.png").write_bytes(b"no image")
    own = ["--run", run[1], "--thresholds", thresholds, "--opts", *SMALL[:2]]
    expected = predicted(tmp_path / "a", folder, *own)
    found = predicted(tmp_path / "b", folder, "--model", exported)
    assert found["images"] == expected["images"] and len(found["images"]) == 9
    assert found["categories"] == expected["categories"]
    assert len(found["annotations"]) == len(expected["annotations"]) > 20
    for one, other in zip(found["annotations"], expected["annotations"], strict=True):
        assert one["category_id"] == other["category_id"]
        assert one["image_id"] == other["image_id"]
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.1)
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)


def test_the_file_says_what_its_numbers_mean(exported, run):
    stored = onnx.load(exported).metadata_props
    content = json.loads({each.key: each.value for each in stored}[METADATA_KEY])
    assert content["class_names"] == ["disc", "bar"]
    assert content["score_thresholds"] == [0.3, 0.25]
    assert content["thresholds_from"] == "by hand"
    assert content["preprocessing"] == {
        "colours": "RGB", "min_size": 64, "max_size": 400, "size_divisibility": 32,
        "pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375],
    }  # fmt: skip
    onnx.checker.check_model(str(exported))


def test_min_score_leaves_detections_out(exported, run, tmp_path):
    images = run[0].parent / "images"
    scores = [a["score"] for a in predicted(tmp_path / "a", images, "--model", exported)
              ["annotations"]]  # fmt: skip
    limit = sorted(scores)[len(scores) // 2]
    kept = predicted(tmp_path / "b", images, "--model", exported, "--min-score", limit)
    assert len(kept["annotations"]) == sum(score >= limit for score in scores)


def test_the_command_that_uses_the_file_can_be_copied_whatever_the_folder_is_called(
    run, tmp_path, capsys
):
    file = tmp_path / "my runs" / "detector.onnx"
    assert main(["export", "--run", str(run[1]), "--out", str(file)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(last) == ["counterpoise", "predict", "IMAGES", "--model", str(file)]


def test_torchscript_goes_beside_the_checkpoint_and_has_the_description_too(run, capsys):
    assert main(["export", "--run", str(run[1]), "--format", "torchscript"]) == 0
    file = run[1] / "model.ts"
    extra = {EXTRA_FILE: ""}
    found = torch.jit.load(file, _extra_files=extra)(noise((64, 80)))
    assert [each.numpy().ndim for each in found] == [2, 1, 1]  # no weight asks for gradients
    file.unlink()
    description = ModelDescription.of_json(extra[EXTRA_FILE].decode(), "model.ts")
    assert description.class_names == ("disc", "bar") and description.thresholds_from == ""
    assert str(file) in capsys.readouterr().out


WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "detectron2"):
            raise ImportError(name)

sys.meta_path.insert(0, Absent())
from counterpoise.commands.console import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_file_runs_where_pytorch_and_detectron2_are_not_installed(exported, run, tmp_path):
    images = run[0].parent / "images" / "0.png"
    arguments = ["predict", str(images), "--model", str(exported), "--out", str(tmp_path / "o")]
    environment = {**os.environ, "PYTHONPATH": str(CONFIGS.parent / "plugin")}
    subprocess.run([sys.executable, "-c", WITHOUT, *arguments], check=True, env=environment)
    assert (tmp_path / "o" / "images" / "0.jpg").is_file()


def one_sentence(capsys, *arguments) -> str:
    assert main([*map(str, arguments)]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"counterpoise {arguments[0]}: error: ") and "\n" not in said
    return said


def test_a_file_that_is_no_exported_model_is_refused_in_one_sentence(run, tmp_path, capsys):
    image = run[0].parent / "images" / "0.png"
    ask = ("predict", image, "--out", tmp_path / "o", "--model")
    assert "missing.onnx does not exist" in one_sentence(capsys, *ask, tmp_path / "missing.onnx")
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"something else")
    assert "cannot be read as an ONNX model" in one_sentence(capsys, *ask, wrong)
    assert "cannot be read as an ONNX model" in one_sentence(capsys, *ask, run[1] / "config.yaml")
    foreign = tmp_path / "foreign.onnx"
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    opset = onnx.helper.make_opsetid("", 16)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), foreign)
    assert "does not say what its classes" in one_sentence(capsys, *ask, foreign)
    assert not (tmp_path / "o").exists()


def test_a_description_that_is_damaged_is_refused_in_one_sentence():
    good = json.loads(DESCRIPTION.as_json())
    assert ModelDescription.of_json(json.dumps(good), "x") == DESCRIPTION
    for change, said in (
        ({"class_names": "a"}, r"x.class_names: expected array"),
        ({"version": 99}, "metadata of version 99, and this program reads version 1"),
        ({"score_thresholds": [0.1]}, "3 classes and 1 score thresholds"),
    ):
        with pytest.raises(UserError, match=said):
            ModelDescription.of_json(json.dumps(good | change), "x")
    with pytest.raises(UserError, match="is not JSON"):
        ModelDescription.of_json("{", "x")


def test_what_the_file_holds_already_is_not_taken_from_elsewhere(exported, run, capsys):
    image = run[0].parent / "images" / "0.png"
    for extra in (("--run", run[1]), ("--thresholds", "t.json"), ("--opts", "MODEL.DEVICE", "cpu")):
        said = one_sentence(capsys, "predict", image, "--model", exported, *extra)
        assert f"does not go with {extra[0]}" in said


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    exported, run, package, monkeypatch, tmp_path, capsys
):
    monkeypatch.setitem(sys.modules, package, None)
    if package == "onnx":
        said = one_sentence(capsys, "export", "--run", run[1], "--out", tmp_path / "m.onnx")
    else:
        said = one_sentence(capsys, "predict", run[0].parent / "images", "--model", exported)
    assert f"the package {package} is not installed: `pip install counterpoise[onnx]`" in said


@pytest.mark.slow
@pytest.mark.parametrize("leaf", ["quick/focal_weights", "quick_retinanet/focal"])
def test_a_briefly_trained_model_finds_the_same_in_real_images(
    leaf, real_data, tmp_path, monkeypatch
):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(real_data))
    out = tmp_path / "out"
    files = [CONFIGS / f"{leaf}.yaml", CONFIGS / "datasets" / "bccd.yaml"]
    named = [part for file in files for part in ("--config-file", str(file))]
    settings = ["SOLVER.MAX_ITER", "60", "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "20"]
    settings += ["DATASETS.TEST", "()", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(out)]
    assert main(["train", *named, *settings]) == 0
    assert main(["export", "--run", str(out)]) == 0
    images = sorted((real_data / "bccd" / "JPEGImages").glob("*.jpg"))[:12]
    low = ("--min-score", "0.05")
    expected = predicted(tmp_path / "a", *images, *low, "--run", out, "--opts", *SMALL[:2])
    found = predicted(tmp_path / "b", *images, *low, "--model", out / "model.onnx")
    assert len(found["annotations"]) == len(expected["annotations"]) > 100
    for one, other in zip(found["annotations"], expected["annotations"], strict=True):
        assert one["category_id"] == other["category_id"]
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.1)
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)


def test_a_wild_box_does_not_blur_the_others_of_many_classes():
    # IoU 0.48 and 0.52; shifted by 1,000 times 70,000 pixels float32 would make both 0 or 1.
    boxes = torch.tensor([[8.0, 8, 24, 24], [13.6, 8, 29.6, 24], [8.0, 40, 24, 56],
                          [13.05, 40, 29.05, 56], [0, 0, 70000, 70000]])  # fmt: skip
    scores = torch.tensor([0.9, 0.8, 0.9, 0.8, 0.1])
    classes = torch.full((5,), 1000)
    found, _, _ = best_per_class(boxes, scores, classes, torch.tensor([64, 64]), 0.5, -1)
    assert torch.equal(found, boxes[[0, 2, 1, 4]])


def test_classes_are_kept_apart_though_boxes_are_larger_than_the_image():
    boxes = torch.tensor([[-200.0, -200, 300, 300], [-200.0, -200, 300, 300]])
    scores, classes = torch.tensor([0.9, 0.8]), torch.tensor([0, 1])
    size = torch.tensor([64, 64])
    found, _, kept = best_per_class(boxes, scores, classes, size, 0.5, -1)
    assert kept.tolist() == [0, 1] and torch.equal(found, boxes)
    assert len(best_per_class(boxes[:0], scores[:0], classes[:0], size, 0.5, -1)[0]) == 0
