"""What kinds of policies there are, as far as config, calibration and costs have to know: no torch here.

A policy's settings are numbers: thresholds on a confidence, computation to meet, exits in a row, exits, blocks dropped.
They stand in column `setting` of every table, and this is the one place that says what they mean: which key lists
them, and which of two is safer (leaves later, and so is closer to the full model).

How a threshold comes about is said by key `adapt` of those kinds whose confidence is a number on a scale:

- `none`: the setting is the threshold, the same for all tokens and exits.
- `decay`: it falls over the answer, from 0.9 L + 0.1 at its beginning (CALM, arXiv 2207.07061, its decaying threshold).
- `per-exit`: one threshold for each exit; settings are shares of tokens that must stay the full model's.
- `budget`: it is steered within each answer; settings are shares of the full model's computation to spend.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Policy = Mapping[str, Any]

GRADED = ("head", "softmax", "margin", "saturation")  # confidences on a scale, which thresholds may adapt to
UNTRAINED = ("softmax", "margin", "saturation", "patience")  # confidences that need no training
LOGIT_CHECKS = ("softmax", "margin", "patience")  # a check is the final norm and the LM head
ASKING = (*GRADED, "patience")  # what is asked at an exit decides, so a setting can be calibrated
PLAIN = ("full", "oracle", "pruned", "self-speculative", "head")  # what the paper's own figures show
KINDS = (*PLAIN, *UNTRAINED, "fixed", "random")
ADAPTS = ("none", "decay", "per-exit", "budget")
PLANNED = ("per-exit", "budget")  # go by confidences that are measured on the calibration split


def settings(policy: Policy, exits: Sequence[int]) -> list[float]:
    """What a policy is run at, ascending; `exits` are its backbone's. Of `random` none: the run it matches has them."""
    kind = policy["kind"]
    if kind in GRADED:
        return list(policy[{"per-exit": "levels", "budget": "budgets"}.get(policy["adapt"], "thresholds")])
    given = {"pruned": policy.get("drop"), "patience": policy.get("patience"), "fixed": exits, "random": [],
             "self-speculative": policy.get("draft_tokens")}  # fmt: skip
    return list(given.get(kind, [1.0]))


def setting_kind(policy: Policy) -> str:
    """What a policy's settings are, as column `setting_kind` says it. Of `random` the run that it matches says it."""
    kind = policy["kind"]
    if kind in GRADED:
        return {"per-exit": "level", "budget": "budget"}.get(policy["adapt"], "threshold")
    named = {"pruned": "blocks dropped", "self-speculative": "tokens drafted", "patience": "exits in a row",
             "fixed": "exit block"}  # fmt: skip
    return named.get(kind, "none")


def safest_first(policy: Policy, values: Iterable[float]) -> list[float]:
    """Settings in the order in which they come ever less close to the full model: the largest first.

    The order is known before any answer is looked at, and what calibration promises rests on that.

    For pruning the fewest dropped blocks come first. For all others a larger setting never lets a token leave earlier
    in the same place: a higher threshold, more exits that must agree, a deeper exit, more tokens that must stay the
    full model's, more computation to spend.
    """
    return sorted(values, reverse=policy["kind"] != "pruned")


def is_calibrated(policy: Policy) -> bool:
    """Whether a setting is chosen on the calibration split: not where the user says what is spent."""
    return policy["kind"] in ASKING and policy.get("adapt") != "budget"


def is_planned(policy: Policy) -> bool:
    """Whether it goes by confidences measured on the full model's answers to the calibration split."""
    return policy.get("adapt") in PLANNED


def counted(policy: Policy, exits: Sequence[int]) -> dict[str, Any]:
    """The options of `costs.generation_flops` for a policy: what it runs at its exits, and for blocks it skips."""
    named = {name: policy.get(name) for name in ("head", "state_fill")}
    check = policy["kind"] if policy["kind"] in UNTRAINED else None
    return named | {"head_state": policy.get("head_state") or "skip", "check": check, "exits": list(exits)}


def is_plain(policy: Policy) -> bool:
    """Whether it is one of the paper's: heads with one threshold, pruning, the full model, and the oracle."""
    return policy["kind"] in PLAIN and policy.get("adapt") in (None, "none")
