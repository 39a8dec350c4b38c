"""What all rules share: the config, what a job requests, the parts of the config that it depends on, and hooks.

A job gets as params exactly the keys that change its result, so that a change re-runs that job and no other.
"""

import json
import os
import sys
from pathlib import Path

REPOSITORY = Path(workflow.current_basedir).parents[1]  # of this file, also where another workflow imports it
sys.path.insert(0, str(REPOSITORY / "workflow/scripts"))

from early_exit.base import files, redaction
from early_exit.base.errors import InputError
from early_exit.experiment import code_digest, estimate, offline, runs, work
from early_exit.experiment.config.load import check_files, load
from early_exit.sources import user_code

# With the package `kernels` installed, transformers would fetch code from the hub and run it. A notebook's backend of
# matplotlib, and packages of the user's outside of the environment, are not for jobs.
os.environ.update(USE_HUB_KERNELS="NO", MPLBACKEND="agg", PYTHONNOUSERSITE="1")

USER_CONFIG = json.dumps(config, default=str)
try:
    check_files(path for path in map(Path, workflow.configfiles) if path.is_file())
    EXPERIMENT = load(config, REPOSITORY)
except InputError as error:
    sys.exit(redaction.redact(f"Error: {error}"))  # a WorkflowError would bring a traceback along
if workflow.is_main_process:
    for note in EXPERIMENT.notes:
        logger.warning(f"Cut to fit: {note}")
# Scripts read from it what changes no result, such as how often they save their state. (An importer's stays as it is.)
config = EXPERIMENT.model_dump()
offline.use(EXPERIMENT.cache, REPOSITORY)

R = f"results/{EXPERIMENT.name}"
GPUS = EXPERIMENT.resources.gpu if EXPERIMENT.is_on_gpu else 0
MODEL_ENV = f"../../envs/{'gpu' if GPUS else 'model'}.yaml"


wildcard_constraints:
    backbone="[a-z0-9][a-z0-9._-]*",
    dataset=r"(?!corpus\.parquet)[a-z0-9][a-z0-9._-]*",  # data/corpus.parquet is the corpus
    policy="[a-z0-9][a-z0-9._-]*",
    recipe="[a-z0-9][a-z0-9._-]*",
    seed="[0-9]+",
    shard="(-[0-9]+-of-[0-9]+)?",  # none for the only job
    measure="likeness|loss",


def code(script):
    """Digest of a script and of the modules that it runs, as a param: an edit of one re-runs the rules that use it."""
    return code_digest.digest(REPOSITORY / f"workflow/scripts/{script}.py")


def templates(page):
    """The templates that a page is made from, as inputs: an edit of one makes the page anew."""
    folder = os.path.relpath(REPOSITORY / "workflow/scripts/early_exit/report/templates")
    return [f"{folder}/{name}.html" for name in ("base", "tables", page)]


def whole_machine(threads):
    """All cores that this run has, so that no other job runs beside a timed one; on a cluster those that torch uses."""

    def cores(wildcards):
        return workflow.resource_settings.cores or threads

    return cores


def fill(pattern, **job):
    """The file that a pattern of a rule names for a job."""
    return str(pattern).format(**job)


def each(pattern, jobs):
    """The files that a pattern of a rule names for these jobs (dicts of wildcards)."""
    return [fill(pattern, **job) for job in jobs]


def exits(wildcards):
    return EXPERIMENT.backbones[wildcards.backbone].exits


def dataset_kind(wildcards):
    return EXPERIMENT.datasets[wildcards.dataset].kind


def max_new_tokens(wildcards):
    return EXPERIMENT.datasets[wildcards.dataset].max_new_tokens


def torch_settings(wildcards):
    """Everything but its own task that may change a number that a model computes."""
    shared = EXPERIMENT.model_dump(include={"seed", "device", "threads"})
    return {**shared, "dtype": EXPERIMENT.backbones[wildcards.backbone].dtype}


def decode_settings(wildcards):
    slots = EXPERIMENT.backbones[wildcards.backbone].batch_size
    return {**torch_settings(wildcards), "batch_size": slots, "memory": EXPERIMENT.memory}


def designs(heads):
    """The designs of these heads, {name: keys}."""
    return {name: EXPERIMENT.heads[name].model_dump() for name in heads}


def user_files(entries):
    """The files of those of these heads or policies that are classes of the user's."""
    return [os.path.relpath(file) for file in user_code.files(entry.kind for entry in entries)]


def model_job(work_of):
    """The resources of a rule that runs a model; `work_of` gives the work of a job from its wildcards.

    `work_s`, its estimated seconds, and `output_mb` are what the estimate of a run is summed from.
    """

    def mem_mb(wildcards, attempt):
        return attempt * (EXPERIMENT.resources.mem_mb or work_of(wildcards).memory_mb)

    def runtime(wildcards, attempt):
        limit = EXPERIMENT.resources.runtime or work.minutes(EXPERIMENT, work_of(wildcards).seconds)
        return attempt * limit

    def work_s(wildcards):
        return round(work_of(wildcards).seconds)

    def output_mb(wildcards):
        return round(work_of(wildcards).output_mb)

    return {"gpu": GPUS, "mem_mb": mem_mb, "runtime": runtime, "work_s": work_s, "output_mb": output_mb}


def planned(jobs):
    """Jobs of the graph as the estimate sums them."""
    for job in jobs:
        resources = job.resources
        yield estimate.PlannedJob(job.rule.name, resources.get("work_s", 0), resources.get("output_mb", 0))


# Snakemake calls this, and of several such blocks the last alone, in the first process: not in a job's, nor where a
# report is drawn, nor in a dry run. Only here is it known which jobs will run.
onstart:
    if workflow.is_main_process:
        limit = workflow.scheduling_settings.max_jobs_per_timespan
        if workflow.local_exec and (limit.max_jobs, limit.timespan) == (100, 1):
            # The default, which no option takes away, is for clusters. For each job that ended it looks at all waiting
            # ones anew every few seconds for the rest of the run: after 200 jobs, two fifths of a core (Snakemake
            # 9.27.1; its pull request 3744).
            workflow.scheduler.job_rate_limiter = None
        waiting = list(workflow.dag.needrun_jobs())
        command = offline.fetch_command(
            workflow.main_snakefile, workflow.overwrite_workdir, workflow.config_settings
        )
        try:
            offline.check(EXPERIMENT, R, waiting, command)
        except InputError as error:
            sys.exit(redaction.redact(f"Error: {error}"))
        if any(job.resources.get("work_s") for job in waiting):
            logger.info("\n".join(estimate.lines(EXPERIMENT, planned(waiting))))


# Not the jobs themselves: one whose Snakemake was killed ends well, and is run again all the same.
onsuccess:
    if workflow.is_main_process:
        for path in (files.partial(path) for job in workflow.dag.jobs for path in job.output):
            path.unlink(missing_ok=True)
