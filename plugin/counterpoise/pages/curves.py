"""Pictures of the focal loss: against p_t, and as shares over the samples of a trained model.

They are figures 1 and 4 of arXiv:1708.02002, drawn from this project's own losses.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from counterpoise.balance.losses import sigmoid_focal_loss, softmax_focal_loss
from counterpoise.errors import UserError


def loss_curve(gamma: float, alpha: float = -1.0, points: int = 400) -> tuple[Tensor, ...]:
    """Focal loss of one positive and its gradient, against the probability of the target.

    Args:
        gamma: focusing parameter >= 0.
        alpha: weight of the positive in [0, 1]; negative for none.
        points: number of samples of the curve.

    Returns:
        p_t in (0, 1), the loss, and the absolute gradient of the loss by the logit, each (points,)
        float64.
    """
    margin = torch.linspace(-8, 8, points, dtype=torch.float64, requires_grad=True)
    loss = sigmoid_focal_loss(margin, torch.ones_like(margin), alpha, gamma, reduction="none")
    (gradient,) = torch.autograd.grad(loss.sum(), margin)
    return margin.detach().sigmoid(), loss.detach(), gradient.abs()


def cumulative_share(logits: Tensor, gt_classes: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """How the loss is spread over samples, from the easiest to the hardest.

    Args:
        logits: (N, C).
        gt_classes: (N,), in [0, C).
        gamma: focusing parameter >= 0.

    Returns:
        shares of the samples and of the summed loss, both (N,) ascending to 1.
    """
    losses = softmax_focal_loss(logits, gt_classes, gamma, reduction="none")
    summed = losses.sort().values.cumsum(0)
    samples = torch.arange(1, len(losses) + 1) / max(len(losses), 1)
    return samples, summed / summed[-1:].clamp(min=torch.finfo(summed.dtype).tiny)


def draw_loss_curves(gammas: Sequence[float], alphas: Sequence[float]) -> Figure:
    """Draw loss and gradient against p_t for every gamma, without alpha and with each alpha.

    Args:
        gammas: >= 0.
        alphas: in [0, 1]; possibly none.

    Returns:
        figure with one column per alpha after the one without.
    """
    columns = [-1.0, *alphas]
    size = (4.6 * len(columns), 7.2)
    figure, axes = plt.subplots(2, len(columns), figsize=size, sharex=True, squeeze=False)
    for column, alpha in enumerate(columns):
        for gamma in gammas:
            p_t, loss, gradient = loss_curve(gamma, alpha)
            label = f"gamma {gamma:g}" + (" (cross-entropy)" if gamma == 0 else "")
            axes[0, column].plot(p_t, loss, label=label)
            axes[1, column].plot(p_t, gradient, label=label)
        axes[0, column].set(
            title=f"alpha {alpha:g}" if alpha >= 0 else "without alpha", ylim=(0, 5)
        )
        axes[1, column].set(xlabel="probability of the true class, $p_t$", ylim=(0, 1.45))
        for axis in axes[:, column]:
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("loss")
    axes[1, 0].set_ylabel("|gradient| by the logit")
    axes[0, 0].legend()
    figure.tight_layout()
    return figure


def draw_cumulative_shares(logits: Tensor, gt_classes: Tensor, gammas: Sequence[float]) -> Figure:
    """Draw, for foreground and background samples, which share of them causes which share of loss.

    Args:
        logits: (N, K + 1), background last.
        gt_classes: (N,), in [0, K].
        gammas: >= 0.

    Returns:
        figure with one panel for foreground and one for background.
    """
    background = gt_classes == logits.shape[1] - 1
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.2), sharey=True)
    for axis, name, chosen in zip(
        axes, ("foreground", "background"), (~background, background), strict=True
    ):
        for gamma in gammas:
            samples, shares = cumulative_share(logits[chosen], gt_classes[chosen], gamma)
            axis.plot(samples, shares, label=f"gamma {gamma:g}")
        axis.set(
            title=f"{name}: {int(chosen.sum())} proposals",
            xlabel="share of proposals, easiest first",
            xlim=(0, 1),
            ylim=(0, 1),
        )
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of the classification loss")
    axes[0].legend()
    figure.tight_layout()
    return figure


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG and close it.

    Args:
        figure: to write.
        folder: created where it is missing.
        name: of the files, without suffix.

    Returns:
        the paths written.

    Raises:
        UserError: there can be no such folder, or a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be made a folder ({error.strerror}): choose another"
        ) from error
    paths = [folder / f"{name}.{suffix}" for suffix in ("png", "svg")]
    for path in paths:
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}): make room") from error
    plt.close(figure)
    return paths
