"""What all rules share: the config, and the parts of it that a job depends on.

A job gets as params exactly the keys that change its result, so that a change re-runs that job and no other.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir, "workflow", "scripts")))

from early_exit import layout, policy_kinds
from early_exit.config import load
from early_exit.records import InputError

USER_CONFIG = json.dumps(config, default=str)
try:
    config.update(load(config, Path(workflow.basedir)))
except InputError as error:
    sys.exit(f"Error: {error}")  # a WorkflowError would bring a traceback along

ROOT = os.path.relpath(workflow.basedir)  # the repository, where relative sources start
R = f"results/{config['name']}"
GPUS = 0 if config["device"] == "cpu" else config["resources"]["gpu"]
MODEL_ENV = f"../../envs/{'gpu' if GPUS else 'model'}.yaml"

# The modules of early_exit that each script uses, by itself or through others, beside records and runtime, which all
# use. Snakemake looks at the script alone; with these as inputs an edit of one re-runs the rules that use it and no
# others. A test holds this list to the imports.
CODE = {
    "fetch_dataset": "datasets prompts questions sources",
    "fetch_corpus": "datasets prompts questions sources",
    "fetch_backbone": "manifests",
    "check_disjoint": "datasets disjoint prompts questions sources",
    "train_heads": "attention backbones block_costs checkpoints distill head_kinds head_sources heads manifests "
    "mixers state structure training",
    "measure_heads": "attention backbones block_costs distill head_kinds head_outputs head_sources heads manifests "
    "mixers state structure",
    "head_tables": "head_quality head_tables",
    "head_figures": "figures head_figures tables uncertainty",
    "settle": "attention backbones distill manifests settle state structure",
    "calibrate": "calibrate",
    "adapt": "adaptive attention backbones block_costs confidences conversations costs decode exit_policies fills "
    "forced generation greedy head_kinds head_sources heads manifests memory mixers planning policies policy_kinds "
    "prefixes prompts replay state stopping structure",
    "generate": "adaptive attention backbones block_costs ceiling confidences conversations costs decode "
    "exit_policies fills forced generation greedy head_kinds head_sources heads manifests memory mixers planning "
    "policies policy_kinds prefixes prompts replay state stopping structure",
    "layer_costs": "block_costs costs head_kinds head_sources heads manifests mixers policy_kinds",
    "count_flops": "block_costs costs manifests policy_kinds",
    "score": "metrics scoring",
    "tables": "tables uncertainty",
    "compare": "cells compare policy_kinds uncertainty",
    "claims": "block_costs cells claims claims_page compare costs manifests policy_kinds tables uncertainty",
    "figures": "figures forest policy_figures policy_kinds tables uncertainty",
    "provenance": "provenance tables uncertainty",
    "pretrain_tiny": "lexicon pretrain prompts world world_files",
    "measure_speed": "adaptive attention backbones block_costs confidences costs decode fills forced greedy "
    "head_kinds head_sources heads manifests mixers policies policy_kinds prefixes speed speed_cases state stopping "
    "structure",
    "speed": "figures speed_figures tables uncertainty",
}
SECTIONS = {"backbone": "backbones", "dataset": "datasets", "policy": "policies"}


wildcard_constraints:
    backbone="[a-z0-9][a-z0-9._-]*",
    dataset=r"(?!corpus\.parquet)[a-z0-9][a-z0-9._-]*",  # data/corpus.parquet is the corpus
    policy="[a-z0-9][a-z0-9._-]*",
    recipe="[a-z0-9][a-z0-9._-]*",
    seed="[0-9]+",


def code(rule):
    """The files of the modules that a rule's script uses. (Through `workflow.source_path` a touch would re-run it.)"""
    names = ["records", "runtime", *CODE[rule].split()]
    return [os.path.relpath(Path(workflow.basedir, "workflow/scripts/early_exit", f"{name}.py")) for name in names]


def spec(wildcards, name):
    """The config of the backbone, dataset or policy that a job is for."""
    return config[SECTIONS[name]][getattr(wildcards, name)]


def of(name, key):
    """A function of wildcards: one key of the job's backbone, dataset or policy, None where it has none."""

    def value(wildcards):
        return spec(wildcards, name).get(key)

    return value


def source(config_part, *others):
    """What a source is: its config but for keys that say what is done with it, and `path`, which follows from it."""
    return {key: value for key, value in config_part.items() if key not in ("path", *others)}


def backbone_source(wildcards):
    return source(spec(wildcards, "backbone"), "exits", "dtype")


def dataset_source(wildcards):
    return source(spec(wildcards, "dataset"), "max_new_tokens")


def is_local(wildcards):
    return spec(wildcards, "backbone")["path"] is not None


def policy(wildcards):
    return spec(wildcards, "policy")


def grid(wildcards):
    """What a policy is run at: thresholds, or what else its settings are."""
    return policy_kinds.settings(policy(wildcards), spec(wildcards, "backbone")["exits"])


def torch_settings(wildcards):
    """Everything but its own task that may change a number that a model gives."""
    shared = {key: config[key] for key in ("seed", "device", "threads")}
    return {**shared, "dtype": spec(wildcards, "backbone")["dtype"]}


def decode_settings(wildcards):
    return {**torch_settings(wildcards), "batch_size": config["batch_size"], "memory": config["memory"]}


def recipe_heads(wildcards):
    """The heads of a recipe, {name: design}."""
    return {name: config["heads"][name] for name in config["recipes"][wildcards.recipe]}
