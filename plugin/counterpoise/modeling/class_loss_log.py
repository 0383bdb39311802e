"""Sums of the classification loss by target class, while a model trains."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class PerClassLoss(nn.Module):
    """Sums losses by target class on their own device, without waiting for it.

    It holds no parameter and no persistent buffer, so a model with it keeps its ``state_dict``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sums", None, persistent=False)

    @torch.no_grad()
    def add(self, gt_classes: Tensor, losses: Tensor, num_classes: int) -> None:
        """Add the losses of some samples.

        Args:
            gt_classes: (R,), integer, in [0, K], K the background, or -1 to ignore.
            losses: (R,), floating point, 0 where `gt_classes` is -1.
            num_classes: K.
        """
        # One that is not finite would take those of the other steps along.
        losses = losses.detach().float().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        if self.sums is None:
            self.sums = losses.new_zeros(num_classes + 1)
        self.sums = self.sums.to(losses.device)
        background = gt_classes == num_classes
        # Small losses of very many background anchors would vanish in one growing float32.
        foreground_losses = losses.masked_fill(background, 0.0)
        self.sums.index_add_(0, gt_classes.clamp(min=0), foreground_losses)
        self.sums[-1] += losses.masked_fill(~background, 0.0).sum()

    def take(self) -> Tensor | None:
        """Return the sums (K + 1,), background last, and clear them; None where none was added."""
        sums, self.sums = self.sums, None
        return sums

    def training_state(self) -> dict[str, Any]:
        """``sums`` (K + 1,) float32 so far, or None; a resumed run goes on with them."""
        return {"sums": None if self.sums is None else self.sums.cpu()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Go on with sums; they move to the device of the next losses."""
        self.sums = state["sums"]
