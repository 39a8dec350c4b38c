"""What jobs ask for: functions of their wildcards and of how often they have been tried; and what is said of all of them
before the first."""

from early_exit.experiment import estimate, resources, work
from early_exit.base import files


def memory_of(rule):
    """A function of a job: its memory, for a rule that runs a model."""

    def mem_mb(wildcards, attempt):
        return resources.memory_mb(config, rule, "/".join(wildcards), attempt)

    return mem_mb


def time_of(rule):
    """A function of a job: its time limit, for a rule that runs a model."""

    def runtime(wildcards, attempt):
        return resources.runtime_minutes(config, rule, "/".join(wildcards), attempt)

    return runtime


def each_try(amount):
    """A function of a job: so much for each time that it is tried, for a rule that runs no model."""

    def asked(wildcards, attempt):
        return amount * attempt

    return asked


def download_time(wildcards, attempt):
    return resources.download_minutes(config, wildcards.backbone, attempt)


def download_disk(wildcards):
    return resources.disk_mb(config, wildcards.backbone)


def estimate_lines(wildcards):
    return estimate.lines(config)


def runs_models():
    """Whether some job of this run does what the estimate is about."""
    return any(job.rule.name in work.WORK for job in workflow.dag.needrun_jobs())


def refuse_what_is_missing():
    """Ends the run, in one message, if the hub is switched off and what jobs of this run need from it is not here."""
    command = cached.fetch_command(workflow.main_snakefile, workflow.overwrite_workdir, workflow.config_settings)
    try:
        cached.check(config, R, workflow.dag.needrun_jobs(), command)
    except InputError as error:
        sys.exit(redaction.redact(f"Error: {error}"))


def start_jobs_as_they_come():
    """Lifts Snakemake's limit on how many jobs start in a while, which is for clusters, unless somebody asked for one.

    For each job that ended it looks at all waiting ones anew every such while, for the rest of the run: after 200 jobs,
    two fifths of a core (Snakemake 9.27.1, every 3 seconds; its pull request 3744).
    """
    limit = workflow.scheduling_settings.max_jobs_per_timespan
    if workflow.local_exec and (limit.max_jobs, limit.timespan) == (100, 1):  # the default, which no option takes away
        workflow.scheduler.job_rate_limiter = None


# Snakemake calls this, and of several such blocks the last alone, in the first process: not in a job's, nor where a
# report is drawn, nor in a dry run. Only here is it known which jobs will run.
onstart:
    if workflow.is_main_process:
        start_jobs_as_they_come()
        refuse_what_is_missing()
        if runs_models():
            logger.info("\n".join(estimate.lines(config)))


# Not the jobs themselves: one whose Snakemake was killed ends well, and is run again all the same.
onsuccess:
    if workflow.is_main_process:
        for path in (files.partial(path) for job in workflow.dag.jobs for path in job.output):
            path.unlink(missing_ok=True)
