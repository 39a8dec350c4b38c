"""Figures of precision.csv: what number formats change by block and by position, and how a change dies out."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from early_exit.report.style import EXIT_LINES, LOOKS, WIDTH, draws_figure, present_rows

TITLES = {"difference": "relative difference of hidden states", "kl": "KL divergence of predictions (nats)"}


@draws_figure
def precision(table: pd.DataFrame) -> Figure:
    """By block: difference of hidden states and KL of the predictions; a row of panels per backbone and dataset."""
    rows = present_rows(table[table["measure"].isin(TITLES) & table["position"].isna()], "precision.csv")
    return _draw(rows, list(TITLES), "block", "block")


@draws_figure
def precision_positions(table: pd.DataFrame) -> Figure:
    """By position: KL of the last predictions, and the distance after a change of one embedding."""
    rows = present_rows(table[table["position"].notna() & (table["measure"] != "difference")], "precision.csv")
    distances = [name for name in ("hidden_log_distance", "state_log_distance") if name in set(rows["measure"])]
    return _draw(rows, ["kl", *distances], "position", "position")


def _draw(rows: pd.DataFrame, measures: Sequence[str], x: str, label: str) -> Figure:
    places = list(rows.groupby(["backbone", "dataset"], sort=False))
    figure = Figure(figsize=(WIDTH, 0.5 + 2.1 * len(places)))
    panels = figure.subplots(len(places), len(measures), squeeze=False)
    for line, ((backbone, dataset), place) in zip(panels, places, strict=True):
        for axes, measure in zip(line, measures, strict=True):
            _lines(axes, place[place["measure"] == measure], x)
            distance = measure.endswith("log_distance")
            what = "recurrent state" if measure.startswith("state") else "hidden state"
            axes.set_title(f"log distance, {what}" if distance else TITLES[measure])
            axes.set_xlabel("tokens after the change" if distance else label)
        line[0].set_ylabel(f"{backbone}, {dataset}", fontweight="bold")
    return figure


def _lines(axes: Axes, rows: pd.DataFrame, x: str) -> None:
    """A line for each format or size of the change, with its interval; nothing where there are no rows."""
    axes.set_visible(len(rows) > 0)  # a Transformer has no recurrent state
    by = "format" if rows["size"].isna().all() else "size"
    for (name, line), (colour, marker), style in zip(rows.groupby(by, sort=False), LOOKS, 2 * EXIT_LINES, strict=False):
        axes.plot(line[x], line["value"], style, color=colour, marker=marker, markersize=3, label=f"{name}")
        axes.fill_between(line[x], line["low"], line["high"], color=colour, alpha=0.15, linewidth=0)
    if len(rows):
        axes.legend(title="" if by == "format" else "size of the change")
    if len(rows) and by == "format" and (rows["value"] > 0).all():
        axes.set_yscale("log")
