"""Rule train_heads: all heads of a recipe, distilled from one backbone in one pass over the corpus."""

from pathlib import Path

import pandas as pd

from early_exit.base import files, job, records, resume
from early_exit.heads import store, training
from early_exit.models import loading
from early_exit.models.documents import tokenise

with job.logged(snakemake) as log:
    params, out = snakemake.params, snakemake.output
    manifest = records.read_json(snakemake.input.manifest)
    corpus = records.read_table(snakemake.input.corpus, records.CORPUS)
    backbone, tokenizer = loading.open_backbone(manifest, params.runtime)
    documents = tokenise(corpus[corpus["split"] == "train"], tokenizer, params.max_tokens)
    options, exits = params.distillation, params.exits
    made = training.new_heads(params.heads, backbone.hidden_size, exits, options["seed"]).to(backbone.device)
    log.info("%d documents, %d parameters in %d heads", len(documents), store.parameters(made), len(made))

    versions = job.versions()
    settings = dict(params.items()) | {"device": backbone.device.type, "versions": versions}
    checkpoint = resume.Checkpoint(
        files.partial(out.heads),
        resume.fingerprint(snakemake.input, settings),
        snakemake.config["distillation"]["checkpoint_seconds"],
    )
    curve = training.train(backbone, made, documents, exits, options, checkpoint)
    records.write_csv(pd.DataFrame(curve), out.training, "%.6f")
    description = {
        "seed": options["seed"],
        "distillation": options,
        "max_tokens": params.max_tokens,
        "steps": curve[-1]["step"],
        "tokens": curve[-1]["tokens"],
        "versions": versions,
        "corpus": records.read_metadata(snakemake.input.corpus),
    }
    store.save(made, params.heads, manifest, exits, description, Path(out.heads).parent)
