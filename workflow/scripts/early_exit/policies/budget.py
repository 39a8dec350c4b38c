"""Budgets: what a row has spent, and what is aimed at so that a budget comes out.

An answer that ends leaves its account unsettled, and tokens late in it are surer than early ones. Who aims at the
budget itself misses it, in short answers by hundredths and to one side. `aims` runs the rule beforehand over the full
model's answers to the calibration questions, and finds what to aim at for them to cost the budget. What an earlier exit
changes in later confidences is not in it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from early_exit.base.errors import InputError
from early_exit.costs.passes import flops, generation_flops
from early_exit.policies import thresholds as adaptive

if TYPE_CHECKING:
    from early_exit.policies.plan import Measured

HALVINGS = 12  # of the range that is searched for an aim: to 0.0002 of the full model's FLOPs

Points = Sequence[Mapping[str, float]]


@dataclass
class _Row:
    """A row as `adaptive.Budget` sees it."""

    setting: float
    prompt_tokens: int
    exit_blocks: list[int]
    token_ids: list[int] = field(default_factory=lambda: [0])


def spending(table: Mapping[str, Any], costs: Mapping[str, Any]) -> Callable:
    """For `adaptive.Budget`: rows to FLOPs so far, and the full model's so far and on the coming token."""

    def spend(rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        prompt_tokens = [row.prompt_tokens for row in rows]
        counted = generation_flops(
            table, prompt_tokens=prompt_tokens, exit_blocks=[row.exit_blocks for row in rows], **costs
        )
        context = np.array([row.prompt_tokens + len(row.token_ids) for row in rows])
        coming = table["depth"] * flops(table["block"], context) + flops(table["lm_head"])
        return counted["flops"], counted["flops_full"], coming

    return spend


def rule(
    points: Points, table: Mapping[str, Any], costs: Mapping[str, Any], horizon: float,
    aims: Sequence[Mapping[str, float]] = (),
) -> adaptive.Budget:  # fmt: skip
    """The rule by a plan's curve; `aims` are `budget` and `aim`, a budget that is not among them is aimed at itself."""
    shares, thresholds = ([point[name] for point in points] for name in ("share", "threshold"))
    aimed = {entry["budget"]: entry["aim"] for entry in aims}
    return adaptive.Budget(thresholds, shares, spending(table, costs), horizon, aimed)


def aims(measured: "Measured", policy: Mapping[str, Any], points: Points) -> list[dict[str, float]]:
    """For each budget of a policy `aim`, and the `share` of the full model's FLOPs that these answers then cost."""
    steer = rule(points, measured.table, measured.costs, policy["horizon"])
    budgets, shares = np.array(policy["budgets"], dtype=float), [point["share"] for point in points]
    low, high = np.full(len(budgets), min(shares)), np.full(len(budgets), max(shares))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_less = run(measured, middle, steer) < budgets
        low, high = np.where(is_less, middle, low), np.where(is_less, high, middle)
    middle = (low + high) / 2
    columns = zip(budgets, middle, run(measured, middle, steer), strict=True)
    return [dict(zip(("budget", "aim", "share"), map(float, row), strict=True)) for row in columns]


def run(measured: "Measured", aimed: Sequence[float], steer: adaptive.Budget) -> np.ndarray:
    """FLOPs over the full model's when the measured answers are steered at each of `aimed`: (aims,)."""
    exits, depth = list(measured.costs["exits"]), measured.table["depth"]
    passes = np.split(measured.confidence, np.searchsorted(measured.answer, np.arange(1, len(measured.prompt_tokens))))
    rows = [[_Row(aim, int(tokens), [depth]) for tokens in measured.prompt_tokens] for aim in aimed]
    running = [(row, sure) for same in rows for row, sure in zip(same, passes, strict=True) if len(sure)]
    while running:
        thresholds = steer([row for row, _ in running], len(exits)).numpy()
        for (row, sure), above in zip(running, thresholds, strict=True):
            leaves = sure[len(row.exit_blocks) - 1] > above
            row.exit_blocks.append(exits[leaves.argmax()] if leaves.any() else depth)
            row.token_ids.append(0)
        running = [(row, sure) for row, sure in running if len(row.exit_blocks) <= len(sure)]
    totals = [[part.sum() for part in steer.spend(same)[:2]] for same in rows]
    return np.array([spent / full for spent, full in totals])


def check(name: str, budgets: Sequence[float], points: Points) -> None:
    """InputError if a budget is below what is spent when every token leaves as early as it can."""
    least = min(point["share"] for point in points)
    if budgets[0] < least:
        raise InputError(
            f"config key 'policies.{name}.budgets': {budgets[0]:g} cannot be met, leaving as early as can be takes "
            f"{least:.3f} of the full model's FLOPs; raise it, or take earlier exits or a cheaper state fill"
        )
