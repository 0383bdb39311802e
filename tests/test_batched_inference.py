"""Several images per forward pass, and another precision, by keys of their own."""

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoise.config.validation import check_config
from counterpoise.errors import UserError
from counterpoise.inference.evaluation import test_loader as loader_of
from counterpoise.inference.prediction import predict
from counterpoise.modeling.acceleration import accelerate
from counterpoise.runtime.images import find_images
from models import batch, build, quick_config
from test_autocast import spread_predictions
from test_retinanet import retinanet_config

CONFIGS = {"two stages": quick_config, "one stage": retinanet_config}


def detector(cfg):
    model = build(cfg)
    spread_predictions(model)
    accelerate(model, cfg)
    return model.eval()


def found_in(model, images):
    with torch.no_grad():
        return [output["instances"] for output in model(images)]


@pytest.mark.parametrize("kind", CONFIGS)
def test_images_of_one_size_give_the_same_detections_in_a_batch(kind):
    model, images = detector(CONFIGS[kind]()), batch((1, 1, 1))
    together = found_in(model, images)
    for image, found in zip(images, together, strict=True):
        (alone,) = found_in(model, [image])
        assert len(alone) > 10
        assert found.pred_classes.tolist() == alone.pred_classes.tolist()
        assert (found.pred_boxes.tensor - alone.pred_boxes.tensor).abs().max() < 1e-2
        assert (found.scores - alone.scores).abs().max() < 1e-4


def photos(folder, sizes):
    for number, size in enumerate(sizes):
        pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return find_images([folder])


def test_predictions_come_in_the_order_of_the_images_for_each_batch_size(tmp_path):
    images = photos(tmp_path, [(64, 80)] * 5)
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:200] + b"IEND\xaeB`\x82")
    results = {}
    for size in ("1", "2", "8"):
        cfg = quick_config("TEST.IMS_PER_BATCH", size, "DATALOADER.NUM_WORKERS", "0")
        results[size] = list(predict(cfg, detector(cfg), images))
    for found in results.values():
        assert [each.image for each in found] == images
        assert [bool(each.error) for each in found] == [False, False, True, False, False]
        for one, other in zip(found, results["1"], strict=True):
            assert len(one.results) == len(other.results)
            for a, b in zip(one.results, other.results, strict=True):
                assert a["bbox"] == pytest.approx(b["bbox"], abs=0.01)


def test_evaluation_loads_batches_of_the_key(run):
    cfg = quick_config("TEST.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0")
    assert [len(images) for images in loader_of(cfg, "shapes_val")] == [2]
    assert len(loader_of(quick_config("DATALOADER.NUM_WORKERS", "0"), "shapes_val")) == 2


@pytest.mark.parametrize("kind", CONFIGS)
def test_inference_is_in_bfloat16_by_its_own_key_alone(kind):
    for overrides, expected in (
        ((), torch.float32),
        (("SOLVER.AMP.ENABLED", "True", "MODEL.CHANNELS_LAST", "True"), torch.float32),
        (("TEST.PRECISION", "bfloat16"), torch.bfloat16),
    ):
        model = detector(CONFIGS[kind](*overrides))
        seen = []
        model.backbone.register_forward_hook(
            lambda _m, _in, out, seen=seen: seen.append({each.dtype for each in out.values()})
        )
        (found,) = found_in(model, batch((1,)))
        assert seen == [{expected}]
        assert len(found) > 10 and found.pred_boxes.tensor.dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")


def test_augmented_inference_in_bfloat16_is_refused():
    with pytest.raises(UserError, match=r"TEST.PRECISION is 'bfloat16', but TEST.AUG.ENABLED"):
        check_config(quick_config("TEST.PRECISION", "bfloat16", "TEST.AUG.ENABLED", "True"))
