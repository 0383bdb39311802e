"""What the modules of a model remember from step to step besides their parameters and buffers."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

#: Running mean of the positive anchors in Detectron2's one-stage detectors, a number.
LOSS_NORMALIZER = "loss_normalizer"


def training_state(model: nn.Module) -> dict[str, Any]:
    """Collect what a training has to go on with besides the model's ``state_dict``.

    A module takes part by two methods, ``training_state()`` and ``load_training_state(state)``, for
    sums and counts that do not belong in a checkpoint of weights.

    Args:
        model: not wrapped for several processes.

    Returns:
        name of a module -> its state, of numbers, strings, tensors, lists and dicts.
    """
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "training_state"):
            found[name] = module.training_state()
    return found | loss_normalizers(modules_with_normalizer(model))


def modules_with_normalizer(model: nn.Module) -> dict[str, nn.Module]:
    """Detectron2's one-stage detectors in a model by name, whose running mean is a number."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, LOSS_NORMALIZER, None), (int, float))
        and not hasattr(module, "training_state")
    }


def loss_normalizers(modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """State of modules of :func:`modules_with_normalizer`, a part of :func:`training_state`."""
    return {name: {LOSS_NORMALIZER: getattr(m, LOSS_NORMALIZER)} for name, m in modules.items()}


def load_training_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Give each module back what :func:`training_state` has collected.

    Args:
        model: as there.
        state: as returned there; modules that it does not name, or that are gone, are left alone.
    """
    modules = dict(model.named_modules())
    for name in state.keys() & modules.keys():
        if hasattr(modules[name], "load_training_state"):
            modules[name].load_training_state(state[name])
        else:
            setattr(modules[name], LOSS_NORMALIZER, state[name][LOSS_NORMALIZER])


@contextmanager
def training_state_kept(model: nn.Module) -> Iterator[None]:
    """Let the passes within the block leave no trace in what :func:`training_state` collects."""
    state = copy.deepcopy(training_state(model))  # the sums grow in place
    try:
        yield
    finally:
        load_training_state(model, state)
