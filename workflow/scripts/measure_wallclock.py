"""Rule measure_wallclock: seconds per generated token of one run's settings, on the first test examples."""

from early_exit.base import job, records
from early_exit.decoding import job_inputs
from early_exit.speed import interleaved, run_seconds

with job.logged(snakemake) as log:
    params, files = snakemake.params, snakemake.input
    examples = records.read_table(files.data, records.EXAMPLES).query("split == 'test'")
    examples = examples.head(params.timing["examples"])
    settings = sorted(set(records.read_table(files.run, records.GENERATIONS)["setting"]))
    answerer = job_inputs.answerer(params, files, snakemake.resources.mem_mb)
    probe = interleaved.Probe(answerer.backbone.device)
    measured = run_seconds.measure(answerer, examples, settings, repeats=params.timing["repeats"], probe=probe)
    records.write_csv(measured, snakemake.output[0], "%.6g")
    for row in measured.to_dict("records"):
        log.info("setting %(setting)g: %(seconds_per_token).5f s a token", row)
