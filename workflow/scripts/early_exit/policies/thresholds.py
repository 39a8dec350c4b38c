"""Thresholds that adapt: from a row's setting, and what it has generated so far, to its thresholds in the coming step.

Every rule is a function of the row alone, so that results do not depend on batches. `Budget` pays for that: a row
cannot make up for what another has spent, but balances its account within its own answer. A budget shared by all rows
would be met more exactly, but each answer would depend on those before it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from early_exit.policies.base import Row


class Same:
    """The setting itself, for all tokens and exits."""

    def __call__(self, rows: Sequence[Row], exits: int) -> Tensor:
        """Thresholds of the coming step, (rows, exits)."""
        return torch.tensor([self.level(row) for row in rows])[:, None].expand(-1, exits)

    def level(self, row: Row) -> float:
        """A row's threshold where it is the same at all exits."""
        return row.setting


class Decay(Same):
    """CALM's decaying threshold (arXiv 2207.07061): clip(0.9 L + 0.1 exp(-temperature t / N), 0, 1).

    Args:
        temperature: how fast it falls.
        tokens: N, the most tokens of an answer. t counts them from 0; token 0 comes from the prompt's pass.
    """

    def __init__(self, temperature: float, tokens: int):
        self.temperature, self.tokens = temperature, tokens

    def level(self, row):
        decayed = math.exp(-self.temperature * len(row.token_ids) / self.tokens)
        return min(max(0.9 * row.setting + 0.1 * decayed, 0.0), 1.0)


class PerExit(Same):
    """One threshold for each exit: `vectors` are by setting; see `plan` for how they are chosen."""

    def __init__(self, vectors: Mapping[float, Sequence[float]]):
        self.vectors = vectors

    def __call__(self, rows, exits):
        # A setting without a vector is the one at which no row leaves: no confidence exceeds 1.
        return torch.tensor([self.vectors.get(row.setting, [1.0] * exits) for row in rows])


class Budget(Same):
    """Sets a row's threshold so that its answer costs the share of the full model's FLOPs that its setting names.

    A row keeps account of its own decode passes, in the FLOPs that `costs` counts, checks and state fill included. What
    it has spent too little or too much so far is balanced over the next `horizon` tokens: the coming token is to cost
    the setting's share and its part of the balance. A table of expected shares by threshold, measured on the
    calibration split and interpolated linearly, gives the threshold for that. So a token costs its share in the mean,
    as far as the table is true of the row; where it is not, the next tokens balance the difference.

    Args:
        thresholds: ascending.
        shares: expected FLOPs of decode passes at each, over the full model's; ascending, too.
        spend: from rows to three arrays (rows,): their FLOPs so far, the full model's so far, and the full model's on
            the coming token.
        horizon: tokens.
        aims: by setting, the share to aim at so that the answers cost the setting's (see `budget.aims`); a setting
            without one is its own aim.
    """

    def __init__(
        self, thresholds: Sequence[float], shares: Sequence[float],
        spend: Callable[[Sequence[Row]], tuple[Any, Any, Any]], horizon: float,
        aims: Mapping[float, float] | None = None,
    ):  # fmt: skip
        self.table, self.spend, self.horizon, self.aims = (shares, thresholds), spend, horizon, aims or {}

    def __call__(self, rows, exits):
        spent, full, coming = self.spend(rows)
        budgets = np.array([self.aims.get(row.setting, row.setting) for row in rows])
        wanted = budgets + (budgets * full - spent) / (self.horizon * coming)
        levels = np.interp(wanted, *self.table)
        return torch.tensor(levels, dtype=torch.float32)[:, None].expand(-1, exits)
