"""The figure of static pruning: the scores of blocks, and the blocks that each rule drops."""

from collections.abc import Mapping
from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from early_exit.report.style import LOOKS, WIDTH, draws_figure, present_rows

ROW, MARGINS = 0.13, 0.95  # inches: of one set of blocks; of a backbone's title and labels
LEAST = 1.5  # inches of the panels of scores


@draws_figure
def pruned_blocks(scores: pd.DataFrame, chosen: pd.DataFrame) -> Figure:
    """A row of panels per backbone: block influence, angular distance of stretches, and the dropped blocks.

    `scores` is block_scores.csv, `chosen` pruned_blocks.csv. Stretches are drawn of the lengths that some policy drops.
    """
    scores, chosen = present_rows(scores, "block_scores.csv"), present_rows(chosen, "pruned_blocks.csv")
    chosen = chosen.drop_duplicates(["backbone", "by", "dropped"])
    backbones = list(chosen["backbone"].unique())
    heights = [max(LEAST, ROW * (chosen["backbone"] == name).sum()) + MARGINS for name in backbones]
    figure = Figure(figsize=(WIDTH, sum(heights)))
    panels = figure.subplots(len(backbones), 3, squeeze=False, height_ratios=heights, width_ratios=[3, 3, 4])
    for (influence, angle, dropped), backbone in zip(panels, backbones, strict=True):
        rows, sets = scores[scores["backbone"] == backbone], chosen[chosen["backbone"] == backbone]
        single = rows[rows["by"] == "block-influence"]
        influence.plot(single["block"], single["score"], "-o", color=LOOKS[0][0])
        influence.set(yscale="log", xlabel="block", title="block influence (1 - cosine)")
        influence.set_ylabel(backbone, fontweight="bold")
        _angles(angle, rows[rows["by"] == "angular"], sorted(sets["dropped"].unique()))
        losses = rows[rows["by"] == "one-by-one"].groupby("dropped")["score"].min()
        _map(dropped, sets, dict(losses), single["block"].max())
    return figure


def _angles(axes: Axes, angles: pd.DataFrame, lengths: list[int]) -> None:
    """Draws the distance of every stretch of each length, by its first block; the least one is filled."""
    for length, (colour, marker) in zip(lengths, cycle(LOOKS), strict=False):
        line = angles[angles["dropped"] == length].sort_values("block")
        style = {"color": colour, "marker": marker}
        axes.plot(line["block"], line["score"], markerfacecolor="white", markersize=3, label=f"{length}", **style)
        best = line.loc[line["score"].idxmin()]
        axes.plot([best["block"]], [best["score"]], markersize=6, **style)
    axes.set(title="angular distance (half turns)", xlabel="first block of the stretch", ylim=(0, None))
    axes.legend(title="blocks", title_fontsize=7, ncols=2, columnspacing=1)


def _map(axes: Axes, sets: pd.DataFrame, losses: Mapping[int, float], depth: int) -> None:
    """Draws a line for each set, with a square at each dropped block; labels of one-by-one have the remaining loss."""
    labels = []
    for place, row in enumerate(sets.sort_values(["by", "dropped"]).itertuples()):
        blocks = [int(block) for block in row.blocks.split()]
        axes.plot(range(1, depth + 1), [place] * depth, "|", color="#BFBFBF", markersize=3)
        axes.plot(blocks, [place] * len(blocks), "s", color="#404040", markersize=4)
        loss = f", loss {losses[row.dropped]:.2f}" if row.by == "one-by-one" else ""
        labels.append(f"{row.by} {row.dropped}{loss}")
    axes.set_yticks(range(len(labels)), labels, fontsize=6)
    axes.set(title="blocks that go", xlabel="block", xlim=(0, depth + 1), ylim=(len(labels) - 0.4, -0.6))
    axes.grid(visible=False)
