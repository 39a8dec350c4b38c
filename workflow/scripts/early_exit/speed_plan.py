"""What rule `measure_speed` needs for each backbone that the config's section `speed` names."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from early_exit import policy_kinds
from early_exit.config import runs_on
from early_exit.records import InputError

Config = Mapping[str, Any]
KINDS = (("mamba", "mamba-slim", "hybrid"), ("calm", "ffn", "ffn-slim"))  # of heads: with a state, without


def plan(config: Config, results: str) -> dict[str, list[dict[str, Any]]]:
    """For each backbone, a list of the datasets to measure on: names, settings, and the files that they come from.

    An entry has `dataset, max_new_tokens, data` and `heads`, a list of `head, state_fill, head_state, folder,
    threshold, calibrated`: the last is the file of the calibrated threshold where `threshold` is None.
    InputError for a name that is not in the config, or a policy without heads.
    """
    speed = config["speed"]
    datasets = _named(config, "datasets")
    chosen = {backbone: _policies(config, backbone) for backbone in _named(config, "backbones")}
    return {
        backbone: [
            {
                "dataset": dataset,
                "max_new_tokens": config["datasets"][dataset]["max_new_tokens"],
                "data": f"{results}/data/{dataset}.parquet",
                "heads": [
                    {name: config["policies"][policy][name] for name in ("head", "state_fill", "head_state")}
                    | {
                        "folder": f"{results}/heads/{backbone}/{config['policies'][policy]['recipe']}",
                        "threshold": speed["threshold"],
                        "calibrated": None
                        if speed["threshold"] is not None
                        else f"{results}/thresholds/{backbone}/{dataset}/{policy}.json",
                    }
                    for policy in names
                ],
            }
            for dataset in datasets
        ]
        for backbone, names in chosen.items()
    }


def _policies(config: Config, backbone: str) -> list[str]:
    """The policies to time: those named, else the first of each of KINDS."""
    policies, heads = config["policies"], config["heads"]
    plain = {name: policy for name, policy in policies.items() if policy_kinds.is_plain(policy)}
    with_heads = [name for name, policy in plain.items() if policy["kind"] == "head"]
    if config["speed"]["policies"] is not None:
        wanted = _named(config, "policies")
        for i, name in enumerate(wanted):
            if name not in with_heads:
                why = "has no heads, or thresholds that adapt; name policies of kind head with adapt: none"
                raise InputError(f"config key 'speed.policies[{i}]': '{name}' {why}")
        return [name for name in wanted if runs_on(policies[name], config["backbones"][backbone])]
    usable = [name for name in with_heads if runs_on(policies[name], config["backbones"][backbone])]
    first = (next((name for name in usable if heads[policies[name]["head"]]["kind"] in kinds), None) for kinds in KINDS)
    return [name for name in first if name]


def _named(config: Config, section: str) -> Sequence[str]:
    """The names in `speed.<section>`, all of the config's if it is null."""
    names = config["speed"][section]
    known = list(config[section])
    for i, name in enumerate(names or []):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1) or known
            raise InputError(f"config key 'speed.{section}[{i}]': '{name}' is unknown; did you mean '{close[0]}'?")
    return known if names is None else names
