"""What kinds of policies there are, as far as calibration has to know: no torch here.

A policy is run at settings: thresholds, or for pruning numbers of blocks dropped. The safest is the one from which the
answers are expected to be the full model's; the order is known before any answer is looked at, and what calibration
promises rests on that.
"""

from collections.abc import Iterable, Mapping
from typing import Any

Policy = Mapping[str, Any]


def is_calibrated(policy: Policy) -> bool:
    """Whether a setting is chosen on the calibration split."""
    return policy["kind"] == "head"


def safest_first(policy: Policy, values: Iterable[float]) -> list[float]:
    """Settings in the order in which they come ever less close to the full model: the largest first.

    For pruning the fewest dropped blocks come first.
    """
    return sorted(values, reverse=policy["kind"] != "pruned")
