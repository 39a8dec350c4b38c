"""Draws any figure of `experiment.figures` from the tables."""

from collections.abc import Collection, Mapping
from pathlib import Path

import pandas as pd
from matplotlib import figure as drawings

from early_exit.experiment.figures import Figure

# Importing a module registers the kinds of figures that it draws.
from early_exit.report import curves, equal_compute, heads, policies, precision, promises, pruning, speed  # noqa: F401
from early_exit.report.style import DRAWING, save


def draw(figure: Figure, tables: Mapping[str, pd.DataFrame], paper_policies: Collection[str] = ()) -> drawings.Figure:
    """The figure, drawn; `tables` holds at least those that it is drawn from, by name.

    InputError if they have nothing to draw.
    """
    rows = [tables[name] for name in figure.tables]
    if figure.paper_only:
        rows = [table[table["policy"].isin(paper_policies)] for table in rows]
    return DRAWING[figure.kind](*rows, *filter(None, (figure.key, figure.promise)))


def draw_files(
    figure: Figure,
    tables: Mapping[str, pd.DataFrame],
    paper_policies: Collection[str],
    svg: str | Path,
    png: str | Path,
) -> None:
    """Draw the figure and write it as SVG and PNG; any process can do this."""
    save(draw(figure, tables, paper_policies), svg, png)
