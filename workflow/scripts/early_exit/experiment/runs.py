"""Which runs an experiment has, and how their files are named. `config` is what `config.load` gives, `results` the
folder that all of its files lie in.
"""

import os
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from early_exit.experiment import policy_kinds
from early_exit.experiment.config import runs_on
from early_exit.sources import user_code
from early_exit.sources.model_files import present
from early_exit.sources.rows import READERS

Config = Mapping[str, Any]
OUTPUTS = {
    "fetch_dataset": "data/{}.parquet",
    "fetch_corpus": "data/corpus.parquet",
    "fetch_backbone": "backbones/{}.json",
    "train_heads": "heads/{}/heads.safetensors",
    "train_heads_seed": "quality/{}/heads.safetensors",
    "measure_heads": "quality/{}/confidences.parquet",
    "settle": "settle/{}.csv",
    "adapt": "adaptive/{}.json",
    "score_blocks": "pruning/{}.csv",
    "calibrate": "thresholds/{}.json",
    "generate": "runs/{}/test.parquet",
    "join_shards": "runs/{}/test.parquet",
    "layer_costs": "costs/{}.json",
    "count_flops": "runs/{}/flops.parquet",
    "score": "runs/{}/scores.parquet",
}
MEASURES = {"block-influence": "likeness", "angular": "likeness", "one-by-one": "loss"}  # by which blocks are scored


def runs(config: Config) -> list[tuple[str, str, str]]:
    """All (backbone, dataset, policy): every policy on every dataset and on every backbone that it runs on."""
    return [
        (backbone, dataset, policy)
        for backbone, dataset, policy in product(config["backbones"], config["datasets"], config["policies"])
        if runs_on(config["policies"][policy], config["backbones"][backbone])
        and dataset in (config["policies"][policy].get("datasets") or config["datasets"])
    ]


def head_runs(config: Config) -> list[tuple[str, str, str]]:
    """The runs whose policy asks a trained head."""
    return [run for run in runs(config) if config["policies"][run[2]]["kind"] == "head"]


def calibrated_runs(config: Config) -> list[tuple[str, str, str]]:
    """The runs whose thresholds are calibrated: of every policy with a grid to choose from, if any promise is made."""
    if not config["calibration"]["promises"]:
        return []
    return [run for run in runs(config) if policy_kinds.is_calibrated(config["policies"][run[2]])]


def calibrations(config: Config) -> list[tuple[str, str]]:
    """All (backbone, dataset) on which some policy is calibrated."""
    return list(dict.fromkeys((backbone, dataset) for backbone, dataset, _ in calibrated_runs(config)))


def answering_both(config: Config) -> list[tuple[str, str, str]]:
    """The runs that also answer the calibration questions: all whose thresholds are calibrated, and the full model's
    where calibrated or adaptive ones are held against it."""
    own = calibrated_runs(config)
    pairs = dict.fromkeys(run[:2] for run in [*own, *planned_runs(config)])
    return [*((*pair, "full") for pair in pairs), *own]


def planned_runs(config: Config) -> list[tuple[str, str, str]]:
    """The runs whose policy goes by what is measured on the full model's answers to the calibration questions."""
    return [run for run in runs(config) if policy_kinds.is_planned(config["policies"][run[2]])]


def trainings(config: Config) -> list[tuple[str, str]]:
    """All (backbone, recipe) that some run needs."""
    recipes = [(backbone, config["policies"][policy]["recipe"]) for backbone, _, policy in head_runs(config)]
    return list(dict.fromkeys(recipes))


def measured_heads(config: Config) -> list[tuple[str, str]]:
    """All (backbone, recipe) whose heads' quality is measured: those that some run needs, or as the config says."""
    recipes = config["head_quality"]["recipes"]
    return trainings(config) if recipes is None else list(product(config["backbones"], recipes))


def measured_blocks(config: Config) -> list[tuple[str, str]]:
    """All (backbone, measure) by which some policy prunes: `likeness` of hidden states gives two scores, `loss` one.

    Where blocks are scored at all, likeness is measured: it takes one pass, and the figure shows it.
    """
    used = {MEASURES.get(policy.get("by")) for policy in config["policies"].values()} - {None}
    return list(product(config["backbones"], ["likeness", *sorted(used - {"likeness"})])) if used else []


def settings(config: Config, results: str) -> list[dict[str, Any]]:
    """For each run what rule `tables` has to know: its names, and its files."""
    entries, calibrated = [], set(calibrated_runs(config))
    for backbone, dataset, policy in runs(config):
        spec, run = config["policies"][policy], f"{backbone}/{dataset}/{policy}"
        entries.append(
            {
                "backbone": backbone,
                "family": config["backbones"][backbone]["family"],
                "dataset": dataset,
                "kind": config["datasets"][dataset]["kind"],
                "policy": policy,
                "head": spec.get("head"),
                "state_fill": spec.get("state_fill"),
                "run": f"{results}/runs/{run}/test.parquet",
                "scores": f"{results}/runs/{run}/scores.parquet",
                "flops": f"{results}/runs/{run}/flops.parquet",
                "thresholds": f"{results}/thresholds/{backbone}/{dataset}.json"
                if (backbone, dataset, policy) in calibrated
                else None,
                "adapt": None if spec.get("adapt") == "none" else spec.get("adapt"),
                "match": spec.get("match"),
                "seconds": f"{results}/runs/{run}/seconds.csv" if is_timed(config, spec) else None,
            }
        )
    return entries


def is_timed(config: Config, policy: Config) -> bool:
    """Whether a policy's seconds per token are measured: not the oracle's, which knows answers that cost time."""
    return config["wallclock"]["examples"] is not None and policy["kind"] != "oracle"


def jobs(config: Config) -> dict[str, list[str]]:
    """Every rule before the tables, and the names of its jobs: the folders that their files lie in."""
    every = ["/".join(run) for run in runs(config)]
    calibrations_of = ["/".join(pair) for pair in calibrations(config)]
    shards = config["generation"]["shards"]
    parts = [f"{run}/shards/{k}-of-{shards}" for run, k in product(every, range(shards))] if shards > 1 else every
    measured, seed = measured_heads(config), config["distillation"]["seed"]
    further = range(seed + 1, seed + config["head_quality"]["seeds"])
    return {
        "fetch_dataset": list(config["datasets"]),
        "fetch_corpus": [""],
        "fetch_backbone": list(config["backbones"]),
        "train_heads": ["/".join(training) for training in dict.fromkeys([*trainings(config), *measured])],
        "train_heads_seed": ["/".join([*training, str(seed)]) for training, seed in product(measured, further)],
        "measure_heads": ["/".join(training) for training in measured],
        "settle": list(config["backbones"]),
        "adapt": ["/".join(run) for run in planned_runs(config)],
        "score_blocks": ["/".join(one) for one in measured_blocks(config)],
        "generate": parts,
        "join_shards": every if shards > 1 else [],
        "calibrate": calibrations_of,
        "layer_costs": list(config["backbones"]),
        "count_flops": every,
        "score": every,
    }


def benchmarks(config: Config, results: str) -> dict[str, list[str]]:
    """The files in which Snakemake notes what each job before the report took, by rule."""
    folder = f"{results}/benchmarks"
    return {rule: [f"{folder}/{rule}{job and '/' + job}.tsv" for job in names] for rule, names in jobs(config).items()}


def outputs(config: Config, results: str) -> dict[str, list[str]]:
    """A file of each job by which one sees that it is done, by rule, the report's own last."""
    made = {rule: [f"{results}/{OUTPUTS[rule].format(job)}" for job in names] for rule, names in jobs(config).items()}
    return made | {"tables": [f"{results}/tables/results.csv"], "report": [f"{results}/report.html"]}


def model_files(spec: Config) -> list[str]:
    """The files of a local backbone, which its manifest depends on; none for one on the hub."""
    return list(map(str, present(Path(spec["path"]), spec["gguf"]))) if spec["path"] else []


def head_files(config: Config, names: Iterable[str]) -> list[str]:
    """The files of the heads, of these names, that are classes of the user's; none for built-in ones."""
    return [os.path.relpath(file) for file in user_code.files(config["heads"][name] for name in names)]


def data_files(spec: Config) -> list[str]:
    """The files of a local question set or corpus; none for one on the hub."""
    if not spec["path"]:
        return []
    path = Path(spec["path"])
    return sorted(str(file) for file in (path.rglob("*") if path.is_dir() else [path]) if file.suffix in READERS)
