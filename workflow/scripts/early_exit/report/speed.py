"""The figure of speed.csv: how much faster decoding with exits was, against what its FLOPs imply."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from early_exit.report.style import LOOKS, WIDTH, draws_figure, present_rows

FACES = {"propagate": "full", "deferred": "left"}  # the cheap fills are hollow
LABELS = {"propagate": (4, -8), "deferred": (-11, 3)}  # places of the block numbers, in points; else above right
GUIDES = {1.0: "-", 0.9: "--", 0.75: ":"}


@draws_figure
def speed(table: pd.DataFrame) -> Figure:
    """Measured against implied speed-up of decoding, both over the full depth at the same batch size.

    A panel for each backbone and dataset (rows) and batch size (columns). Points at forced exits carry the exit's
    block. Colour and marker show what made tokens leave, the marker's face shows the state fill.
    """
    rows = present_rows(table.dropna(subset=["decode_ratio"]), "speed.csv, rows with a speed-up of decoding")
    rows = rows[~rows["case"].isin(["full", "speculative"])]  # no exits, no FLOPs saved
    rows = present_rows(rows.assign(what=rows["case"].where(rows["head"] == "", "head " + rows["head"])), "speed.csv")
    looks = dict(zip(dict.fromkeys(rows["what"]), LOOKS, strict=False))
    sizes, places = sorted(rows["batch_size"].unique()), list(rows.groupby(["backbone", "dataset"], sort=False))
    figure = Figure(figsize=(WIDTH, 0.9 + 2.5 * len(places)))
    panels = figure.subplots(len(places), len(sizes), sharex=True, sharey=True, squeeze=False)
    for line, ((backbone, dataset), place) in zip(panels, places, strict=True):
        for axes, size in zip(line, sizes, strict=True):
            _points(axes, place[place["batch_size"] == size], looks)
            axes.set_title(f"{backbone}, {dataset}: batch size {size}")
        line[0].set_ylabel("measured speed-up of decoding")
    most = 1.06 * max(rows["implied"].max(), rows["decode_ratio"].max(), 1.1)
    least = 0.95 * min(rows["decode_ratio"].min(), 0.95)
    for axes in panels.flat:
        for share, style in GUIDES.items():
            axes.plot([0, most], [0, share * most], style, color="#7F7F7F", linewidth=0.8, zorder=1)
        axes.set(xlim=(0.95 * min(rows["implied"].min(), 1), most), ylim=(least, most))
    for axes in panels[-1]:
        axes.set_xlabel("implied by the FLOPs")
    figure.legend(handles=_legend(rows, looks), loc="outside lower center", ncols=4)
    return figure


def _points(axes: Axes, rows: pd.DataFrame, looks: Mapping[str, tuple[str, str]]) -> None:
    for _, row in rows.iterrows():
        (colour, marker), fill = looks[row["what"]], row["state_fill"]
        x, y, face = row["implied"], row["decode_ratio"], FACES.get(fill, "none")
        axes.plot([x], [y], marker, color=colour, fillstyle=face, markersize=5, zorder=3)
        if row["case"] == "exit":
            offset = {"xytext": LABELS.get(fill, (4, 2)), "textcoords": "offset points"}
            axes.annotate(f"{row['exit_block']:.0f}", (x, y), **offset, fontsize=6)


def _legend(rows: pd.DataFrame, looks: Mapping[str, tuple[str, str]]) -> list[Line2D]:
    """What makes tokens leave, the state fills, and the guide lines."""
    names = {"exit": "forced exit (after block)", "random": "random exits"}
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="none", label=names.get(what, what))
        for what, (colour, marker) in looks.items()
    ]
    for fill in dict.fromkeys(rows["state_fill"]):
        face = {"fillstyle": FACES.get(fill, "none"), "marker": "o", "linestyle": "none"}
        handles.append(Line2D([], [], color="#404040", label=f"state fill {fill}", **face))
    for share, style in GUIDES.items():
        label = f"{100 * share:.0f} % of what is implied"
        handles.append(Line2D([], [], color="#7F7F7F", linestyle=style, linewidth=0.8, label=label))
    return handles
