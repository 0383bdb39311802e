"""Self-contained HTML pages: one template engine, one stylesheet, figures as data URIs."""

from counterpoise.pages.figures import figure, figure_uri, image_uri, palette
from counterpoise.pages.rendering import render

__all__ = ["figure", "figure_uri", "image_uri", "palette", "render"]
