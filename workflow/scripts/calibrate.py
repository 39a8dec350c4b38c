"""Rule calibrate: the threshold that a policy will use on the test split."""

from early_exit import calibrate, records, runtime

with runtime.job(snakemake) as log:
    run = records.read_table(snakemake.input.run, records.GENERATIONS)
    full = records.read_table(snakemake.input.full, records.GENERATIONS)
    chosen = calibrate.calibrate(run, full, snakemake.params.agreement, snakemake.params.never)
    log.info("threshold %(threshold)s, passed: %(passed)s", chosen)
    records.write_json(chosen, snakemake.output[0])
