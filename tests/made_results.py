"""A made-up table of results: quality falls as compute is saved."""

import numpy as np
import pandas as pd

from early_exit.base.records import METRICS, RESULTS_COLUMNS

SWEEP = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
FILLS = {"tiny-transformer": ("copy", "propagate"), "tiny-mamba": ("skip", "propagate")}
HEADS = ("calm", "ffn", "mamba")
DEPTH = 16


def results_row(backbone, dataset, policy, head, fill, threshold, saved, quality):
    """A row of results.csv with intervals of a plausible width and every metric of the dataset at `quality`."""
    row = dict.fromkeys(RESULTS_COLUMNS, np.nan)
    row |= {"preset": "tiny", "backbone": backbone, "dataset": dataset, "policy": policy, "head": head}
    row |= {"state_fill": fill, "setting": threshold, "calibrated": bool(head) and threshold == 0.9}
    row |= {"fallback": False, "promises": "same-answer" if row["calibrated"] else np.nan}
    for metric in METRICS[dataset]:
        row |= {metric: quality, f"{metric}_low": quality - 6, f"{metric}_high": min(100, quality + 6)}
    return row | {"flops_saved": saved, "flops_saved_low": saved - 0.02, "flops_saved_high": saved + 0.02}


def make_results(backbones=FILLS, datasets=tuple(METRICS)):
    """Made-up results in the shape of a real table: quality falls as compute is saved, pruning falls faster."""
    rows = []
    for backbone in backbones:
        for dataset in datasets:
            rows.append(results_row(backbone, dataset, "full", "", "", 1.0, 0.0, 92.0))
            for drop in (1, 2, 4, 6, 8):
                saved = drop / DEPTH * 0.9
                rows.append(results_row(backbone, dataset, "pruned", "", "", drop, saved, 92 * (1 - saved) ** 3))
            for h, head in enumerate(HEADS):
                for fill in FILLS[backbone]:
                    for threshold in SWEEP:
                        most = 0.42 - 0.03 * h - (0.12 if (fill, backbone) == ("propagate", "tiny-mamba") else 0.02)
                        saved = most * (1.02 - threshold) ** (0.3 + 0.1 * h) - 0.02 * h
                        quality = 92 - 70 * saved * (0.4 if fill == "propagate" else 1) / (1 + h / 2)
                        rows.append(
                            results_row(backbone, dataset, f"{head}-{fill}", head, fill, threshold, saved, quality)
                        )
    return pd.DataFrame(rows, columns=list(RESULTS_COLUMNS))
