"""Which runs an experiment has: all combinations of backbone, dataset and policy, and what each needs beside itself."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

from early_exit.experiment.config.experiment import Experiment
from early_exit.experiment.config.policies import Policy, Pruned

# The rule that answers with the policies of a part.
ANSWERED_BY = {"full": "answer_full", "exits": "answer", "matched": "answer_matched"}


@dataclass(frozen=True)
class Pair:
    """A backbone and a dataset, by their keys in the config."""

    backbone: str
    dataset: str


@dataclass(frozen=True)
class Run:
    """A policy on one dataset with one backbone; the names are keys of the config."""

    backbone: str
    dataset: str
    policy: str

    @property
    def pair(self) -> Pair:
        return Pair(self.backbone, self.dataset)


def runs(experiment: Experiment) -> list[Run]:
    """Every policy on every dataset and on every backbone that it runs on."""
    return [
        Run(*names)
        for names in product(experiment.backbones, experiment.datasets, experiment.policies)
        if policy_of(experiment, Run(*names)).runs_on(experiment.backbones[names[0]].family)
        and names[1] in (policy_of(experiment, Run(*names)).only_on or experiment.datasets)
    ]


def policy_of(experiment: Experiment, run: Run) -> Policy:
    return experiment.policies[run.policy]


def pairs(experiment: Experiment) -> list[Pair]:
    """Every dataset on every backbone."""
    return list(dict.fromkeys(run.pair for run in runs(experiment)))


def policies(experiment: Experiment, pair: Pair, part: str) -> list[str]:
    """The policies of a pair that one of its jobs is for.

    `full` is the full model and the oracle, whose answers are the full model's; `matched` are those that leave as often
    as others do, `exits` all that are in neither; `planned` need a plan, `timed` have seconds, `calibrated` are those
    that are calibrated and what they are compared with, `precise` are run in several number formats, `all` is all.
    """
    named = {run.policy: policy_of(experiment, run) for run in runs(experiment) if run.pair == pair}
    chosen = {run.policy for run in calibrated_runs(experiment) if run.pair == pair} | {"full"}
    belongs = {
        **{part: {name for name, policy in named.items() if _answering(policy) == part} for part in ANSWERED_BY},
        "planned": {name for name, policy in named.items() if policy.is_planned},
        "timed": {name for name, policy in named.items() if policy.kind != "oracle"},
        "calibrated": chosen,
        "precise": {"full", *experiment.precision.policies},
        "all": set(named),
    }
    return [name for name in named if name in belongs[part]]


def recipes(experiment: Experiment, policies: Iterable[str]) -> list[str]:
    """The recipes that the heads of these policies are trained in."""
    trained = (experiment.policies[name].trained for name in policies)
    return list(dict.fromkeys(recipe_and_head[0] for recipe_and_head in trained if recipe_and_head))


def _answering(policy: Policy) -> str:
    """The part whose job answers with a policy."""
    return "full" if policy.kind in ("full", "oracle") else "matched" if policy.matched else "exits"


def head_runs(experiment: Experiment) -> list[Run]:
    """The runs whose policy has a trained head."""
    return [run for run in runs(experiment) if policy_of(experiment, run).trained]


def calibrated_runs(experiment: Experiment) -> list[Run]:
    """The runs whose thresholds are calibrated: of every policy with a grid to choose from, if any promise is made."""
    if not experiment.calibration.promises:
        return []
    return [run for run in runs(experiment) if policy_of(experiment, run).is_calibrated]


def planned_runs(experiment: Experiment) -> list[Run]:
    """The runs whose policy needs confidences measured on the full model's answers to the calibration questions."""
    return [run for run in runs(experiment) if policy_of(experiment, run).is_planned]


def calibrations(experiment: Experiment) -> list[Pair]:
    """The pairs on which some policy is calibrated."""
    return list(dict.fromkeys(run.pair for run in calibrated_runs(experiment)))


def runs_with_calibration_answers(experiment: Experiment) -> list[Run]:
    """The runs that also answer the calibration questions: the calibrated ones, and the full model's beside these and
    the adaptive ones."""
    calibrated = calibrated_runs(experiment)
    answered = dict.fromkeys(run.pair for run in [*calibrated, *planned_runs(experiment)])
    return [*(Run(pair.backbone, pair.dataset, "full") for pair in answered), *calibrated]


def splits(experiment: Experiment, run: Run) -> list[str]:
    """The splits whose questions a run answers."""
    return ["calibration", "test"] if run in runs_with_calibration_answers(experiment) else ["test"]


def trainings(experiment: Experiment) -> list[tuple[str, str]]:
    """All (backbone, recipe) that some run needs."""
    needed = ((run.backbone, policy_of(experiment, run).trained[0]) for run in head_runs(experiment))
    return list(dict.fromkeys(needed))


def measured_heads(experiment: Experiment) -> list[tuple[str, str]]:
    """All (backbone, recipe) whose heads' quality is measured: those that some run needs, or as the config says."""
    recipes = experiment.head_quality.recipes
    return trainings(experiment) if recipes is None else list(product(experiment.backbones, recipes))


def precision_pairs(experiment: Experiment) -> list[Pair]:
    """The pairs that are run in several number formats."""
    return [pair for pair in pairs(experiment) if pair.dataset in experiment.precision.datasets]


def pruned_policies(experiment: Experiment) -> dict[str, Pruned]:
    """The policies that prune by measured scores of blocks."""
    pruned = {name: policy for name, policy in experiment.policies.items() if isinstance(policy, Pruned)}
    return {name: policy for name, policy in pruned.items() if policy.measure}


def measured_blocks(experiment: Experiment) -> list[tuple[str, str]]:
    """All (backbone, measure) by which some policy prunes: `likeness` of hidden states gives two scores, `loss` one.

    Where blocks are scored at all, likeness is measured: it takes one pass, and the figure shows it.
    """
    measures = {policy.measure for policy in pruned_policies(experiment).values()}
    return list(product(experiment.backbones, ["likeness", *sorted(measures - {"likeness"})])) if measures else []


def labels(experiment: Experiment, run: Run) -> dict[str, Any]:
    """What the tables say of a run beside its numbers."""
    policy = policy_of(experiment, run)
    rule = getattr(policy, "rule", None)
    return {
        "backbone": run.backbone,
        "family": experiment.backbones[run.backbone].family,
        "dataset": run.dataset,
        "kind": experiment.datasets[run.dataset].kind,
        "policy": run.policy,
        "head": policy.trained[1] if policy.trained else None,
        "state_fill": policy.fill,
        "adapt": None if rule is None or rule.adapt == "none" else rule.adapt,
        "match": policy.matched,
    }
