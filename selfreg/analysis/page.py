"""Render self-contained HTML pages: figures are embedded and all text is escaped."""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from selfreg.analysis.plot import image
from selfreg.analysis.theme import DARK, LIGHT, Theme

# Control characters except tab and line feed, and characters that reorder, join or hide others.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)


def render(template: str, **values: Any) -> str:
    """Render a template. Every value is escaped, because generated programs are hostile.

    Args:
      template: File name of the template, in this folder.
      **values: Values for the template.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"words": words, "visible": visible, "csp_hash": csp_hash}
    return environment.get_template(template).render(**values)


def themed(draw: Callable[[Theme], Figure]) -> dict[str, str]:
    """Draw a figure for light and dark pages, each as a data: URL of an SVG image."""
    return {
        name: "data:image/svg+xml;base64," + base64.b64encode(image(draw(theme), "svg")).decode()
        for name, theme in (("light", LIGHT), ("dark", DARK))
    }


def visible(text: str) -> str:
    """Spell out the invisible characters of a text: NUL becomes <U+0000>."""
    return _UNSEEN.sub(lambda found: f"<U+{ord(found[0]):04X}>", text)


def csp_hash(script: str) -> str:
    """Return a script's hash for the content security policy, which blocks all other scripts."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def words(value: Any) -> str:
    """Format JSON data as a readable line: {"a": [1, 2]} becomes "a 1, 2"."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {words(v)}" for name, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(words(v) for v in value) or "none"
    return "none" if value is None else str(value)
