"""Rule score_blocks: scores of a backbone's blocks on training text, for static pruning."""

import pandas as pd

from early_exit.base import job, records
from early_exit.blocks import scores
from early_exit.models import loading
from early_exit.models.documents import tokenise

with job.logged(snakemake) as log:
    params = snakemake.params
    manifest = records.read_json(snakemake.input.manifest)
    corpus = records.read_table(snakemake.input.corpus, records.CORPUS)
    backbone, tokenizer = loading.open_backbone(manifest, params.runtime)
    text = corpus[corpus["split"] == "train"].head(params.documents)
    documents = tokenise(text, tokenizer, params.max_tokens)
    rows = scores.score_rows(backbone, documents, params.batch_tokens, params.measure, params.most)
    table = pd.DataFrame(rows)
    table.insert(0, "backbone", manifest["name"])
    records.write_csv(table, snakemake.output[0])
    log.info("%d scores on %d tokens", len(table), sum(len(document.token_ids) for document in documents))
