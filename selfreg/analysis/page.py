"""HTML pages that stand alone: templates beside this file, figures embedded, text escaped."""

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

# Controls but tab and line feed, and what turns, joins or hides the characters around it.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)


def render(template: str, **values: Any) -> str:
    """Fill a template in. Every value is escaped, whatever a generated program holds.

    Args:
      template: Its file name.
      **values: What it shows.
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
    """A figure for light and for dark pages, each as a data: address of an SVG image."""
    return {
        name: "data:image/svg+xml;base64," + base64.b64encode(image(draw(theme), "svg")).decode()
        for name, theme in (("light", LIGHT), ("dark", DARK))
    }


def visible(text: str) -> str:
    """A program's text with the characters that nobody sees spelled out: NUL becomes <U+0000>."""
    return _UNSEEN.sub(lambda found: f"<U+{ord(found[0]):04X}>", text)


def csp_hash(script: str) -> str:
    """A script's source expression for a content security policy: no other script will run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def words(value: Any) -> str:
    """JSON data as a line for a person: {"a": [1, 2]} becomes "a 1, 2"."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {words(v)}" for name, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(words(v) for v in value) or "none"
    return "none" if value is None else str(value)
