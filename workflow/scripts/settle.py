"""Rule settle: how early a backbone's predictions settle, on held-out text, before any head is trained."""

import pandas as pd

from early_exit.base import job, records
from early_exit.blocks import settling
from early_exit.models import loading
from early_exit.models.documents import tokenise

with job.logged(snakemake):
    params = snakemake.params
    manifest = records.read_json(snakemake.input.manifest)
    corpus = records.read_table(snakemake.input.corpus, records.CORPUS)
    backbone, tokenizer = loading.open_backbone(manifest, params.runtime)
    documents = tokenise(corpus[corpus["split"] == "held_out"], tokenizer, params.max_tokens)
    table = pd.DataFrame(settling.settling_rows(backbone, documents, params.batch_tokens))
    table.insert(0, "backbone", manifest["name"])
    records.write_csv(table, snakemake.output[0], "%.6f")
