"""Figures of the promises of calibrated thresholds: how they were calibrated, and whether they were kept."""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from early_exit.report.style import WIDTH, assign_looks, draws_figure, fill_style, label_rows, present_rows

ROW, MARGINS = 0.15, 1.15  # inches of the plot of observed risks: of one policy; of titles, labels and legend
HEADROOM = 3.0  # a panel of risks ends at so many epsilons; higher risks are cut off
BOUND = {"color": "black", "linewidth": 0.9, "linestyle": (0, (4, 2))}
RING = {"marker": "o", "linestyle": "none", "markersize": 8, "fillstyle": "none", "color": "black"}
DARK = "#404040"


def tested_thresholds(contents: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The contents of some thresholds.json as a table, a row per backbone, dataset, policy, promise and threshold.

    `place` is the threshold's place in the order of testing, `chosen` says whether calibration took it.
    """
    rows = [
        {
            "backbone": content["backbone"],
            "dataset": content["dataset"],
            "policy": policy,
            "promise": promise,
            "place": place,
            "chosen": point["threshold"] == calibrated["threshold"],
            **{name: calibrated[name] for name in ("risk", "method", "epsilon", "delta", "n")},
            "threshold": point["threshold"],
            "bound": point["bound"],
            "observed": point["risk"],
        }
        for content in contents
        for policy, promises in content["policies"].items()
        for promise, calibrated in promises.items()
        for place, point in enumerate(calibrated["curve"])
    ]
    return pd.DataFrame(rows)


@draws_figure
def calibration(rows: pd.DataFrame, results: pd.DataFrame, backbone: str, promise: str) -> Figure:
    """Risk (%) on the calibration split against threshold, in the order of testing: a column of panels per dataset.

    A row of panels per head (per policy without one), a line per state fill. Thin bars reach up to the bound, the line
    across is epsilon, a ring marks the chosen threshold. `rows` are `tested_thresholds`, `results` is results.csv.
    """
    rows = rows[(rows["backbone"] == backbone) & (rows["promise"] == promise)]
    rows = present_rows(rows, f"thresholds of backbone {backbone}, promise {promise}")
    places = {dataset: place for place, dataset in enumerate(results["dataset"].unique())}  # as in the other figures
    rows = rows.sort_values("dataset", key=lambda datasets: datasets.map(places), kind="stable")
    labels, looks = _labels(results), assign_looks(present_rows(results, "results.csv"))
    rows = rows.join(labels, on="policy")
    datasets, names = rows["dataset"].unique(), rows["name"].unique()
    figure = Figure(figsize=(WIDTH, 1.0 + 1.25 * len(names)))
    panels = figure.subplots(len(names), len(datasets), sharey=True, squeeze=False)
    most = 100 * min(1.0, HEADROOM * rows["epsilon"].iloc[0])
    for (i, name), (j, dataset) in product(enumerate(names), enumerate(datasets)):
        cell, axes = rows[(rows["name"] == name) & (rows["dataset"] == dataset)], panels[i, j]
        for k, (_, line) in enumerate(cell.groupby("policy", sort=False)):
            _calibrated(axes, line, looks[name], shift=0.18 * k)
        axes.axhline(100 * rows["epsilon"].iloc[0], **BOUND)
        axes.set(ylim=(-0.04 * most, most))
        if len(cell):
            first = cell.drop_duplicates("place")
            axes.set_xticks(first["place"], [f"{t:g}" for t in first["threshold"]], rotation=90)
        if i == 0:
            axes.set_title(f"{dataset}, n = {cell['n'].iloc[0]}" if len(cell) else dataset)
        if j == 0:
            axes.set_ylabel(f"{name}\nrisk (%)")
    for axes in panels[-1]:
        axes.set_xlabel("threshold, in the order of testing")
    figure.legend(handles=_calibration_legend(rows), loc="outside lower center", ncols=3)
    figure.suptitle(f"{backbone}, {promise}: {_terms(rows.iloc[0])}")
    return figure


def _calibrated(axes: Axes, line: pd.DataFrame, look: tuple[str, str], shift: float) -> None:
    """A policy's risks with bars up to their bounds, and a ring at the chosen one."""
    colour, marker = look
    x, y = line["place"] + shift, 100 * line["observed"]
    arms = [np.zeros(len(line)), np.clip(100 * line["bound"] - y, 0, None)]
    axes.errorbar(x, y, arms, fmt="none", ecolor=colour, alpha=0.5, elinewidth=0.7, capsize=1.5, zorder=1)
    axes.plot(x, y, color=colour, marker=marker, zorder=3, **fill_style(line["state_fill"].iloc[0], colour))
    chosen = line["chosen"].to_numpy(dtype=bool)
    axes.plot(x[chosen], y[chosen], markeredgewidth=0.8, zorder=4, **RING)


def _calibration_legend(rows: pd.DataFrame) -> list[Line2D]:
    fills = [fill for fill in rows["state_fill"].unique() if fill]
    handles = [Line2D([], [], color=DARK, marker="o", label=f"state fill {f}", **fill_style(f, DARK)) for f in fills]
    bar = {"color": DARK, "alpha": 0.5, "marker": "|", "markersize": 9, "linestyle": "none"}
    handles += [Line2D([], [], label="up to bound", **bar), Line2D([], [], label="epsilon", **BOUND)]
    return [*handles, Line2D([], [], label="chosen (none: full depth)", **RING)]


@draws_figure
def promise(table: pd.DataFrame, results: pd.DataFrame, backbone: str, name: str) -> Figure:
    """Promised against observed risk over splits: a row per policy, grouped by dataset, calibrated and tested on it.

    Left, the test risk: mean and range of 95 % of the splits, against epsilon. Middle, the share of splits above
    epsilon, against delta: on the test half (filled) and over the pool (hollow). Right, how often no threshold passed.
    `table` is promise.csv, `results` results.csv.
    """
    rows = table[(table["backbone"] == backbone) & (table["promise"] == name)]
    rows = present_rows(rows[rows["calibrated_on"] == rows["dataset"]], f"promise.csv, {backbone}, promise {name}")
    looks, lines = assign_looks(present_rows(results, "results.csv")), _lines(rows)
    figure = Figure(figsize=(WIDTH, MARGINS + ROW * len(lines)))
    risk, above, none = figure.subplots(1, 3, sharey=True, width_ratios=(3, 3, 1.5))
    for place, (row, _) in enumerate(lines):
        if row is not None:
            _observed((risk, above, none), place, row, looks[row["head"] or row["policy"]])
    first = rows.iloc[0]
    risk.axvline(100 * first["epsilon"], **BOUND)
    if not np.isnan(first["delta"]):
        above.axvline(100 * first["delta"], **BOUND)
    risk.set(title="risk on test half (%)", xlabel="dashed: epsilon", xlim=(-1, None))
    above.set(title="splits with a risk above epsilon (%)", xlabel="dashed: delta", xlim=(-1, None))
    none.set(title="no threshold (%)", xlabel="of the splits", xlim=(0, 100))
    label_rows((risk, above, none), [(label, row is None) for row, label in lines])
    for axes in (risk, above, none):
        axes.grid(visible=False, axis="y")
    figure.legend(handles=_promise_legend(), loc="outside lower center", ncols=4)
    figure.suptitle(f"{backbone}, {name}: {_terms(first)}; {first['splits']} splits")
    return figure


def _observed(panels: tuple[Axes, Axes, Axes], place: int, row: pd.Series, look: tuple[str, str]) -> None:
    """A policy's line: its risk, its splits above epsilon, and those without a threshold."""
    (risk, above, none), (colour, marker) = panels, look
    face = fill_style(row["state_fill"], colour)["markerfacecolor"]
    risk.plot(100 * row[["risk_low", "risk_high"]].astype(float), [place, place], "-|", color=colour)
    risk.plot([100 * row["risk_mean"]], [place], marker, color=colour, markerfacecolor=face, markersize=5)
    risk.plot([100 * row["run_risk"]], [place], "x", color="black", markersize=4, zorder=4)
    above.plot([100 * row["exceeds"]], [place], "o", color=colour, markersize=5)
    above.plot([100 * row["exceeds_pool"]], [place], "o", color=colour, fillstyle="none", markersize=7)
    none.barh(place, 100 * row["none"], height=0.6, color=colour, alpha=0.6)


def _lines(rows: pd.DataFrame) -> list[tuple[pd.Series | None, str]]:
    """(row, label) from the top down; a dataset's name has no row."""
    lines: list[tuple[pd.Series | None, str]] = []
    for dataset, of_dataset in rows.groupby("dataset", sort=False):
        lines.append((None, f"{dataset} (n = {of_dataset['calibration_units'].iloc[0]})"))
        lines += [(row, row["policy"]) for _, row in of_dataset.iterrows()]
    return lines


def _promise_legend() -> list[Line2D]:
    return [
        Line2D([], [], color=DARK, marker="s", label="mean, 95 % of the splits"),
        Line2D([], [], color="black", marker="x", linestyle="none", label="this run's split"),
        Line2D([], [], color=DARK, marker="o", linestyle="none", label="on the test half"),
        Line2D([], [], color=DARK, marker="o", fillstyle="none", markersize=7, linestyle="none", label="on the pool"),
    ]


@draws_figure
def transfer(table: pd.DataFrame) -> Figure:
    """Thresholds calibrated on one dataset, tested on another: share (%) of splits above epsilon, mean over policies.

    A row of panels per promise, a column per backbone. On the diagonal, the test half of the same dataset.
    """
    table = present_rows(table, "promise.csv")
    backbones, promises, datasets = (table[name].unique() for name in ("backbone", "promise", "dataset"))
    figure = Figure(figsize=(WIDTH, 0.6 + 1.6 * len(promises)))
    panels = figure.subplots(len(promises), len(backbones), sharex=True, sharey=True, squeeze=False)
    for (i, name), (j, backbone) in product(enumerate(promises), enumerate(backbones)):
        rows, axes = table[(table["promise"] == name) & (table["backbone"] == backbone)], panels[i, j]
        share = 100 * rows.pivot_table(index="dataset", columns="calibrated_on", values="exceeds", aggfunc="mean")
        share = share.reindex(index=datasets, columns=datasets)
        axes.imshow(share, vmin=0, vmax=100, cmap="Greys", aspect="auto")
        for y, x in np.ndindex(share.shape):
            value = share.to_numpy()[y, x]
            axes.text(x, y, f"{value:.0f}", ha="center", va="center", color="white" if value > 55 else "black")
        axes.set_xticks(range(len(datasets)), datasets)
        axes.set_yticks(range(len(datasets)), datasets)
        axes.grid(visible=False)
        axes.set_title(f"{backbone}, {name}")
    for axes in panels[-1]:
        axes.set_xlabel("calibrated on")
    for axes in panels[:, 0]:
        axes.set_ylabel("tested on")
    figure.suptitle("splits with a risk above epsilon (%), mean of all policies")
    return figure


def _labels(results: pd.DataFrame) -> pd.DataFrame:
    """`name` (the head's, or the policy's where it has none) and `state_fill`, by policy."""
    rows = present_rows(results, "results.csv").drop_duplicates("policy").set_index("policy")
    return pd.DataFrame({"name": rows["head"].where(rows["head"] != "", rows.index), "state_fill": rows["state_fill"]})


def _terms(row: Mapping[str, Any]) -> str:
    """The terms of a promise, in one line."""
    risk = "degenerate answers" if row["risk"] == "degenerate" else row["risk"]  # the one adjective among the risks
    bound = f"{risk} of at most {100 * row['epsilon']:g} %"
    return f"expected {bound}" if pd.isna(row["delta"]) else f"{bound}, with {100 * (1 - row['delta']):g} % probability"
