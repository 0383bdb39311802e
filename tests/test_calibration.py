"""NorCal and logit adjustment: their formulas, where the counts come from, the choice."""

import json
import math

import pytest
import torch
from detectron2.utils.events import EventStorage

from counterpoise.balance.calibration import logit_shift
from counterpoise.commands.calibrate import best_of
from counterpoise.commands.console import main
from counterpoise.config.validation import check_config
from counterpoise.errors import UserError
from counterpoise.export.graph import class_probabilities
from counterpoise.inference.calibration_choice import ExponentResult
from counterpoise.modeling.calibration import Calibration
from models import NEUTRAL, batch, build, losses_and_gradients, quick_config
from runs import SMALL

COUNTS = torch.tensor([1000, 200, 10])
LOGITS = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 3


def test_norcal_divides_each_exponential_by_its_count_in_units_of_the_geometric_mean():
    exponent = 0.7
    odds = LOGITS.exp()
    odds[:, :3] /= (COUNTS / (1000 * 200 * 10) ** (1 / 3)) ** exponent
    expected = odds / odds.sum(dim=1, keepdim=True)
    shifted = (LOGITS + logit_shift(COUNTS, "norcal", exponent)).softmax(dim=1)
    torch.testing.assert_close(shifted, expected)


def test_logit_adjustment_subtracts_the_logarithm_of_the_prior():
    shift = logit_shift(COUNTS, "logit_adjustment", 0.5)
    prior = COUNTS / 1210
    torch.testing.assert_close(shift, torch.cat([-0.5 * prior.log(), torch.zeros(1)]))


@pytest.mark.parametrize("method", ["norcal", "logit_adjustment"])
def test_exponent_0_shifts_nothing_and_a_class_without_boxes_counts_as_one_box(method):
    assert logit_shift(COUNTS, method, 0.0).abs().max() == 0
    empty = logit_shift(torch.tensor([5, 0]), method, 1.0)
    assert torch.equal(empty, logit_shift(torch.tensor([5, 1]), method, 1.0))
    assert empty[1] - empty[0] == pytest.approx(math.log(5))


def test_a_method_or_exponent_that_is_none_is_refused():
    with pytest.raises(ValueError, match="method must be in"):
        logit_shift(COUNTS, "norkal", 1.0)
    with pytest.raises(ValueError, match="exponent must be >= 0"):
        logit_shift(COUNTS, "norcal", -0.1)


def calibrated(*overrides):
    node = "BALANCE.CALIBRATION"
    return quick_config(f"{node}.NAME", "norcal", f"{node}.EXPONENT", "1.0", *overrides)


def test_a_model_applies_the_shift_to_its_scores_and_not_to_its_losses():
    plain, model = build(quick_config(*NEUTRAL)), build(calibrated(*NEUTRAL))
    assert model.state_dict().keys() == plain.state_dict().keys()
    predictor = model.roi_heads.box_predictor
    predictor.calibration.use_counts(COUNTS.tolist())
    (scores,) = predictor.predict_probs((LOGITS, None), [range(len(LOGITS))])
    expected = (LOGITS + logit_shift(COUNTS, "norcal", 1.0)).softmax(dim=1)
    torch.testing.assert_close(scores, expected)
    assert torch.equal(class_probabilities(predictor, LOGITS), scores)  # of an exported model
    with EventStorage():
        own, expected = (losses_and_gradients(each, batch())[0] for each in (model, plain))
    assert own == expected


def test_sigmoids_and_one_stage_models_are_refused():
    with pytest.raises(UserError, match="'sigmoid_focal' are no softmax: each class has"):
        build(calibrated("BALANCE.ROI_LOSS.NAME", "sigmoid_focal"))
    for architecture in ("RetinaNet", "BalancedRetinaNet"):
        with pytest.raises(UserError, match=r"CALIBRATION\.NAME is set, but MODEL\.META_ARCH"):
            check_config(calibrated("MODEL.META_ARCHITECTURE", architecture))
    with pytest.raises(UserError, match=r"set MODEL\.ROI_HEADS\.NAME to 'BalancedROIHeads'"):
        check_config(calibrated("MODEL.ROI_HEADS.NAME", "StandardROIHeads"))


def test_without_a_record_and_a_training_set_the_lack_of_counts_is_said():
    calibration = Calibration.from_config(calibrated("DATASETS.TRAIN", "()"))
    with pytest.raises(UserError, match="no class counts to calibrate with: name the training"):
        calibration(LOGITS)


@pytest.fixture
def arguments(run):
    """The finished run, with its held-out images as validation set."""
    return ["--run", str(run[1]), *SMALL[:2], "DATASETS.VAL", "('shapes_val',)"]


def test_each_exponent_of_the_one_pass_gives_the_ap_of_an_evaluation_with_it(
    run, arguments, tmp_path, capsys
):
    assert main(["calibrate", "--exponents", "0.5,3", "--json", *arguments]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [r["exponent"] for r in said["results"]] == [0, 0.5, 3]
    assert said["results"][0]["difference"] == 0 and said["tail"] == ["bar"]
    out = run[1]
    for result in said["results"]:
        folder = tmp_path / str(result["exponent"])
        overrides = ["MODEL.WEIGHTS", str(out / "model_final.pth"), "OUTPUT_DIR", str(folder)]
        overrides += ["BALANCE.CALIBRATION.NAME", "norcal"]
        overrides += ["BALANCE.CALIBRATION.EXPONENT", str(result["exponent"]), *SMALL[:2]]
        config = str(out / "config.yaml")
        assert main(["train", "--eval-only", "--config-file", config, *overrides]) == 0
        (evaluation,) = json.loads((folder / "evaluation.json").read_text()).values()
        assert result["AP"] == pytest.approx(evaluation["AP"])
        tail = next(c["AP"] for c in evaluation["per_class"] if c["name"] == "bar")
        assert result["tail_AP"] == pytest.approx(tail)


def test_a_gain_that_the_table_does_not_show_chooses_no_exponent():
    results = [ExponentResult(*r, None) for r in ((0, 50, 40, 0), (0.1, 50.04, 40, 0.04))]
    assert best_of(results).exponent == 0
    results.append(ExponentResult(0.2, 50.06, 40, 0.06, (-1, 1)))
    assert best_of(results).exponent == 0.2


def test_exponent_0_and_choices_on_test_images_are_named(arguments, capsys):
    assert main(["calibrate", "--exponents", "0", *arguments]) == 0
    said = capsys.readouterr()
    assert "The best exponent is 0: norcal does not help this model" in said.out
    assert "exponents chosen on test images make the test's results too good" in said.err


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--exponents=-1"], "--exponents has -1, expected numbers >= 0"),
        (["--exponents", "nan"], "--exponents has nan, expected numbers >= 0"),
        (["TEST.AUG.ENABLED", "True"], "TEST.AUG.ENABLED is True, but the exponent is chosen"),
        (["MODEL.META_ARCHITECTURE", "BalancedRetinaNet"], "which has no box head whose logits"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(arguments, extra, message, capsys):
    assert main(["calibrate", *arguments, *extra]) == 2
    assert message in capsys.readouterr().err


def test_a_cascade_is_refused_with_another_way(arguments, capsys):
    stages = ["MODEL.ROI_HEADS.NAME", "BalancedCascadeROIHeads"]
    stages += ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"]
    assert main(["calibrate", *arguments, *stages]) == 2
    assert "whose stages each have scores" in capsys.readouterr().err
