"""Figures of how good exit heads are. The exit `any`, all exits asked in turn, stands last on every axis of exits."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from early_exit.report.style import EXIT_LINES, LOOKS, WIDTH, draws_figure, exit_colours, present_rows

REFERENCES = {"oracle": ("#000000", "-"), "majority": ("#737373", ":")}
REFERENCE_NAMES = {"oracle": "oracle: knows the answer", "majority": "majority: all tokens alike"}
METRIC_NAMES = {
    "auroc": "AUROC", "average_precision": "average precision",
    "leave_at_1": "tokens that may leave (%)\nat 1 % disagreement",
    "leave_at_5": "tokens that may leave (%)\nat 5 % disagreement",
    "saved_at_1": "saved, less checks (%)\nat 1 % disagreement",
    "saved_at_5": "saved, less checks (%)\nat 5 % disagreement",
}  # fmt: skip
DIFFERENCES = {
    "auroc": "AUROC\n", "average_precision": "average\nprecision", "leave_at_5": "may leave (%)\nat 5 % disagr.",
    "saved_at_5": "saved (%)\nat 5 % disagr.",
}  # fmt: skip
LEAST_SHARE = 0.005  # of the tokens: a bin of the reliability diagram with fewer is noise and is not drawn
ROW, MARGINS = 0.15, 1.0  # inches of the plot of differences: of one row; of titles and labels


@draws_figure
def reliability(bins: pd.DataFrame, backbone: str) -> Figure:
    """Share of tokens labelled "exit" against the confidence that they were given: a panel per head, a line per exit.

    A marker's area is the bin's share of the tokens; bins with less than LEAST_SHARE of them are not drawn. `bins` is
    reliability.csv.
    """
    bins = present_rows(bins[bins["backbone"] == backbone], f"reliability.csv, backbone {backbone}")
    heads = list(bins.groupby(["recipe", "head"], sort=False))
    colours = exit_colours(bins["exit"])
    columns = min(3, len(heads))
    rows = -(-len(heads) // columns)
    figure = Figure(figsize=(WIDTH, 0.7 + 2.1 * rows))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(heads) :]:
        axes.remove()
    for axes, ((recipe, head), of_head) in zip(panels.flat, heads, strict=False):
        _reliability_lines(axes, of_head, colours)
        axes.set_title(f"head {head}" if bins["recipe"].nunique() == 1 else f"head {head} ({recipe})")
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    for axes in panels[:, 0]:
        axes.set_ylabel('share labelled "exit"')
    for axes in panels.flat[max(0, len(heads) - columns) : len(heads)]:
        axes.set_xlabel("confidence")
        axes.tick_params(labelbottom=True)
    lines = [
        Line2D([], [], color=colours[block], linestyle=style, marker="o", label=f"exit after block {block}")
        for block, style in zip(sorted(colours), cycle(EXIT_LINES), strict=False)
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=min(4, len(lines)))
    figure.suptitle(backbone)
    return figure


def _reliability_lines(axes: Axes, bins: pd.DataFrame, colours: Mapping[int, str]) -> None:
    """Draws the bins of one head, and the diagonal."""
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.6)
    for (block, line), style in zip(bins.groupby("exit"), cycle(EXIT_LINES), strict=False):
        share = line["tokens"] / line["tokens"].sum()
        line, share = line[share >= LEAST_SHARE], share[share >= LEAST_SHARE]
        place = line["confidence"], line["positive_rate"]
        axes.plot(*place, color=colours[block], linestyle=style, linewidth=0.9)
        dots = {"s": 160 * share, "color": colours[block], "edgecolor": "white", "linewidth": 0.3}
        axes.scatter(*place, **dots, zorder=3, clip_on=False)


@draws_figure
def head_ranking(heads: pd.DataFrame) -> Figure:
    """AUROC and average precision of every head by exit, with 95 % intervals; a column of panels per backbone."""
    figure, panels = _grid(heads, ("auroc", "average_precision"))
    for row in panels:
        for axes in row:
            axes.set_ylim(None, 1.005)
    return figure


@draws_figure
def head_savings(heads: pd.DataFrame) -> Figure:
    """Share of tokens (%) that may leave at 1 % and at 5 % disagreement, by exit, with 95 % intervals."""
    figure, panels = _grid(heads, ("leave_at_1", "leave_at_5"), scale=100)
    for row in panels:
        for axes in row:
            axes.set_ylim(-3, 103)
    return figure


def _grid(heads: pd.DataFrame, metrics: Sequence[str], scale: float = 1) -> tuple[Figure, np.ndarray]:
    """A row of panels per metric, a column per backbone: heads side by side at every exit, references across it."""
    heads = present_rows(heads, "heads.csv").fillna({"recipe": ""})
    backbones, names = heads["backbone"].unique(), _names(heads)
    looks = dict(zip(names, cycle(LOOKS), strict=False))
    figure = Figure(figsize=(WIDTH, 0.9 + 1.9 * len(metrics)))
    panels = figure.subplots(len(metrics), len(backbones), sharey="row", squeeze=False)
    for row, metric in zip(panels, metrics, strict=True):
        for axes, backbone in zip(row, backbones, strict=True):
            of_backbone = heads[heads["backbone"] == backbone]
            exits = list(of_backbone["exit"].astype(str).unique())
            for name, of_head in of_backbone.groupby("head", sort=False):
                places = np.array([exits.index(block) for block in of_head["exit"].astype(str)])
                if (of_head["recipe"] == "").any():
                    colour, style = REFERENCES[name]
                    axes.hlines(scale * of_head[metric], places - 0.42, places + 0.42, color=colour, linestyle=style)
                else:
                    shift = (names.index(name) - (len(names) - 1) / 2) * 0.76 / len(names)
                    _points(axes, places + shift, _ends(of_head, metric, scale), looks[name])
            axes.set_xticks(range(len(exits)), exits)
            axes.grid(visible=False, axis="x")
        row[0].set_ylabel(METRIC_NAMES[metric])
    for top, bottom, backbone in zip(panels[0], panels[-1], backbones, strict=True):
        top.set_title(backbone)
        bottom.set_xlabel("exit after block")
    _legend(figure, looks)
    return figure, panels


def _ends(rows: pd.DataFrame, metric: str, scale: float) -> tuple[pd.Series, pd.Series, pd.Series]:
    """(value, low, high) of a metric."""
    value, low, high = (scale * rows[f"{metric}{end}"] for end in ("", "_low", "_high"))
    return value, low, high


def _points(
    axes: Axes, places: np.ndarray, ends: tuple[pd.Series, pd.Series, pd.Series], look: tuple[str, str]
) -> None:
    """Draws values with their intervals."""
    value, low, high = ends
    arms = np.clip([value - low, high - value], 0, None)
    axes.errorbar(places, value, arms, fmt=look[1], color=look[0], elinewidth=0.8, markersize=3.5)


def _names(heads: pd.DataFrame) -> list[str]:
    """Heads in the order in which all figures assign colours and markers."""
    return sorted(set(heads.loc[heads["recipe"] != "", "head"]))


def _legend(figure: Figure, looks: Mapping[str, tuple[str, str]]) -> None:
    """The heads and the references, below the panels."""
    handles = [Line2D([], [], color=c, marker=m, linestyle="none", label=f"head {n}") for n, (c, m) in looks.items()]
    handles += [Line2D([], [], color=c, linestyle=s, label=REFERENCE_NAMES[n]) for n, (c, s) in REFERENCES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=1.5)


@draws_figure
def head_cost(heads: pd.DataFrame) -> Figure:
    """Share of the blocks' FLOPs saved, all exits in turn, against the cost of one check of the head.

    Rows of panels are 1 % and 5 % disagreement, columns backbones. The savings are less the checks.
    """
    heads = present_rows(heads[heads["exit"] == "any"], "heads.csv, exit any").fillna({"recipe": ""})
    backbones, looks = heads["backbone"].unique(), dict(zip(_names(heads), cycle(LOOKS), strict=False))
    figure = Figure(figsize=(WIDTH, 4.4))
    panels = figure.subplots(2, len(backbones), sharex="col", sharey="row", squeeze=False)
    for row, error in zip(panels, ("1", "5"), strict=True):
        metric = f"saved_at_{error}"
        for axes, backbone in zip(row, backbones, strict=True):
            for name, of_head in heads[heads["backbone"] == backbone].groupby("head", sort=False):
                if (of_head["recipe"] == "").any():
                    colour, style = REFERENCES[name]
                    axes.axhline(100 * of_head[metric].iloc[0], color=colour, linestyle=style, linewidth=1.1)
                else:
                    _points(axes, of_head["check_percent"], _ends(of_head, metric, 100), looks[name])
            axes.axhline(0, color="black", linewidth=0.4)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        row[0].set_ylabel(METRIC_NAMES[metric])
    for top, bottom, backbone in zip(panels[0], panels[-1], backbones, strict=True):
        top.set_title(backbone)
        bottom.set_xlabel("one check of the head (% of a block)")
    _legend(figure, looks)
    return figure


@draws_figure
def head_differences(table: pd.DataFrame, backbone: str) -> Figure:
    """Differences between heads with 95 % intervals: a row per pair and exit, a panel per metric.

    A filled marker is a difference whose interval does not contain zero. `table` is head_differences.csv.
    """
    table = present_rows(table[table["backbone"] == backbone], f"head_differences.csv, backbone {backbone}")
    table = table.assign(exit=table["exit"].astype(str))
    rows = list(table[["head", "other", "exit"]].drop_duplicates().itertuples(index=False, name=None))
    figure = Figure(figsize=(WIDTH, MARGINS + ROW * len(rows)))
    panels = figure.subplots(1, len(DIFFERENCES), sharey=True)
    for axes, (metric, label) in zip(panels, DIFFERENCES.items(), strict=True):
        of_metric = table[table["metric"] == metric].set_index(["head", "other", "exit"])
        axes.axvline(0, color="black", linewidth=0.8)
        for place, key in enumerate(rows):
            row, colour = of_metric.loc[key], LOOKS[0][0] if key[2] == "any" else "#595959"
            value, low, high = ((100 if "%" in label else 1) * row[name] for name in ("difference", "low", "high"))
            axes.plot([low, high], [place, place], color=colour, linewidth=0.9)
            face = colour if row["differs"] else "white"
            axes.plot([value], [place], "D" if key[2] == "any" else "o", color=colour, markerfacecolor=face)
        axes.set_xlabel(label)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
    labels = [f"{head} - {other}, {'any exit' if block == 'any' else f'exit {block}'}" for head, other, block in rows]
    panels[0].set_yticks(range(len(rows)), labels)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    figure.suptitle(f"{backbone}: difference between heads (right: the first is better), with 95 % intervals")
    return figure
