"""The moving average of the weights: its formula, and which weights are evaluated and resumed."""

import json
import logging

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from counterpoise.modeling.checkpoint import BalancedCheckpointer
from counterpoise.training.hooks import UntracedPreciseBN
from counterpoise.training.weight_average import WeightAverage
from runs import NO_TEST, train_net, write_dataset

EMA = ("MODEL.EMA.ENABLED", "True", "MODEL.EMA.DECAY", "0.5", "SOLVER.BASE_LR", "0.05")


@pytest.fixture(scope="module")
def averaged_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averaged")
    data = write_dataset(folder / "shapes")
    assert train_net(data, folder / "out", *EMA) == 0
    return data, folder / "out"


def checkpoint(path):
    return torch.load(path, weights_only=True)


def evaluation(out):
    return json.loads((out / "evaluation.json").read_text())


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9])
def test_the_average_follows_its_formula_with_a_warm_up(decay):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    average = WeightAverage(model, decay)
    expected = torch.zeros(2, 3)
    for t in range(20):
        with torch.no_grad():
            model.weight.copy_(torch.randn(2, 3))
        average.update()
        share = min(decay, t / (9 + t))
        expected = share * expected + (1 - share) * model.weight.detach()
        assert_close(average.weights["weight"], expected)


def test_statistics_of_batch_norms_are_those_of_the_model():
    model = nn.BatchNorm2d(2)
    average = WeightAverage(model, 0.9)
    for _ in range(3):
        model(torch.randn(4, 2, 5, 5))
        average.update()
    assert torch.equal(average.weights["running_var"], model.running_var)
    assert average.weights["num_batches_tracked"] == 3


def test_a_part_that_a_model_has_under_two_names_is_averaged_as_one():
    model = nn.Module()
    model.stem = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.again = model.stem
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model.stem[0].weight.add_(1)
    model.stem(torch.randn(4, 2))
    average.update()
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    with average.applied():
        assert all(torch.equal(model.state_dict()[n], value) for n, value in expected.items())


def test_the_model_has_the_average_only_while_it_is_applied():
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.9)
    average.update()
    averaged = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1)
    own = model.weight.detach().clone()
    with average.applied():
        assert torch.equal(model.weight, averaged)
    assert torch.equal(model.weight, own)


def test_a_checkpoint_holds_the_raw_and_the_averaged_weights(averaged_run):
    content = checkpoint(averaged_run[1] / "model_final.pth")
    name = "roi_heads.box_predictor.cls_score.weight"
    assert content["averaged"]["updates"] == 3
    assert content["averaged"]["model"].keys() == content["model"].keys()
    assert not torch.equal(content["averaged"]["model"][name], content["model"][name])


def test_evaluation_reads_the_averaged_weights_and_the_raw_ones_where_they_are_asked_for(
    averaged_run, tmp_path
):
    data, out = averaged_run
    weights = ("--eval-only", "MODEL.WEIGHTS", str(out / "model_final.pth"))
    assert train_net(data, tmp_path / "same", *weights, *EMA) == 0
    assert train_net(data, tmp_path / "raw", *weights) == 0
    assert evaluation(tmp_path / "same") == evaluation(out)
    plain = checkpoint(out / "model_final.pth")
    del plain["averaged"]
    torch.save(plain, tmp_path / "plain.pth")
    raw = ("--eval-only", "MODEL.WEIGHTS", str(tmp_path / "plain.pth"))
    assert train_net(data, tmp_path / "plain", *raw) == 0
    assert evaluation(tmp_path / "raw") == evaluation(tmp_path / "plain")
    detections = [
        next((folder / "inference").rglob("*.json*")).read_bytes()
        for folder in (tmp_path / "same", tmp_path / "raw")
    ]
    assert detections[0] != detections[1]


@pytest.mark.parametrize("resume, read", [(True, "raw"), (False, "averaged")])
def test_only_a_resumed_run_starts_from_the_raw_weights(tmp_path, caplog, resume, read):
    saved = nn.Linear(1, 1, bias=False)
    average = WeightAverage(saved, 0.9)
    expected = {"averaged": saved.weight.item(), "raw": saved.weight.item() + 1}
    with torch.no_grad():
        saved.weight.add_(1)
    BalancedCheckpointer(saved, str(tmp_path), averaged=average).save("model_final")
    model = nn.Linear(1, 1, bias=False)
    checkpointer = BalancedCheckpointer(model, str(tmp_path))
    with caplog.at_level(logging.INFO, "counterpoise"):
        checkpointer.resume_or_load(str(tmp_path / "model_final.pth"), resume=resume)
    assert model.weight.item() == pytest.approx(expected[read])
    assert ("beside the raw ones: the averaged ones are taken" in caplog.text) == (not resume)


def test_a_resumed_run_goes_on_with_the_average_so_far(averaged_run):
    data, out = averaged_run
    before = checkpoint(out / "model_final.pth")
    assert train_net(data, out, "--resume", *EMA, "SOLVER.MAX_ITER", "4", *NO_TEST) == 0
    after = checkpoint(out / "model_final.pth")
    assert after["averaged"]["updates"] == 4
    name = "roi_heads.box_predictor.cls_score.weight"
    share = min(0.5, 3 / 12)
    expected = share * before["averaged"]["model"][name] + (1 - share) * after["model"][name]
    assert_close(after["averaged"]["model"][name], expected)


def test_precise_batch_norms_are_averaged_and_leave_no_trace_in_the_records(tmp_path):
    data = write_dataset(tmp_path / "shapes")
    norms = (*EMA, "MODEL.FPN.NORM", "BN", *NO_TEST)
    precise = ("TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITER", "2")
    assert train_net(data, tmp_path / "stock", *norms) == 0
    assert train_net(data, tmp_path / "precise", *norms, *precise) == 0
    stock, made = (checkpoint(tmp_path / run / "model_final.pth") for run in ("stock", "precise"))
    name = "backbone.fpn_output2.norm.running_var"
    assert not torch.equal(stock["model"][name], made["model"][name])
    assert torch.equal(made["averaged"]["model"][name], made["model"][name])
    for file in ("class_losses.jsonl", "metrics.json"):
        lines = [(tmp_path / run / file).read_text().splitlines() for run in ("stock", "precise")]
        before, after = ([untimed(json.loads(line)) for line in each] for each in lines)
        assert before == after


def test_precise_batch_norms_leave_the_random_numbers_of_a_training_alone():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout())  # a pass that draws random numbers
    hook = UntracedPreciseBN(1, model, DataLoader(torch.randn(6, 4), batch_size=3), num_iter=2)
    before = torch.get_rng_state()
    hook.update_stats()
    assert model[0].num_batches_tracked == 2
    assert torch.equal(torch.get_rng_state(), before)


def untimed(record):
    return {name: value for name, value in record.items() if not name.endswith(("time", "seconds"))}
