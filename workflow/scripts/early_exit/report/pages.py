"""The HTML pages of a run: Jinja2 templates with one style.

A page has no scripts and loads nothing. All values are escaped, and equal values render to equal bytes.
"""

from numbers import Integral, Real
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined


def short(value: Real) -> str:
    """A count whole, any other number with four significant digits, a dash for NaN."""
    if isinstance(value, Integral):
        return str(value)
    return "-" if pd.isna(value) else f"{value:.4g}"


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters["short"] = short


def render(name: str, **values: Any) -> str:
    """The page `name`, whose template is `templates/NAME.html`, as HTML; an error if the template lacks a value."""
    return TEMPLATES.get_template(f"{name}.html").render(**values)
