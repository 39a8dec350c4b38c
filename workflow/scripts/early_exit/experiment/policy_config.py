"""What a config says of policies, beyond what a schema can: references, orders, groups.

Part of `config`, so it must not need torch.

Policies that a preset's section `groups` names do not run by default: `group` asks for those of one group, or of all.
Whatever stands in no group always runs, so that a policy of the user's own needs no entry there.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from early_exit.base.errors import hint
from early_exit.experiment import policy_kinds

Config = Mapping[str, Any]
Problem = tuple[tuple[str | int, ...], Any, str]
BY_DEFAULT, ALL = "default", "all"


def complete(config: Config) -> None:
    """Fill in what follows from other keys: thresholds from the top level, of `random` what it shares with its match,
    and with all policies all datasets."""
    for policy in config["policies"].values():
        if policy.get("thresholds", ()) is None:
            policy["thresholds"] = list(config["thresholds"])
    for policy in config["policies"].values():
        matched = config["policies"].get(policy.get("match"), {})
        if policy["kind"] == "random" and matched.get("state_fill"):
            policy |= {"state_fill": matched["state_fill"], "datasets": matched["datasets"]}
        if config["group"] == ALL and "datasets" in policy:
            policy["datasets"] = None


def problems(config: Config, user: Mapping[str, Any]) -> Iterator[Problem]:
    """Key, value and what is wrong with it, of policies and groups; `user` says what was taken away on purpose."""
    policies, gone = config["policies"], _taken_away(user, "policies")
    looked_at = select(config).keys() | (user.get("policies") or {}).keys()  # of the preset's, those that run
    for name, policy in policies.items():
        for key, value, why in _of_policy(policy, config, user) if name in looked_at else ():
            yield ("policies", name, *key), value, why
    for group, names in config["groups"].items():
        for i, name in enumerate(names):
            if name not in policies and name not in gone:
                yield ("groups", group, i), name, f"is unknown; {hint(name, list(policies))}"
            if policies.get(name, {}).get("kind") == "full":
                yield ("groups", group, i), name, "always runs; take it out of the group"
    known = [BY_DEFAULT, *config["groups"], ALL]
    if config["group"] not in known:
        yield ("group",), config["group"], f"is unknown; {hint(config['group'], known)}"


def select(config: Config) -> dict[str, Any]:
    """The policies that run, by name: those in no group, those of the group asked for, and what these match.

    What matches a policy that was taken away goes with it.
    """
    policies, groups = config["policies"], config["groups"]
    policies = {name: policy for name, policy in policies.items() if policy.get("match", name) in policies}
    asked = set(policies) if config["group"] == ALL else set(groups.get(config["group"], ()))
    asked |= policies.keys() - {name for names in groups.values() for name in names}
    asked |= {policies[name]["match"] for name in asked & policies.keys() if policies[name]["kind"] == "random"}
    return {name: policy for name, policy in policies.items() if name in asked}


def _of_policy(policy: Config, config: Config, user: Mapping[str, Any]) -> Iterator[Problem]:
    if policy["kind"] == "head":
        if policy["recipe"] not in config["recipes"]:
            yield ("recipe",), policy["recipe"], f"is unknown; {hint(policy['recipe'], list(config['recipes']))}"
        elif policy["head"] not in config["recipes"][policy["recipe"]]:
            yield ("head",), policy["head"], f"is unknown; {hint(policy['head'], config['recipes'][policy['recipe']])}"
    if policy["kind"] == "random":
        leaving = [name for name, other in config["policies"].items() if other["kind"] in policy_kinds.ASKING]
        if policy["match"] not in leaving and policy["match"] not in _taken_away(user, "policies"):
            yield ("match",), policy["match"], f"is no policy whose tokens leave; {hint(policy['match'], leaving)}"
    for key in ("thresholds", "levels", "budgets", "patience"):
        if policy.get(key) and not _ascending(policy[key]):
            yield (key,), policy[key], "must be ascending, without repeats"
    known = [*config["datasets"], *_taken_away(user, "datasets")]
    for i, name in enumerate(policy.get("datasets") or []):
        if name not in known:
            yield ("datasets", i), name, f"is unknown; {hint(name, list(config['datasets']))}"
    if policy.get("adapt") == "per-exit" and config["generation"]["repetition_penalty"] != 1.0:
        yield ("adapt",), "per-exit", "has no meaning under generation.repetition_penalty; take one of them away"


def _ascending(values: Sequence[float]) -> bool:
    return list(values) == sorted(set(values))


def _taken_away(user: Mapping[str, Any], section: str) -> set[str]:
    """Names that the user's config sets to null (text, from the command line)."""
    return {name for name, value in (user.get(section) or {}).items() if value in (None, "null")}
