"""Classification losses for class-imbalanced data. Pure torch.

Shapes: N samples, C classes. For a box head C = K + 1, foreground classes are 0..K-1 and the
background is K, Detectron2's order.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

REDUCTIONS = ("none", "sum", "mean", "weight_sum")


def check_gamma(gamma: float) -> None:
    """Refuse a focusing parameter for which there is no focal loss.

    Raises:
        ValueError: it is negative or not finite.
    """
    if not (gamma >= 0 and math.isfinite(gamma)):
        raise ValueError(f"gamma must be finite and >= 0, got {gamma}")


def softmax_focal_loss(
    logits: Tensor,
    targets: Tensor,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    ignore_index: int = -1,
    reduction: str = "weight_sum",
    check_values: bool | None = None,
) -> Tensor:
    r"""Multi-class focal loss, ``-w_t (1 - p_t)^gamma log(p_t)`` with ``p = softmax(logits)``.

    The focal loss of Lin et al., "Focal Loss for Dense Object Detection" (arXiv:1708.02002,
    equation 5), with softmax in place of sigmoid and one weight per class in place of alpha.
    ``p_t`` is the unweighted probability of the target: the weight scales the loss and never the
    focusing factor.

    It is computed from the margin ``m = z_t - logsumexp_{j != t} z_j``, for which
    ``p_t = sigmoid(m)``: neither ``log(p_t)`` nor ``1 - p_t`` is taken from a rounded p_t. So the
    loss and its gradient are right where a softmax has rounded to 0 or 1: linear in the margin for
    ``p_t -> 0``, vanishing without NaN for ``p_t -> 1`` at any gamma, 0 < gamma < 1 included. (A
    kernel that takes ``log(max(p_t, FLT_MIN))`` and ``1 - p_t`` of a softmax, as mmcv's does,
    stops at a loss of 87.3, and has no gradient, or NaN for gamma < 1, once p_t rounds to 1.)

    Float64 logits, and a `weight` that requires a gradient, take :func:`softmax_focal_reference`,
    which can be differentiated twice. All else takes :func:`softmax_focal_with_p_t`, which is
    several times faster and refuses a second derivative.

    Args:
        logits: (N, C) or (N, C, d1, ...), C >= 2, any float dtype. Half precision is computed in
            float32, also under autocast.
        targets: (N) or (N, d1, ...), integer class indices in [0, C) or `ignore_index`.
        gamma: focusing parameter >= 0; 0 gives cross-entropy.
        weight: (C), one non-negative factor per class; None means 1.
        ignore_index: targets of this value add nothing to the loss and to its divisor.
        reduction: ``none`` (the shape of `targets`, 0 where ignored), ``sum``, ``mean`` (divided by
            the number of samples that are not ignored) or ``weight_sum`` (divided by the sum of
            their class weights, as :func:`torch.nn.functional.cross_entropy` does; equal to
            ``mean`` without weights). A batch with nothing to learn from gives a zero that keeps
            the graph.
        check_values: whether to look into `targets` and `weight`, for which the host waits for a
            GPU; None looks where they are on the CPU and nothing is compiled. Shapes and dtypes are
            always checked.

    Returns:
        float32, or float64 for float64 logits; a scalar unless `reduction` is ``none``.

    Raises:
        ValueError: a shape, class index, gamma, weight or reduction that is not as described.
    """
    check_gamma(gamma)
    _check_inputs(logits, targets, weight, reduction)
    if _looks_into(logits, check_values):
        _check_values(targets, weight, ignore_index, logits.shape[1])
    ignored = targets == ignore_index
    class_ids = targets.long().masked_fill(ignored, 0)
    if logits.dtype == torch.float64 or (weight is not None and weight.requires_grad):
        loss = softmax_focal_reference(logits, class_ids, gamma)
        return reduce_loss(loss, class_ids, ignored, weight, reduction)
    factors = _factors(class_ids, ignored, weight, reduction, torch.float32)
    loss, _ = softmax_focal_with_p_t(logits, class_ids, gamma, factors)
    return loss if reduction == "none" else loss.sum()


def softmax_focal_reference(logits: Tensor, class_ids: Tensor, gamma: float) -> Tensor:
    """The formula of :func:`softmax_focal_loss` as it is written, left to autograd.

    Args:
        logits: (N, C) or (N, C, d1, ...), C >= 2, any float dtype.
        class_ids: (N) or (N, d1, ...), int64, in [0, C).
        gamma: focusing parameter >= 0.

    Returns:
        unweighted losses of the shape of `class_ids`, float32, or float64 for float64 logits.
    """
    # Autocast would run logsumexp and logsigmoid in bfloat16 on the CPU.
    with torch.autocast(logits.device.type, enabled=False):
        logits = at_least_float32(logits)
        # Shift by the row's maximum: it cancels in the margin and keeps its digits at large logits.
        logits = logits - logits.detach().amax(dim=1, keepdim=True)
        index = class_ids.unsqueeze(1)
        others = logits.scatter(1, index, float("-inf"))
        margin = logits.gather(1, index).squeeze(1) - others.logsumexp(dim=1)
        return _focal(F.logsigmoid(margin), F.logsigmoid(-margin), gamma)


def softmax_focal_with_p_t(
    logits: Tensor, class_ids: Tensor, gamma: float, factors: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute :func:`softmax_focal_reference` several times faster, and p_t with it.

    With ``q = 1 - p_t``, ``A = q^gamma (q - gamma p_t log(p_t))`` and ``r`` the softmax of all
    logits but the target's, the gradient is ``A r_j`` for ``j != t`` and ``-A`` for the target. The
    backward pass is thus one product of an (N, C) tensor, all that is kept, and a number per row.

    Args:
        logits, class_ids, gamma: see :func:`softmax_focal_reference`.
        factors: the shape of `class_ids`, float32, or float64 for float64 logits, without gradient:
            factor of each loss; None means 1. A factor of 0 makes the loss 0 whatever its logits;
            the gradient of logits that are not finite stays NaN, as torch's own is.

    Returns:
        - losses times factors, of the shape and dtype of the reference's
        - p_t, the same shape and dtype, without gradient

    Raises:
        RuntimeError: the gradient is taken with ``create_graph=True``; take the reference's.
    """
    return _SoftmaxFocal.apply(logits, class_ids, gamma, factors)


class _SoftmaxFocal(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, logits: Tensor, class_ids: Tensor, gamma: float, factors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.logits_dtype = logits.dtype
        logits = at_least_float32(logits)
        index = class_ids.unsqueeze(1)
        largest = logits.amax(dim=1, keepdim=True)
        log_odds = logits.gather(1, index).sub_(largest)
        others = (logits - largest).exp_()
        # Tiny in place of 0: the sum of the others may underflow, and is divided by.
        tiny = torch.finfo(logits.dtype).tiny
        others.scatter_(1, index, torch.full_like(log_odds, tiny))
        total = others.sum(dim=1, keepdim=True)
        margin = log_odds.sub_(total.log())
        p, q = torch.sigmoid(margin), torch.sigmoid(-margin)
        # Beyond its threshold softplus(x) is x: by default 20, where float64 tells them apart.
        cross_entropy = F.softplus(-margin, threshold=40)
        focus = q**gamma
        loss = focus * cross_entropy
        slope = torch.addcmul(q, p, cross_entropy, value=gamma).mul_(focus)
        if factors is not None:
            factors = factors.unsqueeze(1)
            loss.mul_(factors).masked_fill_(factors == 0, 0.0)
            slope.mul_(factors)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(others.scatter_(1, index, -total), slope.div_(total))
        p_t = p.squeeze(1)
        ctx.mark_non_differentiable(p_t)
        return loss.squeeze(1), p_t

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        # once_differentiable would say nothing where `grad` itself needs no gradient.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "the softmax focal loss of these logits cannot be differentiated twice "
                "(create_graph=True): pass logits.double() or call softmax_focal_reference"
            )
        softmax, slope = ctx.saved_tensors
        return (softmax * (slope * grad.unsqueeze(1))).to(ctx.logits_dtype), None, None, None


def sigmoid_focal_loss(
    logits: Tensor,
    targets: Tensor,
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    check_values: bool | None = None,
) -> Tensor:
    r"""Binary or multi-label focal loss, ``-alpha_t (1 - p_t)^gamma log(p_t)`` per logit.

    Equation 5 of arXiv:1708.02002, computed from the margin as :func:`softmax_focal_loss` is: equal
    to torchvision's and finite where that gives NaN gradients (gamma < 1).

    Args:
        logits: any shape, any float dtype. Half precision is computed in float32.
        targets: the shape of `logits`, 0 or 1, of any dtype; for several labels the last dimension
            is the class.
        alpha: weight of the positives in [0, 1], 1 - alpha being that of the negatives; a number,
            of which a negative one is off, or (C,) with one per class of the last dimension.
        gamma: focusing parameter >= 0; 0 gives (alpha-balanced) binary cross-entropy.
        weight: broadcastable to `logits`, a further factor; None means 1.
        reduction: ``none``, ``sum`` or ``mean`` (over all elements, 0 for none at all).
        check_values: whether to look into an alpha that is a tensor, see
            :func:`softmax_focal_loss`.

    Returns:
        float32, or float64 for float64 logits; a scalar unless `reduction` is ``none``.

    Raises:
        ValueError: a shape, alpha, gamma or reduction that is not as described.
    """
    check_gamma(gamma)
    if targets.shape != logits.shape:
        raise ValueError(
            f"targets must have the shape of logits, {tuple(logits.shape)}, "
            f"got {tuple(targets.shape)}"
        )
    if reduction not in ("none", "sum", "mean"):
        raise ValueError(f"reduction must be 'none', 'sum' or 'mean', got {reduction!r}")
    is_tensor = isinstance(alpha, Tensor)
    if is_tensor and alpha.dim() and tuple(alpha.shape) != tuple(logits.shape[-1:]):
        raise ValueError(f"alpha must be a number or (C,), got shape {tuple(alpha.shape)}")
    if is_tensor and _looks_into(logits, check_values):
        if not ((alpha >= 0) & (alpha <= 1)).all():
            raise ValueError(f"alpha must lie in [0, 1], got {alpha.tolist()}")
    elif not is_tensor and not alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1] or be negative, got {alpha}")
    with torch.autocast(logits.device.type, enabled=False):
        logits = at_least_float32(logits)
        targets = targets.to(logits)
        margin = (2 * targets - 1) * logits
        loss = _focal(F.logsigmoid(margin), F.logsigmoid(-margin), gamma)
        if is_tensor or alpha >= 0:
            alpha = alpha.to(logits) if is_tensor else alpha
            loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
        if weight is not None:
            loss = loss * weight.to(logits)
        if reduction == "none":
            return loss
        return loss.sum() if reduction == "sum" else loss.sum() / max(loss.numel(), 1)


def cross_entropy_loss(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -1,
    reduction: str = "weight_sum",
    check_values: bool | None = None,
) -> Tensor:
    """Cross-entropy with the arguments, reductions and guarantees of :func:`softmax_focal_loss`.

    With class weights it is the alpha-balanced cross-entropy of arXiv:1708.02002, equation 3,
    for any number of classes.
    """
    return softmax_focal_loss(logits, targets, 0.0, weight, ignore_index, reduction, check_values)


def reduce_loss(
    loss: Tensor,
    class_ids: Tensor,
    ignored: Tensor,
    weight: Tensor | None,
    reduction: str,
) -> Tensor:
    """Weight per-sample losses by class and reduce them.

    Args:
        loss: unweighted loss per sample, any shape.
        class_ids: valid class index per sample (any where ignored), the shape of `loss`.
        ignored: bool, the shape of `loss`; True takes the sample out of sum and divisor.
        weight: (C) or None.
        reduction: one of :data:`REDUCTIONS`.

    Returns:
        the shape of `loss` for ``none``, else a scalar.
    """
    # masked_fill, not a product alone: an ignored sample may hold inf, and inf * 0 is NaN.
    loss = loss.masked_fill(ignored, 0.0)
    loss = loss * _factors(class_ids, ignored, weight, reduction, loss.dtype)
    return loss if reduction == "none" else loss.sum()


def _factors(
    class_ids: Tensor, ignored: Tensor, weight: Tensor | None, reduction: str, dtype: torch.dtype
) -> Tensor:
    """Weight over divisor of every sample, 0 where it is ignored; the losses are then summed."""
    if weight is None:
        factors = (~ignored).to(dtype)
    else:
        factors = weight.to(class_ids.device, dtype)[class_ids].masked_fill(ignored, 0.0)
    if reduction == "mean":
        return factors / (~ignored).sum().clamp(min=1)
    if reduction == "weight_sum":
        return factors / factors.sum().clamp(min=torch.finfo(dtype).tiny)
    return factors


def _focal(log_p: Tensor, log_q: Tensor, gamma: float) -> Tensor:
    return -log_p if gamma == 0 else -torch.exp(gamma * log_q) * log_p


def at_least_float32(logits: Tensor) -> Tensor:
    """Return half precision as float32, and other dtypes as they are."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _looks_into(logits: Tensor, check_values: bool | None) -> bool:
    if check_values is None:
        return logits.device.type == "cpu" and not torch.compiler.is_compiling()
    return check_values


def _check_inputs(logits: Tensor, targets: Tensor, weight: Tensor | None, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")
    if logits.dim() < 2 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise ValueError(
            "logits must be floating point of shape (N, C, ...) with C >= 2, "
            f"got {logits.dtype} of shape {tuple(logits.shape)}"
        )
    num_classes = logits.shape[1]
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(targets.shape) != expected or targets.is_floating_point():
        raise ValueError(
            f"targets must be integers of shape {expected}, "
            f"got {targets.dtype} of shape {tuple(targets.shape)}"
        )
    if weight is not None and tuple(weight.shape) != (num_classes,):
        raise ValueError(f"weight must have shape ({num_classes},), got {tuple(weight.shape)}")


def _check_values(
    targets: Tensor, weight: Tensor | None, ignore_index: int, num_classes: int
) -> None:
    if not _all_between(targets, 0, num_classes - 1):
        valid = (targets == ignore_index) | ((targets >= 0) & (targets < num_classes))
        if not valid.all():
            raise ValueError(
                f"targets must lie in [0, {num_classes}) or be {ignore_index}, "
                f"got {targets[~valid][0].item()}"
            )
    if weight is not None and not _all_between(weight.float(), 0, torch.finfo(torch.float32).max):
        raise ValueError(f"weight must be finite and >= 0, got {weight.tolist()}")


def _all_between(values: Tensor, low: float, high: float) -> bool:
    """Whether all lie in [low, high]; NaN does not."""
    if values.numel() == 0:
        return True
    smallest, largest = values.detach().aminmax()
    return smallest.item() >= low and largest.item() <= high
