"""Rule measure_heads: confidences of a recipe's heads, trained from several seeds, on each token of held-out text."""

from pathlib import Path

from early_exit.base import job, records
from early_exit.heads import measure
from early_exit.models import loading
from early_exit.models.documents import tokenise

with job.logged(snakemake) as log:
    params = snakemake.params
    manifest = records.read_json(snakemake.input.manifest)
    corpus = records.read_table(snakemake.input.corpus, records.CORPUS)
    backbone, tokenizer = loading.open_backbone(manifest, params.runtime)
    documents = tokenise(corpus[corpus["split"] == "held_out"], tokenizer, params.max_tokens)
    folders = [Path(path).parent for path in snakemake.input.heads]
    trained = measure.load(folders, list(params.heads), manifest)
    rows = measure.measure(backbone, trained, documents, params.label, params.k, params.batch_tokens)
    records.write_table(rows, snakemake.output[0], records.confidences_schema(params.heads))
    log.info("%d documents, %d seeds, %d rows", len(documents), len(trained), len(rows))
