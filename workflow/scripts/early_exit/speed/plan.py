"""What rule `measure_speed` needs for each backbone that the config's section `speed` names."""

from collections.abc import Mapping, Sequence
from typing import Any

from early_exit.base.errors import InputError, hint
from early_exit.experiment import policy_kinds
from early_exit.experiment.config import runs_on

Config = Mapping[str, Any]
SPECULATIVE = "self-speculative"
KINDS = (("mamba", "mamba-slim", "hybrid"), ("calm", "ffn", "ffn-slim"))  # of heads: with a state, without


def plan(config: Config, results: str) -> dict[str, list[dict[str, Any]]]:
    """For each backbone, a list of the datasets to measure on: names, settings, and the files that they come from.

    An entry has `dataset, max_new_tokens, data`; `drafts`, the exit block and the number of drafted tokens of each
    setting of self-speculation; and `heads`, a list of `policy, head, state_fill, head_state, folder, threshold,
    calibrated, promise`: the last two are the file of the calibrated thresholds where `threshold` is None, and the
    first promise of the config. InputError for a name that is not in the config, or a policy without heads.
    """
    speed, promises = config["speed"], config["calibration"]["promises"]
    if speed["threshold"] is None and not promises:
        raise InputError("config key 'speed.threshold': null takes a calibrated one, but calibration.promises has none")
    datasets = _named(config, "datasets")
    chosen = {backbone: _policies(config, backbone) for backbone in _named(config, "backbones")}
    return {
        backbone: [
            {
                "dataset": dataset,
                "max_new_tokens": config["datasets"][dataset]["max_new_tokens"],
                "data": f"{results}/data/{dataset}.parquet",
                "drafts": _drafts(config, backbone),
                "heads": [
                    {name: config["policies"][policy][name] for name in ("head", "state_fill", "head_state")}
                    | {
                        "policy": policy,
                        "folder": f"{results}/heads/{backbone}/{config['policies'][policy]['recipe']}",
                        "threshold": speed["threshold"],
                        "calibrated": None
                        if speed["threshold"] is not None
                        else f"{results}/thresholds/{backbone}/{dataset}.json",
                        "promise": next(iter(promises), None),
                    }
                    for policy in names
                ],
            }
            for dataset in datasets
        ]
        for backbone, names in chosen.items()
    }


def _drafts(config: Config, backbone: str) -> list[tuple[int, int]]:
    """(exit block, tokens) of every self-speculation, of those named if any are."""
    named = config["speed"]["policies"] or list(config["policies"])
    policies = [config["policies"][name] for name in named if config["policies"][name]["kind"] == SPECULATIVE]
    first = config["backbones"][backbone]["exits"][0]
    return [(policy["exit"] or first, count) for policy in policies for count in policy["draft_tokens"]]


def _policies(config: Config, backbone: str) -> list[str]:
    """The policies to time: those named, else the first of each of KINDS."""
    policies, heads = config["policies"], config["heads"]
    plain = {name: policy for name, policy in policies.items() if policy_kinds.is_plain(policy)}
    with_heads = [name for name, policy in plain.items() if policy["kind"] == "head"]
    if config["speed"]["policies"] is not None:
        wanted = _named(config, "policies")
        for i, name in enumerate(wanted):
            if name not in with_heads and policies[name]["kind"] != SPECULATIVE:
                why = "has no heads, or thresholds that adapt; name policies of kind head with adapt: none"
                raise InputError(f"config key 'speed.policies[{i}]': '{name}' {why}")
        with_heads = [name for name in wanted if name in with_heads]
    usable = [name for name in with_heads if runs_on(policies[name], config["backbones"][backbone])]
    if config["speed"]["policies"] is not None:
        return usable
    first = (next((name for name in usable if heads[policies[name]["head"]]["kind"] in kinds), None) for kinds in KINDS)
    return [name for name in first if name]


def _named(config: Config, section: str) -> Sequence[str]:
    """The names in `speed.<section>`, all of the config's if it is null."""
    names = config["speed"][section]
    known = list(config[section])
    for i, name in enumerate(names or []):
        if name not in known:
            raise InputError(f"config key 'speed.{section}[{i}]': '{name}' is unknown; {hint(name, known)}")
    return known if names is None else names
