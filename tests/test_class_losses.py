"""The classification loss by target class: summed in training, written, read."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch import nn
from torch.testing import assert_close

from counterpoise.balance.losses import sigmoid_focal_loss, softmax_focal_loss
from counterpoise.errors import UserError
from counterpoise.modeling import DenseLoss
from counterpoise.modeling.class_loss_log import PerClassLoss
from counterpoise.modeling.dense_loss import DenseClassificationLoss, DenseFocalLoss, OHEMLoss
from counterpoise.modeling.roi_loss import ClassificationLoss
from counterpoise.modeling.weight_sources import FixedWeights
from counterpoise.training.class_loss_file import append_class_losses, read_class_losses
from counterpoise.training.hooks import ClassLossWriter
from models import C4, CASCADE, NEUTRAL, STOCK, batch, build, losses_and_gradients, quick_config
from runs import train_net, write_dataset
from test_retinanet import retinanet_config

GT_CLASSES = torch.tensor([0, 3, 3, 1, -1, 0, 3])
WEIGHT = torch.tensor([1.0, 2.0, 3.0, 0.5])


def logits(rows=7, columns=4, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def softmax_focal(z, targets):
    return softmax_focal_loss(z, targets, reduction="none")


def recorded(model):
    """What a model records in a step, by class."""
    with EventStorage():
        losses = losses_and_gradients(model, batch())[0]
    recorders = [module for module in model.modules() if isinstance(module, PerClassLoss)]
    return sum(recorder.take() for recorder in recorders), losses


# Sums


def test_sums_are_those_of_the_weighted_losses_of_each_class_over_all_steps():
    loss = ClassificationLoss(softmax_focal, FixedWeights(lambda: WEIGHT))
    expected = torch.zeros(4)
    with EventStorage():
        for seed in range(3):
            z = logits(seed=seed)
            loss(z, GT_CLASSES)
            for row, target in enumerate(GT_CLASSES.tolist()):
                if target >= 0:
                    one = softmax_focal_loss(z[row : row + 1], GT_CLASSES[row : row + 1])
                    expected[target] += WEIGHT[target] * one
    assert_close(loss.per_class_loss.take(), expected)
    assert loss.per_class_loss.take() is None


def test_recording_changes_no_bit_of_loss_and_gradient(monkeypatch):
    results = []
    for record in (PerClassLoss.add, lambda *_: None):
        monkeypatch.setattr(PerClassLoss, "add", record)
        model = build(quick_config("BALANCE.CLASS_WEIGHTS.SOURCE", "none"))
        dense = build(retinanet_config("BALANCE.DENSE_LOSS.NAME", "cross_entropy"))
        with EventStorage():
            results.append([losses_and_gradients(m, batch()) for m in (model, dense)])
    for with_record, without in zip(*results, strict=True):
        for ours, plain in zip(with_record, without, strict=True):
            assert all(torch.equal(ours[name], plain[name]) for name in plain)


def test_small_losses_of_very_many_background_samples_are_not_rounded_away():
    recorder = PerClassLoss()
    for _ in range(3):
        recorder.add(torch.full((4_000_000,), 2), torch.full((4_000_000,), 1e-3), 2)
    assert recorder.take()[-1].item() == pytest.approx(12_000, rel=1e-4)


def test_a_cascade_sums_all_its_stages():
    _, name, *rest = CASCADE
    settings = ("MODEL.ROI_HEADS.NAME", f"Balanced{name}", *rest, *NEUTRAL)
    sums, losses = recorded(build(quick_config(*settings, "BALANCE.ROI_LOSS.NORMALIZER", "sum")))
    stages = [losses[f"loss_cls_stage{k}"] for k in range(3)]
    assert_close(sums.sum(), sum(stages))


@pytest.mark.parametrize("head", [STOCK[2:], C4], ids=["fpn", "c4"])
def test_cross_entropy_that_detectron2_computes_is_recorded_too(head):
    _, name, *rest = head
    name = "BalancedROIHeads" if name == "StandardROIHeads" else f"Balanced{name}"
    model = build(quick_config(*NEUTRAL, "MODEL.ROI_HEADS.NAME", name, *rest))
    assert model.roi_heads.box_predictor.cls_loss.is_plain_cross_entropy
    sums, losses = recorded(model)
    proposals = 2 * model.roi_heads.batch_size_per_image
    assert sums.sum() / proposals <= losses["loss_cls"] * 1.0001
    assert (sums > 0).sum() >= 2


# Dense losses

LABELS = torch.tensor([[0, 1, 2, 2, -1, 2], [2, 2, 0, -1, 2, 2]])
ANCHORS = [Boxes(torch.tensor([[20.0 * i, 0, 20 * i + 10, 10] for i in range(6)]))]


@pytest.mark.parametrize(
    "loss, alpha, gamma", [(DenseFocalLoss(), 0.25, 2.0), (DenseFocalLoss(0.0), 0.75, 0.0)]
)
def test_a_dense_loss_is_summed_over_the_class_columns_by_the_label_of_the_anchor(
    loss, alpha, gamma
):
    z = logits(12, 2).view(2, 6, 2)
    module = DenseClassificationLoss(loss, alpha)
    total = module(z, LABELS, ANCHORS)
    assert torch.equal(total, loss(z, LABELS, ANCHORS, alpha))
    expected = torch.zeros(3)
    for image, anchor in (LABELS >= 0).nonzero().tolist():
        label = LABELS[image, anchor]
        target = torch.tensor([label == 0, label == 1])
        expected[label] += sigmoid_focal_loss(
            z[image, anchor], target, alpha, gamma, reduction="sum"
        )
    assert_close(module.per_class_loss.take(), expected)


def test_anchors_that_are_not_chosen_add_nothing():
    module = DenseClassificationLoss(OHEMLoss(ratio=1))
    total = module(logits(12, 2).view(2, 6, 2), LABELS, ANCHORS)
    sums = module.per_class_loss.take()
    assert_close(sums.sum(), total)
    assert (sums > 0).all()


def test_retinanets_own_focal_loss_is_recorded_and_adds_up_to_it():
    model = build(retinanet_config())
    assert model.dense_loss.is_detectron2s
    sums, losses = recorded(model)
    assert_close(sums.sum() / model.loss_normalizer, losses["loss_cls"], rtol=1e-4, atol=0.0)
    assert sums[-1] > 0 and sums[:-1].sum() > 0


def test_a_loss_of_the_users_own_is_recorded_by_its_losses_per_anchor():
    class Square(DenseLoss):
        def per_anchor(self, logits, labels, anchors, alpha=-1.0):
            return logits.square().sum(dim=-1).masked_fill(labels < 0, 0.0)

    z = logits(12, 2).view(2, 6, 2)
    module = DenseClassificationLoss(Square())
    total = module(z, LABELS, ANCHORS)
    squares = z.square().sum(dim=-1)
    expected = torch.stack([squares[label == LABELS].sum() for label in range(3)])
    assert_close(module.per_class_loss.take(), expected)
    assert_close(total, expected.sum())


def test_a_registered_loss_that_is_not_one_per_anchor_is_refused():
    class Unsummed(DenseLoss):
        def per_anchor(self, logits, labels, anchors, alpha=-1.0):
            return logits.square()

    with pytest.raises(UserError, match=r"DENSE_LOSS.NAME .*\(2, 6, 2\), expected \(2, 6\)"):
        DenseClassificationLoss(Unsummed())(logits(12, 2).view(2, 6, 2), LABELS, ANCHORS)


def test_a_registered_loss_that_gives_a_sum_alone_records_nothing():
    module = DenseClassificationLoss(lambda z, labels, anchors, alpha: z.sum())
    module(logits(12, 2).view(2, 6, 2), LABELS, ANCHORS)
    assert module.per_class_loss.take() is None


# The file


def test_shares_of_a_record_sum_to_one_and_the_background_comes_last(tmp_path):
    append_class_losses(tmp_path / "s", 19, ["a", "background"], [1.0, 2.0, 5.0])
    append_class_losses(tmp_path / "s", 39, ["a", "background"], [0.0, 3.0, 1.0])
    iterations, names, shares = read_class_losses(tmp_path / "s")
    assert iterations == (19, 39) and names == ("a", "background", "background")
    assert np.array_equal(shares, [[0.125, 0.25, 0.625], [0, 0.75, 0.25]])


def test_what_a_resumed_run_repeats_counts_once_and_what_it_does_not_is_kept(tmp_path):
    for iteration, loss in [(19, 1), (39, 1), (59, 1), (39, 3), (44, 7)]:
        append_class_losses(tmp_path / "s", iteration, ["a"], [loss, 1.0])
    iterations, _, shares = read_class_losses(tmp_path / "s")
    assert iterations == (19, 39, 44)
    assert shares[:, 0].tolist() == [0.5, 0.75, 0.875]


def test_an_incomplete_line_is_left_out(tmp_path):
    append_class_losses(tmp_path / "s", 19, ["a"], [1.0, 1.0])
    whole = (tmp_path / "s").read_text()
    (tmp_path / "s").write_text(whole + whole.replace("19", "39")[:-9])
    assert read_class_losses(tmp_path / "s").iterations == (19,)
    append_class_losses(tmp_path / "s", 59, ["a"], [1.0, 1.0])  # joins the incomplete line
    append_class_losses(tmp_path / "s", 79, ["a"], [1.0, 1.0])
    assert read_class_losses(tmp_path / "s").iterations == (19, 79)


RECORD = {"iteration": 19, "per_class_loss": {"a": 1.0}, "background": 1.0}


@pytest.mark.parametrize(
    "lines, said",
    [
        (None, "cannot be read"),
        ([], "holds no record"),
        (["[1]"], "is not a file of per-class losses"),
        ([json.dumps(RECORD | {"background": float("nan")})], "is not a file of per-class losses"),
        ([json.dumps(RECORD | {"background": -1.0})], "is not a file of per-class losses"),
        ([json.dumps(RECORD | {"per_class_loss": {"a": 0}, "background": 0})], "is not a file"),
        ([json.dumps(RECORD), json.dumps(RECORD | {"iteration": 39, "per_class_loss": {"b": 1}})],
         "different classes"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named_in_a_sentence(tmp_path, lines, said):
    if lines is not None:
        (tmp_path / "s").write_text("\n".join(lines))
    with pytest.raises(UserError, match=said) as error:
        read_class_losses(tmp_path / "s")
    assert str(tmp_path / "s") in str(error.value)


# In a run


def test_a_run_records_its_shares_at_its_end(run):
    iterations, names, shares = read_class_losses(run[1] / "class_losses.jsonl")
    assert iterations == (2,) and names == ("disc", "bar", "background")
    assert shares.sum(axis=1) == pytest.approx([1.0])
    assert (shares[:, -1] > 0).all()


def test_a_resumed_run_records_what_an_uninterrupted_one_does_and_a_new_one_starts_anew(tmp_path):
    data = write_dataset(tmp_path / "shapes")
    quiet = ("DATASETS.TEST", "()")
    assert train_net(data, tmp_path / "out", "SOLVER.MAX_ITER", "2", *quiet) == 0
    assert train_net(data, tmp_path / "out", "--resume", "SOLVER.MAX_ITER", "4", *quiet) == 0
    assert read_class_losses(tmp_path / "out" / "class_losses.jsonl").iterations == (3,)
    assert train_net(data, tmp_path / "out", "--overwrite", *quiet) == 0
    assert read_class_losses(tmp_path / "out" / "class_losses.jsonl").iterations == (2,)


def test_a_model_that_records_nothing_leaves_no_file(tmp_path):
    data = write_dataset(tmp_path / "shapes")
    stock = (*STOCK, "DATASETS.TEST", "()", "SOLVER.MAX_ITER", "1")
    # The leaf sets loss and sampler, which stock heads do not read.
    neutral = (
        "BALANCE.ROI_LOSS.NAME", "softmax_focal", "BALANCE.CLASS_WEIGHTS.SOURCE", "dataset",
    )  # fmt: skip
    assert train_net(data, tmp_path / "out", *stock, *neutral, leaf="baseline") == 0
    assert not (tmp_path / "out" / "class_losses.jsonl").exists()
    # Nor does it have class weights, though SOURCE is the default.
    record = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["counterpoise"]
    assert sum(record["boxes"]) > 0 and record["weights"] == []
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "Classes of the training set:" in log and "(background)" not in log


def write_in_process(rank, path):
    model = nn.Sequential(nn.Linear(1, 1), PerClassLoss())
    if rank == 0:  # the other process saw no proposal
        model[1].add(torch.tensor([0, 2]), torch.tensor([1.0, 3.0]), 2)
    hook = ClassLossWriter(path, ["a", "b"])
    hook.trainer = SimpleNamespace(model=model, iter=19, max_iter=100)
    hook.before_train()
    hook.after_step()


def test_processes_write_one_record_of_their_joint_loss(processes, tmp_path):
    processes.run(write_in_process, tmp_path / "shares")
    (line,) = (tmp_path / "shares").read_text().splitlines()
    assert json.loads(line) == {
        "iteration": 19, "per_class_loss": {"a": 1.0, "b": 0.0}, "background": 3.0,
    }  # fmt: skip
