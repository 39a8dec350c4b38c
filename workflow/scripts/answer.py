"""Rules answer_full, answer, answer_matched: the answers of several policies to a dataset's questions."""

from pathlib import Path

from early_exit.base import job, records
from early_exit.base.kept_answers import KeptAnswers
from early_exit.blocks import pruning
from early_exit.decoding import answer
from early_exit.decoding.job_inputs import AnsweringJob

with job.logged(snakemake) as log:
    this = AnsweringJob(snakemake.params, snakemake.input, snakemake.wildcards.shard)
    generation, keys = snakemake.config["generation"], this.keys()
    names, rows = set(this.examples["example_id"]), generation["checkpoint_rows"]
    with KeptAnswers(snakemake.params.kept, keys.values(), names, rows) as store:
        kept = answer.Kept(store, keys)
        found = answer.run(
            lambda: this.answerer(snakemake.resources.mem_mb), this.examples, this.columns, kept, this.excluded
        )
        found += this.oracle_rows([row for (name, _), row in found if name == "full"], kept)
        store.finish(generation["spare_mb"])
    log.info("%d answers, of which %d were computed now", len(found), store.added)
    for path in snakemake.output:  # all at the end: a second Snakemake in the folder may take earlier ones away
        frame = this.frame(found, Path(path).stem)
        records.write_table(frame, path, records.GENERATIONS, pruning.metadata(this.dropped))
