"""What all rules share: the config, and the parts of it that a job depends on.

A job gets as params exactly the keys that change its result, so that a change re-runs that job and no other.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir, "workflow", "scripts")))

from early_exit.experiment import offline, code_digest, runs, policy_kinds
from early_exit.base import redaction
from early_exit.experiment.config import load
from early_exit.base.errors import InputError

# With the package `kernels` installed, transformers would fetch code from the hub and run it.
os.environ.update(USE_HUB_KERNELS="NO")

USER_CONFIG = json.dumps(config, default=str)
try:
    config.update(load(config, Path(workflow.basedir)))
except InputError as error:
    sys.exit(redaction.redact(f"Error: {error}"))  # a WorkflowError would bring a traceback along
offline.use(config["cache"], Path(workflow.basedir))

ROOT = os.path.relpath(workflow.basedir)  # the repository, where relative sources start
R = f"results/{config['name']}"
GPUS = 0 if config["device"] == "cpu" else config["resources"]["gpu"]
MODEL_ENV = f"../../envs/{'gpu' if GPUS else 'model'}.yaml"

SECTIONS = {"backbone": "backbones", "dataset": "datasets", "policy": "policies"}


wildcard_constraints:
    backbone="[a-z0-9][a-z0-9._-]*",
    dataset=r"(?!corpus\.parquet)[a-z0-9][a-z0-9._-]*",  # data/corpus.parquet is the corpus
    policy="[a-z0-9][a-z0-9._-]*",
    recipe="[a-z0-9][a-z0-9._-]*",
    seed="[0-9]+",
    shard="[0-9]+-of-[0-9]+",
    measure="likeness|loss",


def code(script):
    """The code that a script runs, as a param: an edit of a module re-runs the rules that use it, a touch none."""
    return code_digest.digest(Path(workflow.basedir, "workflow/scripts", f"{script}.py"))


def templates(page):
    """The templates that a page is made from, as inputs: an edit of one makes the page anew."""
    folder = f"{ROOT}/workflow/scripts/early_exit/report/templates"
    return [f"{folder}/{name}.html" for name in ("base", "tables", page)]


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
    return source(spec(wildcards, "backbone"), "exits", "dtype", "parameters")


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
