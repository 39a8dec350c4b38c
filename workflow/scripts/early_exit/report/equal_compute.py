"""The forest plot of policies against static pruning at equal compute."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from early_exit.evaluation.tables import metric_name
from early_exit.report.style import WIDTH, assign_looks, draws_figure, fill_style, label_rows, present_rows

ROW, MARGINS = 0.17, 1.1  # inches: of one policy; of titles and labels
BETTER = "← pruning better | policy better →"


@draws_figure
def equal_compute(compared: pd.DataFrame, results: pd.DataFrame, dataset: str) -> Figure:
    """Every policy minus static pruning on a dataset: a panel for the main metric, and one for agreement.

    Rows are policies, grouped by backbone, with the mean difference over the common range of FLOPs saved and its 95 %
    interval; the range stands behind the name. Of several prunings the first is the reference, the others are rows.
    `compared` is equal_compute.csv; colours and markers follow from `results`, results.csv, as in the other figures.
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
        of_metric = rows[rows["metric"] == metric].set_index(["backbone", "policy", "reference"])
        for place, (key, _) in enumerate(lines):
            if key in of_metric.index:
                _mark(axes, place, of_metric.loc[key], looks)
        axes.set(title=f"{metric_name(metric)} (0 to 100), minus static pruning", xlabel=BETTER)
        axes.grid(visible=False, axis="y")
    label_rows(panels, [(label, key is None) for key, label in lines])
    unit = "examples" if rows["groups"].iloc[0] == rows["examples"].iloc[0] else "conversations"
    size = f"{rows['groups'].iloc[0]} {unit}"
    figure.suptitle(f"{dataset}, {size}: mean difference at equal FLOPs saved (range in brackets), 95 % intervals")
    return figure


def _lines(rows: pd.DataFrame) -> list[tuple[tuple[str, str, str] | None, str]]:
    """(key of a policy, label) from the top down; a backbone's name has no key."""
    lines = []
    for backbone, of_backbone in rows.groupby("backbone", sort=False):
        lines.append((None, backbone))
        for _, row in of_backbone.drop_duplicates(["policy", "reference"]).iterrows():
            shared = f"{100 * row['saved_from']:.0f} to {100 * row['saved_to']:.0f} %"
            label = f"{row['policy']} ({'no common range' if pd.isna(row['saved_from']) else shared})"
            lines.append(((backbone, row["policy"], row["reference"]), label))
    return lines


def _mark(axes: Axes, place: int, row: pd.Series, looks: Mapping[str, tuple[str, str]]) -> None:
    """Draws a policy's difference and interval, if it has them."""
    colour, marker = looks[row["head"] or row.name[1]]
    face = fill_style(row["state_fill"], colour)["markerfacecolor"]
    axes.plot([row["difference_low"], row["difference_high"]], [place, place], "-|", color=colour)
    axes.plot([row["difference"]], [place], marker, color=colour, markerfacecolor=face, markersize=5)
