"""Budgets: what a row has spent, and the aims with which a budget comes out.

An answer that ends leaves its account unsettled, and tokens late in an answer are surer than early ones. Aiming at the
budget itself misses it, in short answers by hundredths and always to one side. `aims` applies the rule beforehand to
the full model's answers to the calibration questions, and searches the aim at which they cost the budget. How an
earlier exit changes later confidences is not in it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from early_exit.base.errors import InputError
from early_exit.costs.passes import CostTable, ExitPrice, flops, generation_flops
from early_exit.experiment.config.policies import BudgetedThreshold
from early_exit.policies.measured import MeasuredConfidences
from early_exit.policies.thresholds import Budget

HALVINGS = 12  # of the range that is searched for an aim: to 0.0002 of the full model's FLOPs

Points = Sequence[Mapping[str, float]]


@dataclass
class _Row:
    """A row as `Budget` reads it."""

    setting: float
    prompt_tokens: int
    exit_blocks: list[int]
    token_ids: list[int] = field(default_factory=lambda: [0])


def spending(table: CostTable, price: ExitPrice) -> Callable:
    """A function for `Budget`: rows to their FLOPs so far, the full model's so far, and its on the coming token."""

    def spend(rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        prompt_tokens = [row.prompt_tokens for row in rows]
        exit_blocks = [row.exit_blocks for row in rows]
        counted = generation_flops(table, prompt_tokens=prompt_tokens, exit_blocks=exit_blocks, price=price)
        context = np.array([row.prompt_tokens + len(row.token_ids) for row in rows])
        coming = table["depth"] * flops(table["block"], context) + flops(table["lm_head"])
        return counted["flops"], counted["flops_full"], coming

    return spend


def rule(
    points: Points, table: CostTable, price: ExitPrice, horizon: float,
    aims: Sequence[Mapping[str, float]] = (),
) -> Budget:  # fmt: skip
    """The rule by a plan's curve; `aims` have a `budget` and its `aim`. A budget without one is its own aim."""
    shares, thresholds = ([point[name] for point in points] for name in ("share", "threshold"))
    aimed = {entry["budget"]: entry["aim"] for entry in aims}
    return Budget(thresholds, shares, spending(table, price), horizon, aimed)


def aims(measured: MeasuredConfidences, given: BudgetedThreshold, points: Points) -> list[dict[str, float]]:
    """For each `budget` of a policy its `aim`, and the `share` of the full model's FLOPs that the answers then cost."""
    budget_rule = rule(points, measured.table, measured.price, given.horizon)
    budgets, shares = np.array(given.budgets, dtype=float), [point["share"] for point in points]
    low, high = np.full(len(budgets), min(shares)), np.full(len(budgets), max(shares))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_less = run(measured, middle, budget_rule) < budgets
        low, high = np.where(is_less, middle, low), np.where(is_less, high, middle)
    middle = (low + high) / 2
    columns = zip(budgets, middle, run(measured, middle, budget_rule), strict=True)
    return [dict(zip(("budget", "aim", "share"), map(float, row), strict=True)) for row in columns]


def run(measured: MeasuredConfidences, aims: Sequence[float], budget_rule: Budget) -> np.ndarray:
    """FLOPs over the full model's when the rule decides on the measured answers, at each of `aims`: (aims,)."""
    exits, depth = list(measured.price.exits), measured.table["depth"]
    passes = np.split(measured.confidence, np.searchsorted(measured.answer, np.arange(1, len(measured.prompt_tokens))))
    rows = [[_Row(aim, int(tokens), [depth]) for tokens in measured.prompt_tokens] for aim in aims]
    running = [(row, sure) for same in rows for row, sure in zip(same, passes, strict=True) if len(sure)]
    while running:
        thresholds = budget_rule([row for row, _ in running], len(exits)).numpy()
        for (row, sure), above in zip(running, thresholds, strict=True):
            leaves = sure[len(row.exit_blocks) - 1] > above
            row.exit_blocks.append(exits[leaves.argmax()] if leaves.any() else depth)
            row.token_ids.append(0)
        running = [(row, sure) for row, sure in running if len(row.exit_blocks) <= len(sure)]
    totals = [[part.sum() for part in budget_rule.spend(same)[:2]] for same in rows]
    return np.array([spent / full for spent, full in totals])


def check(name: str, budgets: Sequence[float], points: Points) -> None:
    """InputError if a budget is below what is spent when every token leaves as early as it can."""
    least = min(point["share"] for point in points)
    if budgets[0] < least:
        raise InputError(
            f"config key 'policies.{name}.budgets': {budgets[0]:g} cannot be met, leaving as early as can be takes "
            f"{least:.3f} of the full model's FLOPs; raise it, or take earlier exits or a cheaper state fill"
        )
