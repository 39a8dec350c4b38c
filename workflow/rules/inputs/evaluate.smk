"""What the rules of evaluate.smk need to know of a job: functions of its wildcards."""


def test_answers(wildcards):
    """The answers of all policies to the test questions."""
    return [path for part in runs.ANSWERED_BY for path in answers(part, "test")(wildcards)]


def calibration_answers(wildcards):
    """The answers to the calibration questions, of the full model and of all that is calibrated."""
    return [path for part in ("full", "exits") for path in answers(part, "calibration")(wildcards)]


def run_files(run):
    """What the tables say of a run, and the files that hold all runs of its backbone and dataset."""
    place = vars(run.pair)
    return runs.labels(EXPERIMENT, run) | {
        "answers": test_answers(run.pair),
        "evaluated": fill(rules.evaluate.output[0], **place),
        "seconds": fill(rules.measure_wallclock.output[0], **place) if EXPERIMENT.wallclock.examples else None,
    }
