"""Chooses thresholds on the calibration split, on arrays.

The rule is the plainest honest one: the smallest threshold (the most exits) whose agreement with the full model on
the calibration split is at least a level. No guarantee is claimed for the test split.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

NEVER = 1.0  # a confidence never exceeds 1, so no token leaves: "run at full depth"


def agreement_curve(run: pd.DataFrame, full: pd.DataFrame) -> list[dict[str, float]]:
    """Per threshold, the share of examples whose text equals the full model's.

    Args:
        run: `example_id, threshold, text` of a policy's calibration run.
        full: the same of the full model, one row per example.
    """
    reference = full.set_index("example_id")["text"]
    equal = run["text"].eq(run["example_id"].map(reference))
    grouped = equal.groupby(run["threshold"])
    return [
        {"threshold": float(threshold), "agreement": float(group.mean()), "examples": len(group)}
        for threshold, group in grouped
    ]


def smallest_threshold(curve: Sequence[dict[str, float]], level: float) -> float | None:
    """The smallest threshold whose agreement is at least `level`; None if there is none."""
    return min((point["threshold"] for point in curve if point["agreement"] >= level), default=None)


def calibrate(run: pd.DataFrame, full: pd.DataFrame, level: float, never: float = NEVER) -> dict[str, Any]:
    """The calibrated threshold of a run and how it was found; `never` with `passed: false` if none is good enough."""
    curve = agreement_curve(run, full)
    chosen = smallest_threshold(curve, level)
    return {
        "threshold": never if chosen is None else chosen,
        "passed": chosen is not None,
        "agreement_level": level,
        "curve": curve,
    }
