"""Rule check_disjoint: ends the run if training, held-out, calibration and test text overlap."""

from pathlib import Path

from early_exit.base import job, records
from early_exit.data import disjoint

with job.logged(snakemake) as log:
    corpus = records.read_table(snakemake.input.corpus, records.CORPUS)
    datasets = {Path(path).stem: records.read_table(path, records.EXAMPLES) for path in snakemake.input.datasets}
    proof = disjoint.prove(corpus, datasets)
    records.write_json(proof, snakemake.output[0])
    log.info("%d pairs of splits share no document", len(proof["compared"]))
