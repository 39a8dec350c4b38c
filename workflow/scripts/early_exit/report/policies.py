"""The figure of all policies at equal compute: what each loses where it saves as much as the others.

A policy is a row with its name beside it, so that no legend is needed. Policies stand under the heading of their sort,
which colours (Okabe-Ito) and markers show once more.
"""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from early_exit.evaluation.tables import metric_name
from early_exit.experiment.config.policies import is_untrained
from early_exit.report.style import WIDTH, draws_figure, label_rows, present_rows

LEVELS = (0.1, 0.2, 0.3)  # savings that are shown
ROW, MARGINS, HEADING = 0.15, 0.95, "heading"  # inches: of one line; of titles and labels
SORTS = {  # heading, colour, marker; from the top down
    "head": ("exit heads", "#0072B2", "o"),
    "adapt": ("thresholds that adapt", "#D55E00", "D"),
    "untrained": ("without training", "#009E73", "^"),
    "fixed": ("no decision", "#8C8C8C", "X"),
    "pruned": ("blocks left out", "#404040", "s"),
    "oracle": ("the most there is", "black", "*"),
}
FILLS = ("copy", "skip", "propagate", "deferred", "")


@draws_figure
def policies(standings: pd.DataFrame, dataset: str) -> Figure:
    """Main metric minus the full model's (points of 0..100) at LEVELS of FLOPs saved; a row of panels per backbone.

    `standings` is policies.csv.
    """
    rows = standings[(standings["dataset"] == dataset) & (standings["metric"] != "agreement")]
    rows = present_rows(rows, f"policies.csv, dataset {dataset}")
    lines = {backbone: _lines(of_backbone) for backbone, of_backbone in rows.groupby("backbone", sort=False)}
    heights = [len(of_backbone) for of_backbone in lines.values()]
    figure = Figure(figsize=(WIDTH, MARGINS * len(lines) + ROW * sum(heights)))
    panels = figure.subplots(len(lines), len(LEVELS), sharex=True, squeeze=False, height_ratios=heights)
    for (backbone, of_backbone), axes_row in zip(lines.items(), panels, strict=True):
        points = rows[rows["backbone"] == backbone]
        for axes, level in zip(axes_row, LEVELS, strict=True):
            _panel(axes, of_backbone, points[points["at"].round(6) == level].set_index("policy"))
            axes.set_ylim(len(of_backbone) - 0.4, -0.6)
            axes.set_yticks([])
        label_rows(axes_row, [(name, sort == HEADING) for sort, name in of_backbone])
        axes_row[0].set_ylabel(backbone, fontweight="bold")
    for axes, level in zip(panels[0], LEVELS, strict=True):
        axes.set_title(f"{100 * level:.0f} % of FLOPs saved")
    name, counts = metric_name(rows["metric"].iloc[0]), rows.iloc[0]
    for axes in panels[-1]:
        axes.set_xlabel(f"{name}, minus the full model's")
    unit = "questions" if counts["groups"] == counts["examples"] else f"questions in {counts['groups']} conversations"
    figure.suptitle(
        f"{dataset}: what policies lose at equal compute\n{counts['examples']} {unit}, 95 % intervals; "
        "–: every setting saves less, or every one more"
    )
    return figure


def sort_of(row: Mapping[str, str]) -> str:
    """The one of SORTS that a policy belongs to, by its kind and by how its thresholds adapt."""
    if row["adapt"]:
        return "adapt"
    if is_untrained(row["kind"]):
        return "untrained"
    kind = {"random": "fixed"}.get(row["kind"], row["kind"])
    return kind if kind in SORTS else "pruned"


def _lines(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """(sort, policy) from the top down, with (HEADING, text) above each sort; equal state fills stand together."""
    by_sort = {}
    for _, row in rows.drop_duplicates("policy").iterrows():
        by_sort.setdefault(sort_of(row), []).append((FILLS.index(row["state_fill"]), row["policy"]))
    lines = []
    for sort in (sort for sort in SORTS if sort in by_sort):
        lines += [(HEADING, SORTS[sort][0])]
        lines += [(sort, name) for _, name in sorted(by_sort[sort], key=lambda one: one[0])]
    return lines


def _panel(axes: Axes, lines: list[tuple[str, str]], rows: pd.DataFrame) -> None:
    """Draws each policy's difference and interval at one saving, on its line."""
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.grid(visible=False, axis="y")
    for place, (sort, name) in enumerate(lines):
        if sort == HEADING:
            continue
        _, colour, marker = SORTS[sort]
        row = rows.loc[name]
        if pd.isna(row["difference"]):
            axes.text(0.02, place, "–", transform=axes.get_yaxis_transform(), va="center", color="#595959")
            continue
        axes.plot([row["difference_low"], row["difference_high"]], [place, place], "-", color=colour)
        axes.plot([row["difference"]], [place], marker, color=colour, label=name)
