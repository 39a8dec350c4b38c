"""What rule `measure_speed` needs to know of each backbone that the config's section `speed` names."""

from collections.abc import Sequence
from typing import Any

from early_exit.base.errors import InputError, hint
from early_exit.experiment.config.experiment import Experiment
from early_exit.experiment.config.policies import SelfSpeculative, TrainedHead

KINDS = (("mamba", "mamba-slim", "hybrid"), ("calm", "ffn", "ffn-slim"))  # of heads: with a state, without


def plan(experiment: Experiment, results: str) -> dict[str, list[dict[str, Any]]]:
    """For each backbone, a list of the datasets to measure on: names, settings, and the files that they come from.

    An entry has `dataset, max_new_tokens, data`; `drafts`, the exit block and the number of drafted tokens of each
    setting of self-speculation; and `heads`, a list of `policy, head, state_fill, head_state, folder, threshold,
    calibrated, promise`: the last two are the file of the calibrated thresholds where `threshold` is None, and the
    first promise of the config. InputError for a name that is not in the config, or a policy without heads.
    """
    speed, promises = experiment.speed, experiment.calibration.promises
    if speed.threshold is None and not promises:
        raise InputError("config key 'speed.threshold': null takes a calibrated one, but calibration.promises has none")
    datasets = _named(experiment, "datasets")
    return {
        backbone: [
            {
                "dataset": dataset,
                "max_new_tokens": experiment.datasets[dataset].max_new_tokens,
                "data": f"{results}/data/{dataset}.parquet",
                "drafts": _drafts(experiment, backbone),
                "heads": [
                    experiment.policies[name].model_dump(include={"head", "state_fill", "head_state"})
                    | {
                        "policy": name,
                        "folder": f"{results}/heads/{backbone}/{experiment.policies[name].recipe}",
                        "threshold": speed.threshold,
                        "calibrated": None
                        if speed.threshold is not None
                        else f"{results}/thresholds/{backbone}/{dataset}.json",
                        "promise": next(iter(promises), None),
                    }
                    for name in _policies(experiment, backbone)
                ],
            }
            for dataset in datasets
        ]
        for backbone in _named(experiment, "backbones")
    }


def _drafts(experiment: Experiment, backbone: str) -> list[tuple[int, int]]:
    """(exit block, tokens) of every self-speculation, of those named if any are."""
    named = experiment.speed.policies or list(experiment.policies)
    policies = [one for name in named if isinstance(one := experiment.policies[name], SelfSpeculative)]
    first = experiment.backbones[backbone].exits[0]
    return [(policy.exit or first, count) for policy in policies for count in policy.draft_tokens]


def _policies(experiment: Experiment, backbone: str) -> list[str]:
    """The policies to time: those named, else the first of each of KINDS."""
    policies, family = experiment.policies, experiment.backbones[backbone].family
    with_heads = [name for name, one in policies.items() if isinstance(one, TrainedHead) and one.is_plain]
    if experiment.speed.policies is None:
        usable = [name for name in with_heads if policies[name].runs_on(family)]
        kinds = {name: experiment.heads[policies[name].head].kind for name in usable}
        first = (next((name for name in usable if kinds[name] in of_kind), None) for of_kind in KINDS)
        return [name for name in first if name]
    wanted = _named(experiment, "policies")
    for i, name in enumerate(wanted):
        if name not in with_heads and not isinstance(policies[name], SelfSpeculative):
            why = "has no heads, or thresholds that adapt; name policies of kind head with adapt: none"
            raise InputError(f"config key 'speed.policies[{i}]': '{name}' {why}")
    return [name for name in wanted if name in with_heads and policies[name].runs_on(family)]


def _named(experiment: Experiment, section: str) -> Sequence[str]:
    """The names in `speed.<section>`, all of the config's if it is null."""
    names, known = getattr(experiment.speed, section), list(getattr(experiment, section))
    for i, name in enumerate(names or []):
        if name not in known:
            raise InputError(f"config key 'speed.{section}[{i}]': '{name}' is unknown; {hint(name, known)}")
    return known if names is None else names
