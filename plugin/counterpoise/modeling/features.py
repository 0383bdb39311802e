"""The feature maps that a config names, where its backbone does not have them.

Detectron2 answers with a KeyError or an assertion while it builds the model.
"""

import contextlib
from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.modeling import Backbone, build_backbone

from counterpoise.errors import UserError, did_you_mean
from counterpoise.modeling.architectures import feature_sections


@contextlib.contextmanager
def feature_errors_explained(cfg: CfgNode) -> Iterator[None]:
    """Say which key names wrong features, where the building of a model ends over them.

    Args:
        cfg: that the model is built from.

    Raises:
        UserError: a key names features that are not there, or that make no pyramid.
    """
    try:
        yield
    except (AssertionError, KeyError) as error:
        backbone = backbone_with_features(cfg)
        _check_pyramid(cfg, backbone, error)
        raise


def backbone_with_features(cfg: CfgNode) -> Backbone:
    """Detectron2's backbone of a config, without weights, where it has what the heads read.

    Args:
        cfg: of :func:`counterpoise.config.loading.load_config`.

    Raises:
        UserError: the backbone cannot be built, or lacks features that the heads name.
    """
    try:
        backbone = build_backbone(cfg)
    except (AssertionError, KeyError) as error:
        raise UserError(
            f"{cfg.MODEL.BACKBONE.NAME} cannot be built of MODEL.RESNETS.OUT_FEATURES "
            f"{cfg.MODEL.RESNETS.OUT_FEATURES} and MODEL.FPN.IN_FEATURES "
            f"{cfg.MODEL.FPN.IN_FEATURES} ({error}): name features of the backbone, such as "
            "'res2' to 'res5', and for the pyramid those of OUT_FEATURES whose strides double"
        ) from error
    shapes = backbone.output_shape()
    for section in feature_sections(cfg):
        for name in cfg.MODEL[section].IN_FEATURES:
            if name not in shapes:
                raise UserError(
                    f"MODEL.{section}.IN_FEATURES names '{name}', which the backbone "
                    f"{cfg.MODEL.BACKBONE.NAME} does not have; {did_you_mean(name, shapes)}"
                )
    return backbone


def _check_pyramid(cfg: CfgNode, backbone: Backbone, error: Exception) -> None:
    """Refuse features that boxes cannot be pooled from."""
    if "ROI_HEADS" not in feature_sections(cfg):
        return
    shapes, features = backbone.output_shape(), cfg.MODEL.ROI_HEADS.IN_FEATURES
    strides = [shapes[name].stride for name in features]
    if not strides or strides != [strides[0] * 2**level for level in range(len(strides))]:
        known = ", ".join(f"{name} (stride {shape.stride})" for name, shape in shapes.items())
        raise UserError(
            f"MODEL.ROI_HEADS.IN_FEATURES is {features}, expected features whose strides double, "
            f"out of {known}"
        ) from error
