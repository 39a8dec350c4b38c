"""Figures of quality against compute, of where tokens exit, of training, and of how early predictions settle."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from early_exit.evaluation.tables import main_metric, metric_name
from early_exit.report.style import (
    EXIT_LINES,
    FILL_LINES,
    LOOKS,
    WIDTH,
    assign_looks,
    draws_figure,
    exit_colours,
    fill_style,
    present_rows,
)

FULL_DEPTH = "#EDEDED"
BAR_EDGE = {"edgecolor": "black", "linewidth": 0.4}


@draws_figure
def quality(results: pd.DataFrame, dataset: str) -> Figure:
    """Main metric of a dataset (0..100) against FLOPs saved on decode passes (%), one panel per backbone.

    Every policy is a curve in the order of its settings, calibrated ones ringed (a fallback is at the star); policies
    without a head are dash-dotted, static pruning too, the full model is a line with its 95 % band.
    """
    results = present_rows(results, "results.csv")
    looks = assign_looks(results)
    metric = main_metric(results, dataset)
    rows = results[(results["dataset"] == dataset) & results["acceptance_rate"].isna()]  # speculation saves no FLOPs
    rows = rows.dropna(subset=[metric, "flops_saved"])
    rows = present_rows(rows, f"results.csv, {metric} of dataset {dataset}")
    backbones, figure = rows["backbone"].unique(), Figure(figsize=(WIDTH, 3.4))
    panels = figure.subplots(1, len(backbones), sharey=True, squeeze=False)[0]
    for axes, backbone in zip(panels, backbones, strict=True):
        for policy, curve in rows[rows["backbone"] == backbone].groupby("policy", sort=False):
            draw = _full_model if policy == "full" else _curve
            draw(axes, curve.sort_values("setting"), metric, looks)
        axes.set(title=backbone, xlabel="FLOPs saved on decode passes (%)")
    panels[0].set_ylabel(f"{metric_name(metric)} on {dataset} (0 to 100)")
    _legend_in_groups(figure, _quality_legend(rows, looks))
    return figure


def _curve(axes: Axes, curve: pd.DataFrame, metric: str, looks: Mapping[str, tuple[str, str]]) -> None:
    """One policy over its settings: light error bars, the line, and a ring at the calibrated ones."""
    first, ringed = curve.iloc[0], curve[curve["calibrated"].astype(bool)]
    ring = {"markersize": 8, "fillstyle": "none", "color": "black", "markeredgewidth": 0.8, "zorder": 6}
    axes.plot(100 * ringed["flops_saved"], ringed[metric], "o", **ring)
    curve = curve[~curve["fallback"].astype(bool)]
    colour, marker = looks[first["head"] or first["policy"]]
    x, y = 100 * curve["flops_saved"], curve[metric]
    arms = _arms(curve, metric, 1), _arms(curve, "flops_saved", 100)
    axes.errorbar(x, y, *arms, fmt="none", ecolor=colour, alpha=0.25, elinewidth=0.7, zorder=1)
    style = fill_style(first["state_fill"], colour)
    axes.plot(x, y, color=colour, marker=marker, label=first["policy"], zorder=3, **style)


def _full_model(axes: Axes, curve: pd.DataFrame, metric: str, looks: Mapping[str, tuple[str, str]]) -> None:
    row = curve.iloc[0]
    axes.axhspan(row[f"{metric}_low"], row[f"{metric}_high"], color="black", alpha=0.07, linewidth=0)
    axes.axhline(row[metric], color="black", linewidth=0.8)
    axes.plot([100 * row["flops_saved"]], [row[metric]], "*", color="black", markersize=8, label="full", zorder=5)


def _arms(curve: pd.DataFrame, column: str, scale: float) -> np.ndarray:
    """Lengths (2, n) of error bars; an arm is 0 if rounding puts the value outside its interval."""
    value, low, high = (scale * curve[column + end] for end in ("", "_low", "_high"))
    return np.clip([value - low, high - value], 0, None)


def _quality_legend(rows: pd.DataFrame, looks: Mapping[str, tuple[str, str]]) -> list[dict]:
    """Three groups of {label: handle}: references, heads by colour and marker, state fills by line and face."""
    heads, fills = set(rows["head"]), set(rows["state_fill"])
    headless = set(rows.loc[rows["head"] == "", "policy"])
    references = {}
    if "full" in headless:
        star = _handle("black", "*", linewidth=0.8, markersize=8)
        references["full model, 95 % band"] = (Patch(color="black", alpha=0.07, linewidth=0), star)
    for policy in (name for name in looks if name in headless):
        references["static pruning" if policy == "pruned" else policy] = _handle(*looks[policy], linestyle="-.")
    if rows["calibrated"].any():
        references["calibrated threshold"] = _handle("black", "o", linestyle="none", markersize=8, fillstyle="none")
    by_head = {f"head {head}": _handle(*look, linestyle="none") for head, look in looks.items() if head in heads}
    dark = "#404040"
    by_fill = {f"state fill {f}": _handle(dark, "o", **fill_style(f, dark)) for f in FILL_LINES if f in fills}
    return [group for group in (references, by_head, by_fill) if group]


def _handle(colour: str, marker: str, **style) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, **style)


def _legend_in_groups(figure: Figure, groups: Sequence[dict]) -> None:
    """Draws a legend below the panels, one column per group; blank entries fill up the shorter columns."""
    height, blank = max(map(len, groups)), ("", Line2D([], [], linestyle="none"))
    entries = [entry for group in groups for entry in [*group.items(), *[blank] * (height - len(group))]]
    labels, handles = zip(*entries, strict=True)
    figure.legend(handles, labels, loc="outside lower center", ncols=len(groups))


@draws_figure
def exits(shares: pd.DataFrame, backbone: str) -> Figure:
    """Where decode passes leave: datasets in rows, heads in columns, one stacked bar (100 %) per setting.

    Of head policies only, and of one state fill, the same in all panels: `propagate` where the backbone has it.
    """
    shares = present_rows(shares[shares["backbone"] == backbone], f"exits.csv, backbone {backbone}")
    depth = shares["block"].max()  # of all policies: the full model is among them
    shares = present_rows(shares[shares["head"] != ""], f"exits.csv, head policies of backbone {backbone}")
    fill = "propagate" if (shares["state_fill"] == "propagate").any() else shares["state_fill"].iloc[0]
    shares = shares[shares["state_fill"] == fill]
    datasets, heads = shares["dataset"].unique(), shares["head"].unique()
    colours = exit_colours(set(shares["block"]) - {depth}) | {depth: FULL_DEPTH}
    figure = Figure(figsize=(WIDTH, 0.9 + 1.4 * len(datasets)))
    panels = figure.subplots(len(datasets), len(heads), sharey=True, squeeze=False)
    for row, dataset in zip(panels, datasets, strict=True):
        for axes, head in zip(row, heads, strict=True):
            _stacked_bars(axes, shares[(shares["dataset"] == dataset) & (shares["head"] == head)], colours)
        row[0].set_ylabel(f"{dataset}\ndecode passes (%)")
    for top, bottom, head in zip(panels[0], panels[-1], heads, strict=True):
        top.set_title(f"head {head}")
        bottom.set_xlabel("threshold")
    names = {block: f"exit after block {block}" for block in colours} | {depth: f"all {depth} blocks"}
    handles = [Patch(facecolor=colours[b], **BAR_EDGE, label=names[b]) for b in colours]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), columnspacing=1.5)
    figure.suptitle(f"{backbone}, state fill {fill}")
    return figure


def _stacked_bars(axes: Axes, cell: pd.DataFrame, colours: Mapping[int, str]) -> None:
    """Draws bars over settings in equal steps, the earliest exit at the bottom."""
    table = cell.pivot_table(index="setting", columns="block", values="share", aggfunc="sum", fill_value=0.0)
    places, base = np.arange(len(table)), np.zeros(len(table))
    for block in table.columns:
        share = 100 * table[block].to_numpy()
        axes.bar(places, share, bottom=base, width=0.82, color=colours[block], **BAR_EDGE)
        base += share
    axes.set_xticks(places, [f"{setting:.3g}" for setting in table.index], rotation=90)
    axes.set(ylim=(0, 100), yticks=(0, 50, 100))


@draws_figure
def training(curves: pd.DataFrame, backbone: str) -> Figure:
    """Loss of every head against tokens seen, one line per exit; last panel: how often the label says "exit".

    Thin lines are the logged values, thick ones their running mean over a twentieth of the steps. The label does not
    depend on the head, so the first head's is shown.
    """
    curves = present_rows(curves[curves["backbone"] == backbone], f"training.csv, backbone {backbone}")
    heads = list(curves.groupby(["recipe", "head"], sort=False))
    colours = exit_colours(curves["exit"])
    figure = Figure(figsize=(WIDTH, 2.5))
    panels = figure.subplots(1, len(heads) + 1)
    for axes, ((recipe, head), cell) in zip(panels, heads, strict=False):
        _lines_by_exit(axes, cell, cell["loss"], colours)
        axes.set_title(f"head {head}" if curves["recipe"].nunique() == 1 else f"head {head} ({recipe})")
        axes.sharey(panels[0])
        axes.tick_params(labelleft=axes is panels[0])
    panels[0].set_ylabel("cross-entropy (nats)")
    _lines_by_exit(panels[-1], heads[0][1], 100 * heads[0][1]["positive_rate"], colours)
    panels[-1].set(title='labelled "exit"', ylabel="tokens (%)", ylim=(0, 100))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(colours)))
    figure.suptitle(backbone)
    return figure


def _lines_by_exit(axes: Axes, cell: pd.DataFrame, values: pd.Series, colours: Mapping[int, str]) -> None:
    for (block, line), style in zip(cell.groupby("exit"), cycle(EXIT_LINES), strict=False):
        line = line.sort_values("step")
        x, y = line["tokens"] / 1000, values[line.index]
        smooth = y.rolling(max(1, len(y) // 20), min_periods=1, center=True).mean()
        axes.plot(x, y, color=colours[block], linewidth=0.4, alpha=0.35)
        axes.plot(x, smooth, color=colours[block], linestyle=style, label=f"exit after block {block}")
    axes.set_xlabel("tokens (thousands)")


@draws_figure
def settle(shares: pd.DataFrame, training: pd.DataFrame) -> Figure:
    """By relative depth: share of tokens (%) whose most probable token after a block is already the full model's, and
    the mean cosine of the hidden state with the last.

    A line per backbone, on which the exits that heads were trained at are marked. `shares` is settle.csv, `training`
    training.csv.
    """
    shares = present_rows(shares, "settle.csv")
    exits = training.groupby("backbone")["exit"].unique()
    figure, depth = Figure(figsize=(WIDTH, 2.7)), "blocks run / depth (marks: exits)"
    panels = figure.subplots(1, 2, sharex=True)
    lines = zip(shares.groupby("backbone", sort=False), cycle(LOOKS), cycle(EXIT_LINES), strict=False)
    for (backbone, line), (colour, marker), style in lines:
        line = line.sort_values("block")
        x, marked = line["block"] / line["block"].max(), line["block"].isin(exits.get(backbone, []))
        for axes, y in zip(panels, (100 * line["share"], line["cosine"]), strict=True):
            axes.plot(x, y, style, color=colour, marker=marker, markevery=marked.to_numpy(), label=backbone)
    panels[0].set(xlabel=depth, ylabel="prediction already final\n(% of tokens)", xlim=(0, 1.02), ylim=(0, 103))
    panels[1].set(xlabel=depth, ylabel="cosine with the hidden state\nafter the last block", ylim=(None, 1.03))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
