"""Several images per forward pass, and another precision, by keys of their own."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from counterpoise.config.validation import check_config
from counterpoise.errors import UserError
from counterpoise.inference.batches import EqualSizeBatches
from counterpoise.inference.evaluation import loader_of
from counterpoise.inference.prediction import predict
from counterpoise.modeling.acceleration import accelerate
from counterpoise.runtime.images import find_images
from models import batch, build, quick_config
from test_autocast import spread_predictions
from test_retinanet import retinanet_config

NO_WORKERS = ("DATALOADER.NUM_WORKERS", "0")
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
        cfg = quick_config("TEST.IMS_PER_BATCH", size, *NO_WORKERS)
        results[size] = list(predict(cfg, detector(cfg), images))
    for found in results.values():
        assert [each.image for each in found] == images
        assert [bool(each.error) for each in found] == [False, False, True, False, False]
        for one, other in zip(found, results["1"], strict=True):
            assert len(one.results) == len(other.results)
            for a, b in zip(one.results, other.results, strict=True):
                assert a["bbox"] == pytest.approx(b["bbox"], abs=0.01)


def test_evaluation_loads_batches_of_the_key(run):
    model = nn.Identity()
    one, two = (quick_config("TEST.IMS_PER_BATCH", size, *NO_WORKERS) for size in "12")
    assert [len(images) for images in loader_of(two, "shapes_val", model)] == [2]
    assert len(loader_of(one, "shapes_val", model)) == 2


def test_a_batch_holds_images_of_one_padded_size(tmp_path):
    sizes = [(64, 80), (96, 64), (60, 81), (64, 80), (40, 40), (64, 90)]
    images = photos(tmp_path, sizes)
    cfg = quick_config("TEST.IMS_PER_BATCH", "8", "INPUT.MIN_SIZE_TEST", "0", *NO_WORKERS)
    model = detector(cfg)
    seen = []
    model.register_forward_pre_hook(lambda _m, given: seen.append(len(given[0])))
    together = list(predict(cfg, model, images))
    assert seen == [1, 1, 2, 1, 1]
    single = quick_config("INPUT.MIN_SIZE_TEST", "0", *NO_WORKERS)
    for found, alone in zip(together, predict(single, detector(single), images), strict=True):
        assert found.image == alone.image and len(found.results) == len(alone.results) > 10
        for one, other in zip(found.results, alone.results, strict=True):
            assert one["bbox"] == pytest.approx(other["bbox"], abs=0.01)
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_equal_sizes_come_together_where_the_order_does_not_matter():
    sizes = [(32, 64), (64, 32), (32, 64), None, (64, 32), (32, 64), (32, 64)]
    assert list(EqualSizeBatches(sizes, 3, keep_order=False)) == [[3], [0, 2, 5], [6], [1, 4]]
    assert list(EqualSizeBatches(sizes, 3, keep_order=True)) == [[0], [1], [2], [3], [4], [5, 6]]


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


@pytest.mark.parametrize("kind", CONFIGS)
def test_scores_are_not_rounded_to_bfloat16(kind):
    model = detector(CONFIGS[kind]("TEST.PRECISION", "bfloat16"))
    (found,) = found_in(model, batch((1,)))
    assert found.scores.dtype == torch.float32
    assert (found.scores != found.scores.bfloat16()).float().mean() > 0.9


def test_augmented_inference_in_bfloat16_is_refused():
    with pytest.raises(UserError, match=r"TEST.PRECISION is 'bfloat16', but TEST.AUG.ENABLED"):
        check_config(quick_config("TEST.PRECISION", "bfloat16", "TEST.AUG.ENABLED", "True"))
