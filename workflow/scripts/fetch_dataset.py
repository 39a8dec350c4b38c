"""Rule fetch_dataset: the calibration and test examples of one question set, with prompts and references."""

from early_exit.base import job
from early_exit.base.files import ROOT
from early_exit.base.records import EXAMPLES, write_table
from early_exit.data import datasets

with job.logged(snakemake) as log:
    params = snakemake.params
    examples = datasets.load(params.name, params.spec, params.seed, ROOT)
    write_table(examples, snakemake.output[0], EXAMPLES, metadata=examples.attrs)
    log.info("%s: %s examples", params.name, examples["split"].value_counts().to_dict())
