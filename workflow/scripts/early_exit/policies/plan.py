"""What an adaptive policy goes by: its confidences on the full model's answers to calibration questions.

Measured is a table with a row for each decode pass of these answers: the confidence at each exit, and whether the
exit's most probable token is the full model's. From it follows, for any thresholds, where each pass would leave, what
that costs, and how many tokens would differ. Hidden states are the full model's: what earlier exits leave behind in
caches, and other tokens that follow a first different one, are not in it. So it is no forecast of quality; it is what
thresholds are chosen by, before they are tried.

`budget` takes a curve, the expected share of FLOPs over one threshold for all exits, and what to aim at (`steering`).
`per-exit` takes a vector of thresholds for each level: the cheapest found whose passes keep the full model's token in
at least that share. It is chosen on one half of the calibration split's groups (conversations, in CoQA; elsewhere
examples) and leaves the other half to `calibrate`, which may not see what a vector was fitted to (Pareto testing: arXiv
2210.07913).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd

from early_exit.base.errors import InputError
from early_exit.costs.passes import generation_flops
from early_exit.policies import budget

POINTS = 101  # thresholds of the curve
TRADES = np.geomspace(0.01, 100.0, 41)  # FLOPs of full passes that a different token weighs
SWEEPS = 20  # over the exits, at most: it ends where no threshold changes


@dataclass(frozen=True)
class Measured:
    """Confidences of a policy on answers of the full model.

    `confidence` and `agreement` are (passes, exits), `answer` (passes,) is the row of each pass in `prompt_tokens`
    (answers,), ascending; `costs` are `generation_flops`' options for this policy, `table` its cost table.
    """

    confidence: np.ndarray
    agreement: np.ndarray
    answer: np.ndarray
    prompt_tokens: np.ndarray
    table: Mapping[str, Any]
    costs: Mapping[str, Any]

    def leaves(self, thresholds: np.ndarray) -> np.ndarray:
        """The exit (0-based) that each pass leaves at with these thresholds (exits,); the number of exits: none."""
        above = np.hstack([self.confidence > thresholds, np.ones((len(self.confidence), 1), bool)])
        return above.argmax(axis=1)

    def kept(self, left: np.ndarray) -> float:
        """Share of passes that give the full model's token if they leave there."""
        return float(self._right[np.arange(len(left)), left].mean())

    def share(self, left: np.ndarray) -> float:
        """FLOPs of the decode passes over the full model's, if they leave there."""
        blocks = np.append(self.costs["exits"], self.table["depth"])[left]
        answers = np.split(blocks, np.searchsorted(self.answer, np.arange(1, len(self.prompt_tokens))))
        runs = [[self.table["depth"], *answer] for answer in answers]
        counted = generation_flops(self.table, prompt_tokens=self.prompt_tokens, exit_blocks=runs, **self.costs)
        return float(counted["flops"].sum() / counted["flops_full"].sum())

    def prices(self) -> np.ndarray:
        """FLOPs of each pass by the exit it leaves at, the last column at none: (passes, exits + 1), in full passes.

        Each by itself: what a later token of its row makes a deferred one run on is not in it.
        """
        first = np.searchsorted(self.answer, self.answer)  # of the passes of the same answer
        context = self.prompt_tokens[self.answer] + np.arange(len(self.answer)) - first
        columns = []
        for block in (*self.costs["exits"], self.table["depth"]):
            runs = [[self.table["depth"], block]] * len(context)
            counted = generation_flops(self.table, prompt_tokens=context, exit_blocks=runs, **self.costs)
            columns.append(counted["flops"] / counted["flops_full"])
        return np.stack(columns, axis=1)

    @property
    def _right(self) -> np.ndarray:
        return np.hstack([self.agreement, np.ones((len(self.agreement), 1), bool)])


def plan(name: str, policy: Mapping[str, Any], measured: Measured) -> dict[str, Any]:
    """What rule `adapt` hands over for the policy `name` (schemas/adaptive.schema.yaml).

    InputError if there was no decode pass to measure, or a budget cannot be met.
    """
    if not len(measured.answer):
        raise InputError(f"policy {name}: the full model's answers to the calibration questions are one token long; "
                         "nothing can be chosen on them; give more questions (examples.calibration)")  # fmt: skip
    points, aims = curve(measured), []
    if policy["adapt"] == "budget":
        budget.check(name, policy["budgets"], points)
        aims = budget.aims(measured, policy, points)
    return {
        "adapt": policy["adapt"],
        "answers": len(measured.prompt_tokens),
        "passes": len(measured.answer),
        "curve": points,
        "aims": aims,
        "settings": per_exit(measured, policy["levels"]) if policy["adapt"] == "per-exit" else [],
        "costs": dict(measured.table),
    }


def curve(measured: Measured) -> list[dict[str, float]]:
    """Over one threshold for all exits, ascending from where all leave to where none does: share, agreement."""
    lowest = min(0.0, float(measured.confidence.min()))
    middle = np.quantile(measured.confidence, np.linspace(0.0, 1.0, POINTS))
    points = []
    for threshold in np.unique([lowest, *middle[middle < 1.0], 1.0]):
        left = measured.leaves(np.full(measured.confidence.shape[1], threshold))
        points.append({"threshold": float(threshold), **_outcome(measured, left)})
    return points


def per_exit(measured: Measured, levels: Sequence[float]) -> list[dict[str, Any]]:
    """For each level the vector of thresholds, one for each exit, that is cheapest of those found and keeps to it."""
    found = [(_outcome(measured, measured.leaves(one)), one) for one in _candidates(measured)]
    settings = []
    for level in levels:
        kept = [(outcome, vector) for outcome, vector in found if outcome["agreement"] >= level]
        outcome, vector = min(kept, key=lambda one: one[0]["share"])
        settings.append({"setting": float(level), "thresholds": vector.tolist(), **outcome})
    return settings


def _candidates(measured: Measured) -> Iterator[np.ndarray]:
    """Vectors of thresholds: those of the curve, and for each trade-off the one that descent from the best ends in.

    Of FLOPs, and different tokens weighed by the trade-off, the sum is lowered exit by exit: with the others fixed, the
    best threshold of one exit is found exactly, by sorting. It ends in a minimum that no single exit can lower.
    """
    exits = measured.confidence.shape[1]
    common = [np.full(exits, point["threshold"]) for point in curve(measured)]
    yield from common
    prices, wrong = measured.prices(), ~measured._right
    chosen = [measured.leaves(vector) for vector in common]
    passes = np.arange(len(prices))
    for trade in TRADES:
        losses = prices + trade * wrong
        best = min(range(len(common)), key=lambda k: losses[passes, chosen[k]].sum())
        vector = common[best].copy()
        for _ in range(SWEEPS):
            before = vector.copy()
            for k in range(exits):
                vector[k] = _best_threshold(measured.confidence, losses, vector, k)
            if np.array_equal(before, vector):
                break
        yield vector


def _best_threshold(confidence: np.ndarray, losses: np.ndarray, vector: np.ndarray, k: int) -> float:
    """The threshold of exit `k` with the least loss, those of the other exits given; the higher of equals.

    It lies in the middle between two confidences, so that neither is on its edge; 1, which none exceeds, if none shall.
    """
    asked = ~(confidence[:, :k] > vector[:k]).any(axis=1)
    if not asked.any():
        return float(vector[k])
    later = np.hstack([confidence[asked, k + 1 :] > vector[k + 1 :], np.ones((asked.sum(), 1), bool)])
    staying = losses[asked, k + 1 + later.argmax(axis=1)]
    order = np.argsort(-confidence[asked, k], kind="stable")
    values = confidence[asked, k][order]
    gains = np.append(0.0, np.cumsum((staying - losses[asked, k])[order]))  # of the first m leaving
    cuts = np.flatnonzero(np.append(np.append(True, values[1:] < values[:-1]), True))  # equals leave together, or none
    m = int(cuts[gains[cuts].argmax()])
    if m == 0:
        return 1.0
    below = values[m] if m < len(values) else max(-1.0, min(0.0, values[-1] - 1e-3))
    return float((values[m - 1] + below) / 2)


def _outcome(measured: Measured, left: np.ndarray) -> dict[str, float]:
    return {"share": measured.share(left), "agreement": measured.kept(left)}


def chosen_on(examples: pd.DataFrame, seed: int) -> pd.Series:
    """Which examples thresholds are chosen on (bool, by row): half of their groups, by a hash of their names."""
    groups = sorted(set(examples["group_id"]), key=lambda name: blake2b(f"{seed}:{name}".encode()).digest())
    return examples["group_id"].isin(groups[: (len(groups) + 1) // 2])
