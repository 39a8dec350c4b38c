"""The policy that an entry of the config means, made of what it goes by: trained heads, plans, another policy's run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from early_exit.experiment import policy_kinds
from early_exit.heads import store
from early_exit.models.backbone import Backbone
from early_exit.policies import budget, confidences, forced, thresholds
from early_exit.policies.base import FullDepth, Policy


@dataclass(frozen=True)
class Given:
    """What a policy may need beside its entry in the config.

    `head_folder` is its recipe's folder; `plan` what rule `adapt` wrote for it; `rates` the shares of exits, by
    setting, of the run that `random` matches; `max_new_tokens` and `seed` are the run's.
    """

    manifest: Mapping[str, Any]
    exits: Sequence[int]
    max_new_tokens: int
    seed: int
    head_folder: Path | None = None
    plan: Mapping[str, Any] | None = None
    rates: Mapping[float, Sequence[float]] | None = None


def build(policy: Mapping[str, Any], backbone: Backbone, given: Given) -> Policy:
    """The policy of an entry on a whole backbone: whatever its kind lets leave, else the full depth."""
    kind = policy["kind"]
    if kind == "fixed":
        return forced.FixedExit(given.exits)
    if kind == "random":
        return forced.RandomExit(given.exits, given.rates, given.seed)
    if kind == "head":
        trained = store.load(given.head_folder, policy["head"], given.manifest)
        trained = trained.to(backbone.device, backbone.model.dtype)
        return confidences.HeadConfidence(trained, policy["head_state"], _thresholds(policy, given))
    if kind not in policy_kinds.UNTRAINED:
        return FullDepth()
    lm_head = [] if kind == "saturation" else [backbone.logits]
    return confidences.UNTRAINED[kind](given.exits, *lm_head, _thresholds(policy, given))


def _thresholds(policy: Mapping[str, Any], given: Given) -> thresholds.Same:
    """How its thresholds come about. Without a plan, as while one is measured, they are the setting."""
    adapt, plan = policy.get("adapt"), given.plan
    if adapt == "decay":
        return thresholds.Decay(policy["temperature"], given.max_new_tokens)
    if adapt == "per-exit" and plan:
        return thresholds.PerExit({entry["setting"]: entry["thresholds"] for entry in plan["settings"]})
    if adapt == "budget" and plan:
        costs = policy_kinds.counted(policy, given.exits)
        return budget.rule(plan["curve"], plan["costs"], costs, policy["horizon"], plan["aims"])
    return thresholds.Same()
