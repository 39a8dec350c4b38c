"""Rule fetch_corpus: the documents that heads are distilled on, and those that are held out."""

from early_exit.base import job
from early_exit.base.files import ROOT
from early_exit.base.records import CORPUS, write_table
from early_exit.data.corpus import load_corpus

with job.logged(snakemake) as log:
    params = snakemake.params
    corpus = load_corpus(params.spec, params.seed, ROOT)
    write_table(corpus, snakemake.output[0], CORPUS, metadata=corpus.attrs)
    log.info("corpus: %s documents", corpus["split"].value_counts().to_dict())
