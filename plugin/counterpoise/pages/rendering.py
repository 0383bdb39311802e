"""Sections as a page, with everything escaped that comes from the user."""

import re
from collections.abc import Iterable, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

import counterpoise
from counterpoise.pages.sections import Part, Section
from counterpoise.utils.text import typographic


def _inline(text: str) -> Markup:
    """Escape a paragraph, show what stands in backticks as code, and keep numbers with their %."""
    kept = re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", typographic(text))
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(kept))))


_environment = Environment(
    loader=PackageLoader("counterpoise", "pages/templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {
    "inline": _inline,
    "typographic": typographic,
    "type_name": lambda part: type(part).__name__,
}
_environment.globals["version"] = counterpoise.__version__


def render(title: str, lead: Sequence[Part], sections: Iterable[Section]) -> str:
    """Render a page.

    Args:
        title: its heading.
        lead: parts below the heading.
        sections: from top to bottom. Text is escaped, so a class called ``<script>`` is shown so.

    Returns:
        a page that needs no other file and no network.
    """
    shown = [section for section in sections if section.parts]
    return _environment.get_template("page.html").render(title=title, lead=lead, sections=shown)
