"""Self-contained HTML pages: one template, one stylesheet, figures as data URIs."""

from counterpoise.pages.figures import figure, figure_uri, image_uri, palette
from counterpoise.pages.rendering import render
from counterpoise.pages.sections import Fold, Gallery, Items, Picture, Section, Text

__all__ = [
    "Fold",
    "Gallery",
    "Items",
    "Picture",
    "Section",
    "Text",
    "figure",
    "figure_uri",
    "image_uri",
    "palette",
    "render",
]
