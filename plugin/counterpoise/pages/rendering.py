"""Jinja templates with everything escaped that comes from the user."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import counterpoise

DASH = "\N{EN DASH}"


def number(value: float | None, digits: int = 1) -> str:
    """Format a number for a table cell; a dash where there is none."""
    return DASH if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """Format a difference with its sign; a dash where there is none."""
    if value is None:
        return DASH
    # Adding 0 turns a rounded -0.0 into 0.0.
    return f"{round(value, digits) + 0:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def interval(value: tuple[float, float] | None, digits: int = 1) -> str:
    """Format a confidence interval; a dash where there is none."""
    return DASH if value is None else f"{value[0]:.{digits}f} to {value[1]:.{digits}f}"


_environment = Environment(
    loader=PackageLoader("counterpoise", "pages/templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {"number": number, "signed": signed, "interval": interval}
_environment.globals["version"] = counterpoise.__version__


def render(template: str, **values: Any) -> str:
    """Render a template of ``pages/templates``.

    Args:
        template: file name, such as ``inspect.html``; it extends ``base.html``.
        values: for the template. Text is escaped, so a class called ``<script>`` is shown as such.

    Returns:
        a page that needs no other file and no network.
    """
    return _environment.get_template(template).render(**values)
