"""Rule measure_wallclock: seconds per generated token of all policies, on the first test examples of a dataset."""

from early_exit.base import job, records
from early_exit.decoding.job_inputs import AnsweringJob
from early_exit.speed import interleaved, run_seconds

with job.logged(snakemake) as log:
    params = snakemake.params
    this = AnsweringJob(params, snakemake.input)
    examples = this.examples[this.examples["split"] == "test"].head(params.timing["examples"])
    answerer = this.answerer(snakemake.resources.mem_mb)
    probe = interleaved.Probe(answerer.device)
    measured = run_seconds.measure(answerer, examples, this.columns, repeats=params.timing["repeats"], probe=probe)
    records.write_csv(measured, snakemake.output[0], "%.6g")
    for row in measured.to_dict("records"):
        log.info("%(policy)s at %(setting)g: %(seconds_per_token).5f s a token", row)
