"""What all figures share: the style, colours and markers, how they are registered, and how they are saved.

Figures can be read in grey and by the colour-blind: nothing is shown by hue alone. A head has a colour (Okabe-Ito) and
a marker, a state fill a line style and a marker face, an exit a colour that is lighter the deeper it lies. No pyplot is
used, so that no figure leaves a trace in the next.
"""

from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from early_exit.base.errors import InputError
from early_exit.base.files import whole_file

STYLE = {
    "font.size": 8, "axes.titlesize": 8, "figure.titlesize": 8.5, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "legend.frameon": False, "legend.handlelength": 2.8, "legend.columnspacing": 3,
    "lines.linewidth": 1.1, "lines.markersize": 4, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#E6E6E6", "grid.linewidth": 0.5,
    "figure.constrained_layout.use": True, "svg.hashsalt": "early-exit",
}  # fmt: skip
WIDTH = 7.0  # inches, the text width of a two-column paper
# A sixth of the bytes of 200 dpi in all colours: the report's page holds dozens of these.
PNG_DPI, PNG_COLOURS = 120, 64
LOOKS = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))
BASELINE_LOOKS = (("#595959", "X"), ("#8C8C8C", "d"), ("#404040", "p"), ("#737373", "h"), ("#A6A6A6", "<"))
FILL_LINES = {"propagate": "-", "copy": "--", "skip": ":"}
EXIT_LINES = ("-", "--", "-.", ":")
DRAWING: dict[str, Callable[..., Figure]] = {}  # by kind of figure


def draws_figure(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Registers a function as the one that draws the kind of figure of its name, and runs it in the STYLE.

    Its arguments are the tables that its entry in `experiment.figures` names, in that order, then the dataset or
    backbone and the promise, if there is a figure for each. It raises an InputError if there is nothing to draw.
    """
    DRAWING[function.__name__] = mpl.rc_context(STYLE)(function)
    return DRAWING[function.__name__]


@mpl.rc_context(STYLE)
def save(figure: Figure, svg: str | Path, png: str | Path) -> None:
    """Writes the figure as SVG, for print, and as a small PNG, for the screen; equal figures become equal bytes."""
    with whole_file(svg) as path:
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    pixels = BytesIO()
    figure.savefig(pixels, format="png", dpi=PNG_DPI)
    with whole_file(png) as path, Image.open(pixels) as image:
        image = image.convert("RGB").quantize(PNG_COLOURS, dither=Image.Dither.NONE)
        image.save(path, format="png", optimize=True, dpi=(PNG_DPI, PNG_DPI))


def present_rows(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The frame with missing names as empty text, which CSV does not tell apart; InputError if it has no rows."""
    if frame.empty:
        raise InputError(f"{name}: no rows to draw; check that the config runs what the figure shows")
    names = frame.columns.intersection(["head", "state_fill", "adapt"])
    return frame.assign(**{name: frame[name].astype(object).fillna("") for name in names})


def label_rows(panels: Sequence[Axes], rows: Sequence[tuple[str, bool]]) -> None:
    """Labels the rows of a figure from the top down, with (text, whether it is a heading); `panels` share the rows."""
    first = panels[0]
    first.set_yticks(range(len(rows)), [text for text, _ in rows])
    first.set_ylim(len(rows) - 0.4, -0.6)
    for tick, (_, is_heading) in zip(first.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if is_heading else "normal")
    for axes in panels:
        axes.tick_params(axis="y", length=0)


def assign_looks(results: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """(colour, marker) of every head and of every policy without one, the same in all figures of a results table."""
    baselines = set(results.loc[results["head"] == "", "policy"]) - {"full", "pruned"}
    looks = dict(zip(sorted(set(results["head"]) - {""}), cycle(LOOKS), strict=False))
    return looks | dict(zip(["pruned", *sorted(baselines)], cycle(BASELINE_LOOKS), strict=False))


def fill_style(state_fill: str, colour: str) -> dict[str, str]:
    """Line style and marker face of a state fill; the faces of fills that cost nothing are white."""
    face = "white" if state_fill in ("copy", "skip") else colour
    return {"linestyle": FILL_LINES.get(state_fill, "-."), "markerfacecolor": face}


def exit_colours(blocks: Iterable[int]) -> dict[int, str]:
    """A colour for each exit, lighter with depth (viridis without its lightest end)."""
    blocks = sorted(set(blocks))
    shades = np.linspace(0, 0.85, len(blocks))
    return {block: mpl.colors.to_hex(mpl.colormaps["viridis"](s)) for block, s in zip(blocks, shades, strict=True)}
