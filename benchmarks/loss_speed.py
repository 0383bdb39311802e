"""Measure the softmax focal loss against PyTorch's cross-entropy, forward and backward.

    python benchmarks/loss_speed.py
    python benchmarks/loss_speed.py --clock wall --repetitions 40

One thread, class weights, gamma 2, float32. All sides take their turn in every repetition, so
whatever else the machine does slows all of them down; a ratio is the median over repetitions. The
default clock is the CPU time of this thread, which other processes disturb least. The registered
loss includes what a training step logs of it. Memory is what is kept for the backward pass in units
of the logits, each storage once, the logits themselves not counted.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from torch import Tensor

from counterpoise.balance.losses import (
    reduce_loss,
    softmax_focal_loss,
    softmax_focal_reference,
    softmax_focal_with_p_t,
)
from counterpoise.modeling.focal_losses import SoftmaxFocalROILoss
from counterpoise.modeling.roi_loss import ClassificationLoss
from counterpoise.modeling.weight_sources import FixedWeights
from counterpoise.training.run_record import hardware

SIZES = ((512, 4), (512, 81), (8192, 81), (8192, 1204))
CLOCKS = {"cpu": time.thread_time, "wall": time.perf_counter}


def sides(
    samples: int, classes: int, device: str = "cpu"
) -> tuple[Tensor, dict[str, Callable[[Tensor], Tensor]]]:
    """Random logits (N, C), and every way to a loss of them."""
    logits = (3 * torch.randn(samples, classes, device=device)).requires_grad_()
    targets = torch.randint(classes, (samples,), device=device)
    weight = torch.rand(classes, device=device) + 0.5
    nothing_ignored = torch.zeros(samples, dtype=torch.bool, device=device)
    registered = ClassificationLoss(SoftmaxFocalROILoss(2.0), FixedWeights(lambda: weight))

    def reference(z: Tensor) -> Tensor:
        losses = softmax_focal_reference(z, targets, 2.0)
        return reduce_loss(losses, targets, nothing_ignored, weight, "weight_sum")

    return logits, {
        "F.cross_entropy": lambda z: F.cross_entropy(z, targets, weight=weight),
        "reference form": reference,
        "fast form alone": lambda z: softmax_focal_with_p_t(z, targets, 2.0)[0].sum(),
        "softmax_focal_loss": lambda z: softmax_focal_loss(z, targets, 2.0, weight),
        "registered loss": lambda z: registered(z, targets),
    }


def seconds(
    loss_of: Callable[[Tensor], Tensor], logits: Tensor, calls: int, clock: Callable[[], float]
) -> float:
    """Time of one forward and backward pass."""
    started = clock()
    for _ in range(calls):
        logits.grad = None
        loss_of(logits).backward()
    return (clock() - started) / calls


def kept_bytes(loss_of: Callable[[Tensor], Tensor], logits: Tensor) -> int:
    """Bytes that are kept for the backward pass besides the logits."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        loss = loss_of(logits)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    storages.pop(logits.untyped_storage().data_ptr(), None)
    del loss
    return sum(storages.values())


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=25)
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    with EventStorage():
        for samples, classes in SIZES:
            logits, losses = sides(samples, classes)
            calls = max(1, 1_000_000 // logits.numel())
            times = {name: [] for name in losses}
            for loss_of in losses.values():
                seconds(loss_of, logits, 1, CLOCKS[args.clock])  # warm up
            for _ in range(args.repetitions):
                for name, loss_of in losses.items():
                    times[name].append(seconds(loss_of, logits, calls, CLOCKS[args.clock]))
            base = times["F.cross_entropy"]
            for name, loss_of in losses.items():
                ratios = [ours / theirs for ours, theirs in zip(times[name], base, strict=True)]
                rows.append(
                    [
                        f"{samples:,} x {classes:,}",
                        name,
                        min(times[name]) * 1e6,
                        median(times[name]) * 1e6,
                        f"{min(times[name]) / min(base):.2f}",
                        f"{median(ratios):.2f}",
                        f"{kept_bytes(loss_of, logits) / logits.nbytes:.2f}",
                    ]
                )
    print(f"{args.clock} time of one thread, {args.repetitions} repetitions, {hardware()}\n")
    headers = ["N x C", "loss", "min (us)", "median (us)", "of minima", "median ratio", "kept"]
    print(tabulate(rows, headers, floatfmt=",.0f", disable_numparse=[4, 5, 6]))


if __name__ == "__main__":
    main()
