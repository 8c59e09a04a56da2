"""HTML pages that stand alone: templates beside this file, figures embedded, text escaped."""

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from selfreg.analysis.plot import DARK, LIGHT, Theme, image


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
    environment.filters["words"] = words
    return environment.get_template(template).render(**values)


def themed(draw: Callable[[Theme], Figure]) -> dict[str, str]:
    """A figure for light and for dark pages, each as a data: address of an SVG image."""
    return {
        name: "data:image/svg+xml;base64," + base64.b64encode(image(draw(theme), "svg")).decode()
        for name, theme in (("light", LIGHT), ("dark", DARK))
    }


def words(value: Any) -> str:
    """JSON data as a line for a person: {"a": [1, 2]} becomes "a 1, 2"."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {words(v)}" for name, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(words(v) for v in value) or "none"
    return "none" if value is None else str(value)
