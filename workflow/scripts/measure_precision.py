"""Rule measure_precision: a backbone in several number formats on the first test questions of a dataset."""

import pandas as pd

from early_exit.base import job, records
from early_exit.decoding import perturbation, precision, teacher_forced

with job.logged(snakemake) as log:
    params, files, options = snakemake.params, snakemake.input, snakemake.params.options
    examples = records.read_table(files.data, records.EXAMPLES)
    examples = examples[examples["split"] == "test"].head(options["examples"])
    names = ("policies", "exits", "max_new_tokens", "rules", "runtime")
    given = {name: params[name] for name in names} | {"splits": {name: ["test"] for name in params.policies}}
    mib = snakemake.resources.mem_mb
    reference = precision.Form.of(precision.REFERENCE, given, files)
    own = {precision.REFERENCE: reference.answers(examples, mib)}
    full = own[precision.REFERENCE].query("policy == 'full'")
    found = teacher_forced.answers(
        *reference.job.model, examples, full,
        max_new_tokens=params.max_new_tokens, overflow=params.rules["prompt_overflow"],
    )  # fmt: skip
    texts = dict(zip(full["example_id"], found, strict=True))
    settings = {name: one.settings(params.exits) for name, one in reference.job.policies.items() if one.trained}
    compared = {}
    for name in options["formats"]:
        form = precision.Form.of(name, given, files)
        own[name] = form.answers(examples, mib)
        compared[name] = precision.compare(reference, form, texts, settings)
        log.info("%s: %d of the answers' tokens change", name, compared[name][1]["flips"].sum())
    for k, name in enumerate(("states", "predictions", "decisions")):
        table = pd.concat({form: frames[k] for form, frames in compared.items()}, names=["format"])
        records.write_csv(table.reset_index("format"), snakemake.output[name])
    answers = pd.concat([frame.assign(format=name) for name, frame in own.items()], ignore_index=True)
    records.write_table(answers, snakemake.output.answers, records.ANSWERS_IN_FORMATS)
    changes = perturbation.Changes(options["sizes"], options["draws"], params.runtime["seed"])
    rows = [
        {"example_id": example, **row}
        for example, text in texts.items()
        for row in perturbation.follow(reference.backbone, [*text.prompt, *text.token_ids], changes)
    ]
    records.write_csv(pd.DataFrame(rows, columns=["example_id", *perturbation.COLUMNS]), snakemake.output.changes)
