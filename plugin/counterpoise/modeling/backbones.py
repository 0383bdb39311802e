"""Any torchvision classifier as a Detectron2 backbone, plain or under a feature pyramid.

Feature maps are named ``res2`` to ``res5`` by the base-two logarithm of their stride, as in
Detectron2's ResNet, so that its own FPN and RetinaNet configs keep their ``IN_FEATURES``. Parameter
names are torchvision's own after the prefix ``body.``: besides ``counterpoise://`` weights
(:mod:`counterpoise.modeling.pretrained`), ``MODEL.WEIGHTS: file.pth?matching_heuristics=True``
loads any torchvision checkpoint. Such weights expect RGB images scaled with ImageNet's mean and
deviation:
``INPUT.FORMAT: RGB``, ``MODEL.PIXEL_MEAN: [123.675, 116.28, 103.53]`` and
``MODEL.PIXEL_STD: [58.395, 57.12, 57.375]``.
"""

import difflib
from collections.abc import Iterable, Sequence

import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from counterpoise.errors import UserError, did_you_mean
from counterpoise.modeling.architectures import feature_sections

# Families whose customary taps are not the ones that `find_taps` would choose: it takes the last
# map of each stride, which here is the classifier's widened convolution or its final norm.
KNOWN_TAPS = {
    "mobilenet_v2": ("features.3", "features.6", "features.13", "features.17"),
    "swin": ("features.1", "features.3", "features.5", "features.7"),
}
TAP_STRIDES = (4, 8, 16, 32)

# Sides of the image that measures strides. Both are multiples of 32, and their ratio is no power of
# two, so that (N, C, H, W) and (N, H, W, C) maps cannot be mistaken for each other.
PROBE_SIZE = (96, 160)


class TorchvisionBackbone(Backbone):
    """The trunk of a torchvision classifier, giving one feature map per tap.

    Batch norms are frozen: detection batches are too small for their statistics. Weights start
    random; load them with a checkpointer. The network is cut after the last tap.

    Attributes:
        taps: the graph node behind each feature map, by increasing stride.
    """

    def __init__(
        self,
        name: str,
        features: Sequence[str] = (),
        freeze_at: int = 0,
        read: Sequence[str] = (),
    ) -> None:
        """Build and cut the network, and measure its feature maps with one forward pass on the CPU.

        Args:
            name: a torchvision classification model, such as ``"mobilenet_v2"``.
            features: graph nodes or modules to tap, by increasing stride; empty takes the known
                taps of the family, or else the last module's output at strides 4, 8, 16 and 32.
            freeze_at: 0 trains everything, n freezes every parameter that the n-th tap depends on.
            read: names of the feature maps that are read, such as ``res4``; what only the others
                need is frozen, for it never has a gradient. Empty means all.

        Raises:
            UserError: unknown model or node, a model without feature maps at strides 4 to 32 or
                for one image size only, a tap that is no feature map, strides that do not increase,
                or ``freeze_at`` beyond the taps.
        """
        super().__init__()
        model = _build_classifier(name).eval()
        self.taps = tuple(map(str, features)) or _known_taps(name) or find_taps(model, name)
        if not 0 <= freeze_at <= len(self.taps):
            raise UserError(
                f"MODEL.TORCHVISION.FREEZE_AT is {freeze_at}, but {name} is tapped "
                f"{len(self.taps)} times: set 0 (freeze nothing) to {len(self.taps)} (everything)"
            )
        self.body = _cut(model, name, self.taps)
        FrozenBatchNorm2d.convert_frozen_batchnorm(self.body)

        maps = _probe(self.body, name)
        layouts = [_feature_map_layout(name, tap, maps[tap]) for tap in self.taps]
        strides = [stride for stride, _ in layouts]
        if sorted(set(strides)) != strides:
            listed = ", ".join(f"{t} ({s})" for t, s in zip(self.taps, strides, strict=True))
            raise UserError(
                f"MODEL.TORCHVISION.FEATURES of {name} must name one node per stride, by "
                f"increasing stride, but they are: {listed}"
            )
        self._out_features = [f"res{stride.bit_length() - 1}" for stride in strides]
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        self._out_feature_channels = {
            feature: maps[tap].shape[channel_dim]
            for feature, tap, (_, channel_dim) in zip(
                self._out_features, self.taps, layouts, strict=True
            )
        }
        self._channels_last = {
            t for t, (_, dim) in zip(self.taps, layouts, strict=True) if dim == 3
        }
        behind = [maps[self.taps[freeze_at - 1]]] if freeze_at else []
        tapped = zip(self._out_features, self.taps, strict=True)
        kept = [maps[tap] for feature, tap in tapped if feature in read]
        _freeze(self.body, behind, kept or list(maps.values()))
        self.train()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the feature maps of a batch of normalised images.

        Args:
            x: (N, 3, H, W) float, H and W multiples of ``size_divisibility``.

        Returns:
            Feature name to (N, C, H / stride, W / stride), by increasing stride.
        """
        maps = self.body(x)
        return {
            name: maps[tap].permute(0, 3, 1, 2) if tap in self._channels_last else maps[tap]
            for name, tap in zip(self._out_features, self.taps, strict=True)
        }

    @property
    def size_divisibility(self) -> int:
        """The largest stride: other image sides would make the maps' true strides differ."""
        return max(self._out_feature_strides.values())


def find_taps(model: nn.Module, name: str) -> tuple[str, ...]:
    """Find the modules of a classifier that end its stages.

    A stage is a module that crosses at most one change of stride while its parent crosses more
    (``layer2`` of a ResNet, ``features.3`` of an EfficientNet); the last stage that ends at each
    stride is tapped. This keeps taps at block outputs, not amid the block that downsamples next.

    Args:
        model: the classifier in evaluation mode.
        name: its torchvision name, for the error message.

    Returns:
        Module names whose outputs have strides 4, 8, 16 and 32.

    Raises:
        UserError: a stride is missing, as in plain vision transformers.
    """
    ends: list[tuple[str, int]] = []  # (module, stride of its output) in order of execution

    def record(module_name: str, output: object) -> None:
        layout = _layout(output)
        if layout and layout[0] in TAP_STRIDES:
            ends.append((module_name, layout[0]))

    hooks = [
        module.register_forward_hook(lambda _m, _in, out, n=module_name: record(n, out))
        for module_name, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            _probe(model, name)
    finally:
        for hook in hooks:
            hook.remove()

    def crosses_several_strides(prefix: str) -> bool:
        return len({s for n, s in ends if not prefix or f"{n}.".startswith(f"{prefix}.")}) > 2

    taps = {}
    for module_name, stride in ends:
        parent = module_name.rpartition(".")[0]
        if crosses_several_strides(parent) and not crosses_several_strides(module_name):
            taps[stride] = module_name
    if missing := [stride for stride in TAP_STRIDES if stride not in taps]:
        raise UserError(
            f"MODEL.TORCHVISION.NAME '{name}' cannot be a detection backbone: it has no stage that "
            f"ends at exactly stride {', '.join(map(str, missing))}: take a network with a pyramid "
            "of resolutions such as mobilenet_v2, resnet50 or swin_t"
        )
    return tuple(taps[stride] for stride in TAP_STRIDES)


@BACKBONE_REGISTRY.register()
def build_torchvision_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TorchvisionBackbone:
    """Build the network that ``cfg.MODEL.TORCHVISION`` names.

    Args:
        cfg: a Detectron2 config with ``MODEL.TORCHVISION.{NAME, FEATURES, FREEZE_AT}``.
        input_shape: shape of the images; 3 channels.

    Raises:
        UserError: see :class:`TorchvisionBackbone`; or images without 3 channels.
    """
    if input_shape.channels != 3:
        raise UserError(
            f"MODEL.PIXEL_MEAN has {input_shape.channels} values, but torchvision networks take "
            "images of 3 channels: give 3 values"
        )
    keys, read = cfg.MODEL.TORCHVISION, set(cfg.MODEL.FPN.IN_FEATURES)
    if "fpn" not in cfg.MODEL.BACKBONE.NAME:
        read = {name for part in feature_sections(cfg) for name in cfg.MODEL[part].IN_FEATURES}
    return TorchvisionBackbone(keys.NAME, keys.FEATURES, keys.FREEZE_AT, sorted(read))


@BACKBONE_REGISTRY.register()
def build_torchvision_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build the network under a feature pyramid with a max-pooled top level, for Faster R-CNN.

    Args:
        cfg: as for :func:`build_torchvision_backbone`, with ``MODEL.FPN``.
        input_shape: shape of the images; 3 channels.

    Returns:
        A pyramid that gives ``p2`` to ``p6`` for ``MODEL.FPN.IN_FEATURES`` ``res2`` to ``res5``.

    Raises:
        UserError: see :func:`build_torchvision_backbone`; or ``MODEL.FPN.IN_FEATURES`` that the
            network does not give, or whose strides do not double.
    """
    bottom_up = _build_bottom_up(cfg, input_shape)
    top_block = LastLevelMaxPool()
    top_block.in_feature = cfg.MODEL.FPN.IN_FEATURES[-1].replace("res", "p")  # "p5" by default
    return _build_fpn(cfg, bottom_up, top_block)


@BACKBONE_REGISTRY.register()
def build_torchvision_retinanet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build the network under a feature pyramid with two convolved top levels, for RetinaNet.

    Args:
        cfg: as for :func:`build_torchvision_backbone`, with ``MODEL.FPN``.
        input_shape: shape of the images; 3 channels.

    Returns:
        A pyramid that gives ``p3`` to ``p7`` for ``MODEL.FPN.IN_FEATURES`` ``res3`` to ``res5``.

    Raises:
        UserError: as :func:`build_torchvision_fpn_backbone`.
    """
    bottom_up = _build_bottom_up(cfg, input_shape)
    last = cfg.MODEL.FPN.IN_FEATURES[-1]
    channels = bottom_up.output_shape()[last].channels
    return _build_fpn(cfg, bottom_up, LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS, last))


def _build_bottom_up(cfg: CfgNode, input_shape: ShapeSpec) -> TorchvisionBackbone:
    bottom_up = build_torchvision_backbone(cfg, input_shape)
    shapes = bottom_up.output_shape()
    wanted = list(cfg.MODEL.FPN.IN_FEATURES)
    strides = [shapes[feature].stride for feature in wanted if feature in shapes]
    if not strides or strides != [strides[0] * 2**level for level in range(len(wanted))]:
        given = ", ".join(f"{feature} (stride {shape.stride})" for feature, shape in shapes.items())
        raise UserError(
            f"MODEL.FPN.IN_FEATURES is {wanted}, but it must list features of "
            f"{cfg.MODEL.TORCHVISION.NAME} whose strides double, out of: {given}"
        )
    return bottom_up


def _build_fpn(cfg: CfgNode, bottom_up: TorchvisionBackbone, top_block: nn.Module) -> FPN:
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _build_classifier(name: str) -> nn.Module:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UserError(f"unknown MODEL.TORCHVISION.NAME '{name}': {did_you_mean(name, known)}")
    return torchvision.models.get_model(name, weights=None)


def _known_taps(name: str) -> tuple[str, ...]:
    return next((taps for family, taps in KNOWN_TAPS.items() if name.startswith(family)), ())


def _cut(model: nn.Module, name: str, taps: Sequence[str]) -> nn.Module:
    train_nodes, eval_nodes = get_graph_node_names(model, suppress_diff_warning=True)
    nodes = _with_parents(train_nodes) & _with_parents(eval_nodes)
    for tap in taps:
        if tap not in nodes:
            near = difflib.get_close_matches(tap, sorted(nodes), n=4, cutoff=0.0)
            raise UserError(
                f"MODEL.TORCHVISION.FEATURES names '{tap}', which {name} does not have; "
                f"its nearest nodes are: {', '.join(near)}"
            )
    return create_feature_extractor(model, list(taps), suppress_diff_warning=True)


def _with_parents(nodes: Iterable[str]) -> set[str]:
    """Graph nodes and all modules around them, both of which may be tapped."""
    parts = [node.split(".") for node in nodes]
    return {".".join(p[:depth]) for p in parts for depth in range(1, len(p) + 1)}


def _probe(module: nn.Module, name: str) -> dict[str, Tensor]:
    try:
        return module(torch.zeros(1, 3, *PROBE_SIZE, device="cpu"))
    except Exception as error:
        raise UserError(
            f"MODEL.TORCHVISION.NAME '{name}' cannot be a detection backbone, because it does not "
            f"take images of any size: {error}"
        ) from error


def _layout(output: object) -> tuple[int, int] | None:
    """Stride and channel dimension (1 or 3) of a probe's feature map; None for other outputs."""
    if not isinstance(output, Tensor) or output.dim() != 4:
        return None
    for channel_dim, (height, width) in ((1, output.shape[2:]), (3, output.shape[1:3])):
        stride = PROBE_SIZE[0] // height
        is_power_of_two = stride & (stride - 1) == 0
        if is_power_of_two and (height * stride, width * stride) == PROBE_SIZE:
            return stride, channel_dim
    return None


def _feature_map_layout(name: str, tap: str, output: object) -> tuple[int, int]:
    layout = _layout(output)
    if layout is None:
        found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else "no tensor"
        raise UserError(
            f"MODEL.TORCHVISION.FEATURES names '{tap}' of {name}, which is not a feature map whose "
            f"stride is a power of two: an image of {PROBE_SIZE} pixels gave {found}"
        )
    return layout


def _freeze(module: nn.Module, behind: Sequence[Tensor], read: Sequence[Tensor]) -> None:
    """Freeze the parameters that feature maps `behind` depend on, or none of `read` does."""
    parameters = list(module.parameters())
    frozen, used = _needed(parameters, behind), _needed(parameters, read)
    for parameter, is_frozen, is_used in zip(parameters, frozen, used, strict=True):
        parameter.requires_grad_(is_used and not is_frozen)


def _needed(parameters: Sequence[Tensor], maps: Sequence[Tensor]) -> list[bool]:
    """Which parameters some feature maps, computed with them, depend on."""
    if not maps:
        return [False] * len(parameters)
    total = sum(each.sum() for each in maps)
    gradients = torch.autograd.grad(total, parameters, allow_unused=True, retain_graph=True)
    return [gradient is not None for gradient in gradients]
