"""Imported by a training (``--import``): random numbers of a GPU that is not there.

The images get noise as from a layer that draws on the GPU, so that a run ends with the same weights
only where the generator of each process goes on as well.
"""

from types import SimpleNamespace
from unittest.mock import patch

import torch
from detectron2.modeling.meta_arch import GeneralizedRCNN

from counterpoise.training import random_state

_GENERATOR = torch.Generator()
_CUDA = SimpleNamespace(
    is_available=lambda: True,
    get_rng_state=_GENERATOR.get_state,
    set_rng_state=_GENERATOR.set_state,
)
_preprocess = GeneralizedRCNN.preprocess_image


def _with_noise(self, batched_inputs):
    images = _preprocess(self, batched_inputs)
    if self.training:
        images.tensor += 0.1 * torch.randn(images.tensor.shape, generator=_GENERATOR)
    return images


# To the rest of torch there is no GPU.
patch.object(random_state, "torch", SimpleNamespace(**{**vars(torch), "cuda": _CUDA})).start()
patch.object(torch.cuda, "manual_seed_all", _GENERATOR.manual_seed).start()  # by torch.manual_seed
patch.object(GeneralizedRCNN, "preprocess_image", _with_noise).start()
