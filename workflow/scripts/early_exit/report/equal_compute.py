"""The forest plot of policies against static pruning at equal compute, in the style of the other figures."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from early_exit.evaluation.tables import metric_name
from early_exit.report.style import WIDTH, assign_looks, draws_figure, fill_style, present_rows

ROW, MARGINS = 0.17, 1.1  # inches: of one policy; of titles and labels
BETTER = "← pruning better | policy better →"


@draws_figure
def equal_compute(compared: pd.DataFrame, results: pd.DataFrame, dataset: str) -> Figure:
    """Every policy minus static pruning on a dataset: a panel for the main metric, and one for agreement.

    Rows are policies, grouped by backbone, with the 95 % interval of the mean difference over the common range of FLOPs
    saved, which stands behind the policy's name. The pruning is the first that was compared with; others are rows.
    `compared` is equal_compute.csv; `results`, results.csv, gives the looks, so that they are those of the other
    figures. InputError if nothing was compared.
    """
    rows = compared[(compared["comparison"] == "static-pruning") & compared["at"].isna()]
    rows = present_rows(rows[rows["dataset"] == dataset], f"equal_compute.csv, static pruning on dataset {dataset}")
    rows = rows[rows["reference"] == rows["reference"].iloc[0]]
    looks = assign_looks(present_rows(results, "results.csv"))
    lines = _lines(rows)
    figure = Figure(figsize=(WIDTH, MARGINS + ROW * len(lines)))
    metrics = list(rows["metric"].unique())
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        axes.axvline(0.0, color="black", linewidth=0.8)
        own = rows[rows["metric"] == metric].set_index(["backbone", "policy", "reference"])
        for place, (key, _) in enumerate(lines):
            if key in own.index:
                _mark(axes, place, own.loc[key], looks)
        axes.set(title=f"{metric_name(metric)} (0 to 100), minus static pruning", xlabel=BETTER)
        axes.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(lines)), [label for _, label in lines])
    panels[0].set_ylim(len(lines) - 0.4, -0.6)
    for tick, (key, _) in zip(panels[0].get_yticklabels(), lines, strict=True):
        tick.set_fontweight("bold" if key is None else "normal")
    for axes in panels:
        axes.tick_params(axis="y", length=0)
    unit = "examples" if rows["groups"].iloc[0] == rows["examples"].iloc[0] else "conversations"
    size = f"{rows['groups'].iloc[0]} {unit}"
    figure.suptitle(f"{dataset}, {size}: mean difference at equal FLOPs saved (range in brackets), 95 % intervals")
    return figure


def _lines(rows: pd.DataFrame) -> list[tuple[tuple[str, str, str] | None, str]]:
    """(key of a policy, label) from the top down; a backbone's name has no key."""
    lines = []
    for backbone, own in rows.groupby("backbone", sort=False):
        lines.append((None, backbone))
        for _, row in own.drop_duplicates(["policy", "reference"]).iterrows():
            shared = f"{100 * row['saved_from']:.0f} to {100 * row['saved_to']:.0f} %"
            label = f"{row['policy']} ({'no common range' if pd.isna(row['saved_from']) else shared})"
            lines.append(((backbone, row["policy"], row["reference"]), label))
    return lines


def _mark(axes: Axes, place: int, row: pd.Series, looks: Mapping[str, tuple[str, str]]) -> None:
    """A policy's difference and interval; nothing where there is none."""
    colour, marker = looks[row["head"] or row.name[1]]
    face = fill_style(row["state_fill"], colour)["markerfacecolor"]
    axes.plot([row["difference_low"], row["difference_high"]], [place, place], "-|", color=colour)
    axes.plot([row["difference"]], [place], marker, color=colour, markerfacecolor=face, markersize=5)
