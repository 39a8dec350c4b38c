"""How adaptive policies get their thresholds: plans chosen from measured confidences (see `measured`).

`budget` takes a curve, the expected share of FLOPs over one threshold for all exits, and its aims (see `budget`).
`per-exit` takes a vector of thresholds for each level: the cheapest candidate whose passes give the full model's token
in at least that share. Vectors are chosen on one half of the calibration split's groups (conversations in CoQA, else
examples); the other half is left to rule calibrate, which may not see what a vector was fitted to (Pareto testing,
arXiv 2210.07913).
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd

from early_exit.base.errors import InputError
from early_exit.experiment.config.policies import BudgetedThreshold, Rule, ThresholdPerExit
from early_exit.policies import budget
from early_exit.policies.measured import MeasuredConfidences

POINTS = 101  # thresholds of the curve
TRADES = np.geomspace(0.01, 100.0, 41)  # FLOPs of full passes that a different token weighs
SWEEPS = 20  # over the exits, at most: the descent ends where no threshold changes


def plan(name: str, rule: Rule, measured: MeasuredConfidences) -> dict[str, Any]:
    """The plan that rule `adapt` writes for the policy `name` (schemas/adaptive.schema.yaml).

    InputError if there was no decode pass to measure, or a budget cannot be met.
    """
    if not len(measured.answer):
        raise InputError(
            f"policy {name}: the full model's answers to the calibration questions are one token long; nothing can be "
            "chosen on them; give more questions (examples.calibration)"
        )
    points, aims = curve(measured), []
    if isinstance(rule, BudgetedThreshold):
        budget.check(name, rule.budgets, points)
        aims = budget.aims(measured, rule, points)
    return {
        "adapt": rule.adapt,
        "answers": len(measured.prompt_tokens),
        "passes": len(measured.answer),
        "curve": points,
        "aims": aims,
        "settings": per_exit(measured, rule.levels) if isinstance(rule, ThresholdPerExit) else [],
        "costs": dict(measured.table),
    }


def part_of_plan(plan: Mapping[str, Any] | None, setting: float) -> dict[str, Any]:
    """What of a plan the answers at one setting depend on; empty without a plan.

    What a budget costs follows from the curve, which was measured with the same costs.
    """
    if plan is None:
        return {}
    vectors = [entry["thresholds"] for entry in plan["settings"] if entry["setting"] == setting]
    aims = [entry["aim"] for entry in plan["aims"] if entry["budget"] == setting]
    return {"thresholds": vectors, "aims": aims, "curve": plan["curve"] if aims else []}


def curve(measured: MeasuredConfidences) -> list[dict[str, float]]:
    """Share of FLOPs and agreement over one threshold for all exits, from where all leave to where none does."""
    lowest = min(0.0, float(measured.confidence.min()))
    middle = np.quantile(measured.confidence, np.linspace(0.0, 1.0, POINTS))
    points = []
    for threshold in np.unique([lowest, *middle[middle < 1.0], 1.0]):
        left = measured.leaves(np.full(measured.confidence.shape[1], threshold))
        points.append({"threshold": float(threshold), **_outcome(measured, left)})
    return points


def per_exit(measured: MeasuredConfidences, levels: Sequence[float]) -> list[dict[str, Any]]:
    """For each level the cheapest vector of thresholds, one for each exit, whose agreement is at least the level."""
    candidates = [(_outcome(measured, measured.leaves(vector)), vector) for vector in _candidates(measured)]
    settings = []
    for level in levels:
        agreeing = [(outcome, vector) for outcome, vector in candidates if outcome["agreement"] >= level]
        outcome, vector = min(agreeing, key=lambda candidate: candidate[0]["share"])
        settings.append({"setting": float(level), "thresholds": vector.tolist(), **outcome})
    return settings


def _candidates(measured: MeasuredConfidences) -> Iterator[np.ndarray]:
    """Vectors of thresholds: those of the curve, and for each trade-off the one in which descent from the best ends.

    The descent lowers the sum of FLOPs and of different tokens, weighed by the trade-off, exit by exit: with the others
    fixed, the best threshold of one exit follows exactly, by sorting. It ends where no single exit can lower the sum.
    """
    exits = measured.confidence.shape[1]
    common = [np.full(exits, point["threshold"]) for point in curve(measured)]
    yield from common
    prices, wrong = measured.prices(), ~measured.agreements()
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
    """The threshold of exit `k` with the least loss, given those of the other exits; the highest of equals.

    It lies in the middle between two confidences, so that neither is on its edge; it is 1, which no confidence exceeds,
    where no pass should leave at this exit.
    """
    reaching = ~(confidence[:, :k] > vector[:k]).any(axis=1)
    if not reaching.any():
        return float(vector[k])
    later = np.hstack([confidence[reaching, k + 1 :] > vector[k + 1 :], np.ones((reaching.sum(), 1), bool)])
    staying = losses[reaching, k + 1 + later.argmax(axis=1)]
    order = np.argsort(-confidence[reaching, k], kind="stable")
    values = confidence[reaching, k][order]
    gains = np.append(0.0, np.cumsum((staying - losses[reaching, k])[order]))  # of the first m leaving
    cuts = np.flatnonzero(np.append(np.append(True, values[1:] < values[:-1]), True))  # equals leave together, or none
    m = int(cuts[gains[cuts].argmax()])
    if m == 0:
        return 1.0
    below = values[m] if m < len(values) else max(-1.0, min(0.0, values[-1] - 1e-3))
    return float((values[m - 1] + below) / 2)


def _outcome(measured: MeasuredConfidences, left: np.ndarray) -> dict[str, float]:
    return {"share": measured.flops_share(left), "agreement": measured.agreement_share(left)}


def chosen_on(examples: pd.DataFrame, seed: int) -> pd.Series:
    """Whether thresholds are chosen on each example (bool, by row): on half of the groups, by a hash of their names."""
    groups = sorted(set(examples["group_id"]), key=lambda name: blake2b(f"{seed}:{name}".encode()).digest())
    return examples["group_id"].isin(groups[: (len(groups) + 1) // 2])
