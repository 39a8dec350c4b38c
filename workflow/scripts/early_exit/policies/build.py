"""The exit policy that an entry of the config describes, made from trained heads, plans, or another policy's run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from early_exit.base.errors import InputError
from early_exit.base.records import Manifest
from early_exit.experiment.config import policies as kinds
from early_exit.heads import store
from early_exit.models.backbone import Backbone
from early_exit.policies import budget, confidences, forced, thresholds
from early_exit.policies.base import FullDepth, Policy
from early_exit.sources import user_code


@dataclass(frozen=True)
class Given:
    """What a policy may need beside its entry in the config.

    `head_folder` is its recipe's folder; `plan` what rule `adapt` wrote for it; `rates` the shares of exits, by
    setting, of the run that `random` matches; `max_new_tokens` and `seed` are the run's.
    """

    manifest: Manifest
    exits: Sequence[int]
    max_new_tokens: int
    seed: int
    head_folder: Path | None = None
    plan: Mapping[str, Any] | None = None
    rates: Mapping[float, Sequence[float]] | None = None


def build(policy: kinds.Policy, backbone: Backbone, given: Given) -> Policy:
    """The policy of an entry, for a whole backbone; a kind whose tokens never leave runs at full depth."""
    for kind, builder in BUILDERS.items():
        if isinstance(policy, kind):
            return builder(policy, backbone, given)
    return FullDepth()


def _fixed(policy: kinds.Fixed, backbone: Backbone, given: Given) -> Policy:
    return forced.FixedExit(given.exits)


def _random(policy: kinds.Random, backbone: Backbone, given: Given) -> Policy:
    return forced.RandomExit(given.exits, given.rates, given.seed)


def _head(policy: kinds.TrainedHead, backbone: Backbone, given: Given) -> Policy:
    trained = store.load(given.head_folder, policy.head, given.manifest)
    trained = trained.to(backbone.device, backbone.model.dtype)
    return confidences.HeadConfidence(trained, policy.head_state, _thresholds(policy, given))


def _untrained(policy: kinds.Untrained, backbone: Backbone, given: Given) -> Policy:
    return _confidence(confidences.UNTRAINED[policy.kind], policy, backbone, given)


def _from_file(policy: kinds.FilePolicy, backbone: Backbone, given: Given) -> Policy:
    kind = user_code.load_class(policy.kind)
    if not issubclass(kind, confidences.Confidence):
        raise InputError(f"kind '{policy.kind}': is no subclass of early_exit.Confidence")
    try:
        return _confidence(kind, policy, backbone, given, **policy.options)
    except TypeError as error:
        raise InputError(f"kind '{policy.kind}': cannot be made with {policy.options} ({error})") from error


def _confidence(
    kind: type[confidences.Confidence], policy: kinds.Policy, backbone: Backbone, given: Given, **options: Any
) -> Policy:
    lm_head = [backbone.logits] if issubclass(kind, confidences.LogitConfidence) else []
    return kind(given.exits, *lm_head, _thresholds(policy, given), **options)


BUILDERS: dict[type[kinds.Policy], Callable[..., Policy]] = {
    kinds.Fixed: _fixed,
    kinds.Random: _random,
    kinds.TrainedHead: _head,
    kinds.FilePolicy: _from_file,
    kinds.Untrained: _untrained,
}


def _thresholds(policy: kinds.Policy, given: Given) -> thresholds.Same:
    """How its thresholds follow from its setting. Without a plan, as while one is measured, they are the setting."""
    rule, plan = getattr(policy, "rule", None), given.plan
    if isinstance(rule, kinds.DecayingThreshold):
        return thresholds.Decay(rule.temperature, given.max_new_tokens)
    if isinstance(rule, kinds.ThresholdPerExit) and plan:
        return thresholds.PerExit({entry["setting"]: entry["thresholds"] for entry in plan["settings"]})
    if isinstance(rule, kinds.BudgetedThreshold) and plan:
        return budget.rule(plan["curve"], plan["costs"], policy.price(given.exits), rule.horizon, plan["aims"])
    return thresholds.Same()
