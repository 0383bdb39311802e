"""Losses and gradients that are not finite: the run stops or skips; the step is repeated."""

import random
import re

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from counterpoise.commands import console
from counterpoise.commands.replay import as_text
from counterpoise.errors import RunFailed
from counterpoise.modeling.class_loss_log import PerClassLoss
from counterpoise.modeling.metric_log import MetricLog
from counterpoise.modeling.roi_heads import BalancedROIHeads
from counterpoise.modeling.training_state import load_training_state
from counterpoise.training.number_guard import GuardedAMPTrainer, GuardedTrainer, NumberGuard
from counterpoise.training.random_state import set_random_state
from counterpoise.training.replay import Replay
from counterpoise.training.step_bundle import NORMALIZERS_KEY, read_step, write_step
from models import LOGGED, batch, build, quick_config
from runs import NO_TEST, train_net, write_dataset
from test_retinanet import retinanet_config

#: A loss that fails in its third call; `{failure}` makes the value or the gradient infinite.
BROKEN = """
from counterpoise.modeling.registry import ROI_LOSS_REGISTRY

@ROI_LOSS_REGISTRY.register(name="{name}")
def build(cfg):
    calls = []
    def loss(logits, gt_classes):
        if not calls or logits.requires_grad:
            calls.append(1)
        zero = 0 * logits.sum(dim=1).float()
        return zero + {failure} if len(calls) == 3 else zero + 1
    return loss
"""
FAILURES = {"value": "float('nan')", "gradient": "(zero * zero).sqrt()"}
SHORT = ("SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "1", *NO_TEST)


def broken_run(tmp_path, kind, *arguments):
    name = f"broken_{kind}_{tmp_path.name}"
    (tmp_path / "broken.py").write_text(BROKEN.format(name=name, failure=FAILURES[kind]))
    data = write_dataset(tmp_path / "shapes")
    settings = ("BALANCE.ROI_LOSS.NAME", name, "BALANCE.CLASS_WEIGHTS.SOURCE", "none", *SHORT)
    code = train_net(
        data, tmp_path / "out", f"--import={tmp_path / 'broken.py'}", *settings, *arguments,
        leaf="baseline",
    )  # fmt: skip
    return code, tmp_path / "out"


def weights(path):
    return torch.load(path, weights_only=True)["model"]


@pytest.mark.parametrize(
    "kind, said", [("value", "loss_cls is nan"), ("gradient", "a gradient is not finite")]
)
def test_a_run_stops_in_one_sentence_that_names_step_images_and_rate(tmp_path, capsys, kind, said):
    code, out = broken_run(tmp_path, kind)
    assert code == 1
    captured = capsys.readouterr()
    error = captured.err
    assert f"In iteration 2 {said}" in error and "Traceback" not in captured.out + error
    assert len(re.findall(r"\d\.png", error)) == 2 and "learning rate" in error
    assert f"counterpoise replay {out / 'stopped_at_2.pth'}" in error


def test_the_last_checkpoint_is_the_one_before_the_step_and_finite(tmp_path):
    _, out = broken_run(tmp_path, "gradient")
    assert (out / "last_checkpoint").read_text() == "model_0000001.pth"
    before = weights(out / "model_0000001.pth")
    kept = weights(out / "stopped_at_2.pth")
    for name, value in before.items():
        assert value.isfinite().all() and torch.equal(value, kept[name]), name


def test_a_skipped_step_leaves_the_weights_as_they_were(tmp_path, capsys):
    code, out = broken_run(tmp_path, "gradient", "SOLVER.NON_FINITE", "skip")
    assert code == 0
    assert "the step is left out, 1 so far" in capsys.readouterr().out
    before, after = (weights(out / f"model_000000{step}.pth") for step in (1, 2))
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    name = "backbone.fpn_lateral2.weight"
    assert not torch.equal(after[name], weights(out / "model_final.pth")[name])


def test_a_step_is_skipped_with_detectron2s_default_clipping_too(tmp_path):
    clipping = ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value", "SOLVER.CLIP_GRADIENTS.ENABLED", "True")
    for speed in ("stock", "auto"):  # whose optimizers clip in other ways
        (tmp_path / speed).mkdir()
        code, _ = broken_run(
            tmp_path / speed, "gradient", "SOLVER.NON_FINITE", "skip", *clipping,
            "MODEL.SPEED", speed, "SOLVER.OPTIMIZER", "SGD",
        )  # fmt: skip
        assert code == 0


class Normed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(2)

    def forward(self, images):
        return self.norm(images[0]["image"])


def test_a_skipped_step_leaves_no_trace_in_the_statistics_of_batch_norms(tmp_path):
    model = Normed()
    cfg = quick_config("SOLVER.NON_FINITE", "skip", "OUTPUT_DIR", str(tmp_path))
    guard = NumberGuard(cfg, model, {})
    model([{"image": torch.randn(5, 2)}])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model([{"image": torch.full((5, 2), float("inf"))}])
    assert not model.norm.running_mean.isfinite().all()
    guard.reject_step("a loss is nan", torch.optim.SGD(model.parameters(), 0.1), 1)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_what_is_logged_outlives_a_step_that_is_not_finite():
    losses = PerClassLoss()
    losses.add(torch.tensor([0, 1, 2]), torch.tensor([1.0, float("nan"), float("inf")]), 2)
    assert losses.take().tolist() == [1, 0, 0]
    log = MetricLog()
    with EventStorage(LOGGED) as storage:
        log.add({"roi/p_t_fg": (torch.tensor(float("nan")), torch.tensor(1.0))})
        assert storage.latest()["roi/p_t_fg"][0] == 0


def guarded_layer(policy, out):
    """A layer with gradients, its optimizer and its guard."""
    layer = torch.nn.Linear(2, 1)
    cfg = quick_config("SOLVER.NON_FINITE", policy, "OUTPUT_DIR", str(out))
    return layer, torch.optim.SGD(layer.parameters(), 0.1), NumberGuard(cfg, layer, {})


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="this torch scales on GPUs alone")
@pytest.mark.parametrize("factor", [1.0, float("nan")])
def test_a_skipped_step_in_float16_is_one_that_the_scaler_leaves_out(tmp_path, factor):
    layer, optimizer, guard = guarded_layer("skip", tmp_path)
    scaler, before = torch.amp.GradScaler("cpu"), layer.weight.detach().clone()
    loss = layer.weight.sum() * factor
    scaler.scale(loss).backward()
    assert not guard.check_step({"loss_cls": loss * float("nan")}, optimizer, True, 0)
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(layer.weight, before)
    optimizer.zero_grad()
    scaler.scale(layer.weight.sum()).backward()
    scaler.step(optimizer)
    assert torch.allclose(layer.weight, before - 0.1)


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="this torch scales on GPUs alone")
def test_float16_goes_on_from_a_run_that_had_no_scaler(tmp_path):
    layer, optimizer, guard = guarded_layer("stop", tmp_path)
    before = GuardedTrainer(layer, [], optimizer)
    before.iter, before.guard = 7, guard
    scalers = [torch.amp.GradScaler("cpu", init_scale=scale) for scale in (32.0, 8.0)]
    first, second = (
        GuardedAMPTrainer(layer, [], optimizer, grad_scaler=scaler) for scaler in scalers
    )
    first.load_state_dict(before.state_dict())
    assert (first.iter, scalers[0].get_scale()) == (7, 32.0)
    second.load_state_dict(first.state_dict())
    assert scalers[1].get_scale() == 32.0


@pytest.mark.parametrize("value, finite", [(1.0, True), (float("nan"), False)])
def test_a_loss_of_one_number_in_a_vector_is_looked_at_as_any_other(tmp_path, value, finite):
    layer, optimizer, guard = guarded_layer("skip", tmp_path)
    losses = {"loss_cls": layer.weight.sum(), "loss_own": torch.tensor([value])}
    sum(losses.values()).backward()
    assert guard.check_step(losses, optimizer, False, 0) == finite


@pytest.mark.parametrize("scale, stops", [(0.5, True), (1.0, False)])
def test_gradients_that_no_scale_makes_finite_in_float16_end_the_run(tmp_path, scale, stops):
    layer, optimizer, guard = guarded_layer("stop", tmp_path)
    trainer = GuardedAMPTrainer(layer, [], optimizer, grad_scaler=GradScalerAt(scale))
    trainer.guard, trainer.iter = guard, 7
    with EventStorage():
        if not stops:
            trainer._write_metrics({"loss_cls": torch.zeros(())}, 0.0)
            return
        with pytest.raises(RunFailed, match=r"In iteration 7 the loss's factor .* halved to 0.5"):
            trainer._write_metrics({"loss_cls": torch.zeros(())}, 0.0)


class GradScalerAt:
    """A scaler that has come to some scale."""

    def __init__(self, scale):
        self.get_scale = lambda: scale


class Counting(torch.nn.Module):
    """A model whose loss counts steps, and which draws as augmentation or dropout do."""

    def __init__(self):
        super().__init__()
        self.cls_loss = torch.nn.Module()
        self.cls_loss.loss = torch.nn.Module()
        self.cls_loss.loss.register_buffer("steps", torch.zeros(()))

    def forward(self, images):
        self.cls_loss.loss.steps += 1
        return torch.rand(()), np.random.random(), random.random()


def test_a_step_is_kept_with_the_state_in_which_it_began(tmp_path):
    model = Counting()
    guard = NumberGuard(quick_config("OUTPUT_DIR", str(tmp_path)), model, {})
    model([])
    drawn = model([])
    with pytest.raises(RunFailed):
        guard.reject_step("a loss is nan", torch.optim.SGD([torch.zeros(1)], 0.1), 1)
    step = read_step(tmp_path / "stopped_at_1.pth")
    assert step["model"]["cls_loss.loss.steps"] == 1
    set_random_state(step["random_state"])
    assert model([]) == drawn


LEARNT = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from counterpoise.modeling.interfaces import ROILoss
from counterpoise.modeling.registry import ROI_LOSS_REGISTRY

class Learnt(ROILoss):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, logits, gt_classes):
        return cross_entropy(self.scale * logits, gt_classes, ignore_index=-1, reduction="none")

@ROI_LOSS_REGISTRY.register(name="learnt_{name}")
def build(cfg):
    return Learnt()
"""


def test_a_loss_with_a_parameter_of_its_own_trains(tmp_path):
    (tmp_path / "own.py").write_text(LEARNT.format(name=tmp_path.name))
    settings = ("BALANCE.ROI_LOSS.NAME", f"learnt_{tmp_path.name}", "SOLVER.MAX_ITER", "2")
    code = train_net(
        write_dataset(tmp_path / "shapes"), tmp_path / "out", f"--import={tmp_path / 'own.py'}",
        *settings, "BALANCE.CLASS_WEIGHTS.SOURCE", "none", *NO_TEST, leaf="baseline",
    )  # fmt: skip
    assert code == 0
    (scale,) = (v for k, v in weights(tmp_path / "out/model_final.pth").items() if "scale" in k)
    assert scale != 1


def test_the_running_normalizer_of_a_one_stage_model_is_kept_with_its_step(tmp_path):
    model = build(retinanet_config())
    guard = NumberGuard(quick_config("OUTPUT_DIR", str(tmp_path)), model, {})
    model.loss_normalizer = 17.5
    with EventStorage():
        model(batch())
    assert model.loss_normalizer != 17.5
    with pytest.raises(RunFailed):
        guard.reject_step("a loss is nan", torch.optim.SGD([torch.zeros(1)], 0.1), 1)
    again = build(retinanet_config())
    load_training_state(again, read_step(tmp_path / "stopped_at_1.pth")[NORMALIZERS_KEY])
    assert again.loss_normalizer == 17.5


def test_a_skipped_step_leaves_no_trace_in_the_running_normalizer(tmp_path):
    model = build(retinanet_config())
    cfg = quick_config("SOLVER.NON_FINITE", "skip", "OUTPUT_DIR", str(tmp_path))
    guard = NumberGuard(cfg, model, {})
    model.loss_normalizer = 17.5
    with EventStorage():
        model(batch())
    assert model.loss_normalizer != 17.5
    guard.reject_step("a loss is nan", torch.optim.SGD([torch.zeros(1)], 0.1), 1)
    assert model.loss_normalizer == 17.5


def test_an_infinite_loss_is_named_though_its_gradient_is_finite():
    said = as_text(Replay(losses={"loss_rpn_loc": float("inf")}))
    assert "Losses that are not finite: loss_rpn_loc" in said and "All numbers" not in said
    assert "All numbers of this step are finite" in as_text(Replay(losses={"loss_rpn_loc": 1.0}))


def given_up(rank, out):
    _, optimizer, guard = guarded_layer("skip", out)
    with pytest.raises(RunFailed) as stopped:
        guard.reject_step("the model gives up", optimizer, 3, together=False)
    return str(stopped.value)


def test_a_step_that_one_of_several_processes_gives_up_is_not_skipped(processes, tmp_path):
    for said in processes.run(given_up, tmp_path):
        assert "In iteration 3 the model gives up" in said
        assert "SOLVER.NON_FINITE skip needs every process to reach the end of the step" in said


def test_a_step_that_cannot_be_kept_still_ends_in_its_sentence(tmp_path):
    _, optimizer, guard = guarded_layer("stop", tmp_path / "gone")
    with pytest.raises(RunFailed, match=r"a loss is nan .* the step cannot be kept \(.*gone"):
        guard.reject_step("a loss is nan", optimizer, 0)


def test_boxes_that_detectron2_finds_infinite_are_met_like_a_loss(tmp_path, capsys):
    data = write_dataset(tmp_path / "shapes")
    wild = ("SOLVER.BASE_LR", "1e20", "SOLVER.WARMUP_ITERS", "0", "SOLVER.MAX_ITER", "6", *NO_TEST)
    assert train_net(data, tmp_path / "out", *wild) == 1
    error = capsys.readouterr().err
    assert "In iteration" in error and "lower SOLVER.BASE_LR" in error
    assert "Traceback" not in error and list((tmp_path / "out").glob("stopped_at_*.pth"))


def test_infinite_boxes_between_the_stages_of_a_cascade_are_met_like_a_loss(
    tmp_path, capsys, monkeypatch
):
    """Detectron2 answers these with an assertion; any other assertion stays what it is."""
    data = write_dataset(tmp_path / "shapes")
    for said, code in (("Box tensor contains infinite or NaN!", 1), ("another", None)):

        def fails(*_, said=said):
            raise AssertionError(said)

        monkeypatch.setattr(BalancedROIHeads, "forward", fails)
        out = tmp_path / str(code)
        if code is None:
            with pytest.raises(AssertionError, match="another"):
                train_net(data, out, *SHORT)
        else:
            assert train_net(data, out, *SHORT) == code
            assert "the model gives up (Box tensor contains" in capsys.readouterr().err
            assert (out / "stopped_at_0.pth").is_file()


def test_replay_of_a_folder_asks_for_the_file_in_it(tmp_path, capsys):
    assert console.main(["replay", str(tmp_path)]) == 2
    assert "is a folder: give its stopped_at_*.pth" in capsys.readouterr().err


def test_replay_names_the_images_and_the_parameters(tmp_path, capsys):
    data = write_dataset(tmp_path / "shapes")
    out = tmp_path / "out"
    wild = ("SOLVER.BASE_LR", "1e20", "SOLVER.WARMUP_ITERS", "0", "SOLVER.MAX_ITER", "6", *NO_TEST)
    assert train_net(data, out, *wild) == 1
    (step,) = out.glob("stopped_at_*.pth")
    capsys.readouterr()
    config = (out / "config.yaml").read_text()  # of a run on a GPU, which need not be here
    (out / "config.yaml").write_text(config.replace("DEVICE: cpu", "DEVICE: cuda"))
    assert console.main(["replay", str(step)]) == 0
    shown = capsys.readouterr().out
    assert len(re.findall(r"\d\.png", shown)) == 2
    assert "All numbers of this step are finite" not in shown
    assert re.search(r"Layers that make .*: \S+", shown) or "gives up" in shown


def test_a_step_with_masks_is_refused_since_they_are_not_kept(run, tmp_path, capsys):
    image = {
        "image": torch.zeros(3, 8, 8),
        "height": 8,
        "width": 8,
        "instances": Instances(
            (8, 8),
            gt_boxes=Boxes(torch.tensor([[0.0, 0, 4, 4]])),
            gt_classes=torch.tensor([0]),
            gt_masks=torch.zeros(1, 8, 8),
        ),
    }
    path = write_step(tmp_path / "stopped_at_1.pth", {}, [image, image], {}, {})
    config = ["--config-file", str(run[1] / "config.yaml")]
    assert console.main(["replay", str(path), *config]) == 2
    assert f"{path} is a step with gt_masks, of which" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"no step"])
def test_a_file_that_is_no_step_is_refused(run, tmp_path, capsys, content):
    path = tmp_path / "stopped_at_1.pth"
    if content is not None:
        path.write_bytes(content)
    config = ["--config-file", str(run[1] / "config.yaml")]
    assert console.main(["replay", str(path), *config]) == 2
    assert f"{path} cannot be read as a step" in capsys.readouterr().err


def test_evaluation_refuses_weights_that_are_not_finite(run, tmp_path, capsys):
    data, out = run
    content = torch.load(out / "model_final.pth", weights_only=True)
    content["model"]["roi_heads.box_predictor.cls_score.bias"][0] = float("nan")
    torch.save(content, tmp_path / "diverged.pth")
    weights = ("--eval-only", "MODEL.WEIGHTS", str(tmp_path / "diverged.pth"))
    assert train_net(data, tmp_path / "out", *weights) == 2
    error = capsys.readouterr().err
    assert "diverged.pth holds numbers that are not finite" in error
    assert "roi_heads.box_predictor.cls_score.bias" in error
