"""Rule precision: what number formats cost on all backbones, and the verdicts on two claims, from the measurements."""

import pandas as pd

from early_exit.base import job, records
from early_exit.evaluation import precision
from early_exit.evaluation.evaluate import Yardstick
from early_exit.evaluation.format_scores import evaluate_formats
from early_exit.experiment.config.policies import parse

with job.logged(snakemake) as log:
    params, measured = snakemake.params, []
    how = precision.Resampling(params.seed, params.resamples)
    for entry in params.pairs:
        examples = records.read_table(entry["data"], records.EXAMPLES)
        answers = records.read_table(entry["answers"], records.ANSWERS_IN_FORMATS)
        policies = {name: parse(values) for name, values in entry["policies"].items()}
        yardstick = Yardstick(entry["kind"], params.rules, records.read_json(entry["costs"]), entry["exits"])
        frames = {name: records.read_csv(entry[name]) for name in ("states", "predictions", "decisions", "changes")}
        measured.append(
            precision.Measured(
                labels={name: entry[name] for name in ("backbone", "family", "dataset")} | {"preset": params.preset},
                groups=dict(zip(examples["example_id"], examples["group_id"], strict=True)),
                evaluated=evaluate_formats(answers, examples, policies, yardstick),
                **frames,
            )
        )
    table = pd.concat([precision.table(one, how) for one in measured], ignore_index=True)
    records.write_csv(table, snakemake.output.table)
    verdicts = precision.test(measured, how, experiment=params.name, preset=params.preset)
    records.write_csv(verdicts, snakemake.output.claims)
    log.info("%d rows of %d backbones and datasets", len(table), len(measured))
