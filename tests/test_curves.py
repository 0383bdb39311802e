"""The curves of the focal loss, and the console command that draws them."""

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from counterpoise.commands.console import main
from counterpoise.pages.curves import cumulative_share, loss_curve
from models import CONFIGS
from runs import SMALL


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_curves_are_the_formulas_of_the_paper(gamma):
    p_t, loss, gradient = loss_curve(gamma, alpha=0.25)
    assert_close(loss, -0.25 * (1 - p_t) ** gamma * p_t.log())
    slope = (1 - p_t) ** gamma * (gamma * p_t * p_t.log() + p_t - 1)
    assert_close(gradient, 0.25 * slope.abs())


def test_cumulative_share_rises_to_one_and_gamma_moves_the_loss_to_hard_samples():
    logits, targets = 3 * torch.randn(500, 4), torch.randint(4, (500,))
    shares = {gamma: cumulative_share(logits, targets, gamma)[1] for gamma in (0.0, 2.0, 5.0)}
    for share in shares.values():
        assert (share.diff() >= 0).all()
        assert share[-1].item() == pytest.approx(1, rel=1e-5)
    assert shares[0.0][400] > shares[2.0][400] > shares[5.0][400]


def test_cumulative_share_of_no_samples_is_empty():
    samples, share = cumulative_share(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 2.0)
    assert len(samples) == len(share) == 0


def test_the_command_draws_png_and_svg(tmp_path, capsys):
    assert main(["curves", "--gammas", "0", "2", "--alphas", "0.25", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "loss.png"),
        str(tmp_path / "loss.svg"),
    ]
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.width > 600
    assert (tmp_path / "loss.svg").read_text().lstrip().startswith("<?xml")


@pytest.mark.parametrize("leaf", ["focal_weights_ohem", "baseline"])
def test_the_command_draws_a_trained_models_shares(run, tmp_path, leaf):
    data, out = run
    files = ["--config-file", str(CONFIGS / "quick" / f"{leaf}.yaml")]
    files += ["--config-file", str(data)]
    weights = ["MODEL.WEIGHTS", str(out / "model_final.pth")]
    drawn = tmp_path / "curves"
    arguments = ["curves", "--out", str(drawn), "--images", "4", *files, *SMALL, *weights]
    assert main([*arguments, "OUTPUT_DIR", str(tmp_path)]) == 0
    assert (drawn / "cumulative_loss.png").stat().st_size > 10_000


def test_a_model_without_a_test_set_is_answered(run, tmp_path, capsys):
    arguments = ["--config-file", str(run[1] / "config.yaml"), "DATASETS.TEST", "()"]
    weights = ["MODEL.WEIGHTS", str(run[1] / "model_final.pth")]
    assert main(["curves", "--out", str(tmp_path), *arguments, *weights]) == 2
    assert "DATASETS.TEST is empty: name a dataset" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--gammas", "-1"], "--gammas has -1"),
        (["--alphas", "1.5"], "--alphas has 1.5"),
        (["--images", "0"], "--images is 0"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, capsys, arguments, said):
    assert main(["curves", "--out", str(tmp_path / "new"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
