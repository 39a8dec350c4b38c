"""Rule adapt: the plan of an adaptive policy, from its confidences on the full model's calibration answers."""

from pathlib import Path

from early_exit.base import job, records
from early_exit.decoding import teacher_forced
from early_exit.experiment.config.policies import parse
from early_exit.models import loading
from early_exit.policies import build, plan

with job.logged(snakemake) as log:
    params, files = snakemake.params, snakemake.input
    policy = parse(params.policy)
    examples = records.read_table(files.data, records.EXAMPLES)
    examples = examples[examples["split"] == "calibration"]
    if policy.fits_on_calibration:
        examples = examples[plan.chosen_on(examples, params.runtime["seed"])]
    full = records.read_table(files.full, records.GENERATIONS)
    full = full[full["example_id"].isin(examples["example_id"])]
    manifest, table = records.read_json(files.manifest), records.read_json(files.costs)
    backbone, tokenizer = loading.open_backbone(manifest, params.runtime)
    folder = Path(files.heads).parent if files.get("heads") else None
    given = build.Given(manifest, params.exits, params.max_new_tokens, params.runtime["seed"], folder)
    answers = teacher_forced.answers(
        backbone, tokenizer, examples, full, max_new_tokens=params.max_new_tokens, overflow=params.overflow
    )
    costs = policy.price(params.exits)
    measured = teacher_forced.measure(backbone, build.build(policy, backbone, given), answers, table, costs)
    chosen = plan.plan(snakemake.wildcards.policy, policy.rule, measured)
    for entry in chosen["settings"]:
        log.info("%(setting)g: thresholds %(thresholds)s, share %(share).3f, agreement %(agreement).3f", entry)
    for entry in chosen["aims"]:
        log.info("%(budget)g: aims at %(aim).3f, share %(share).3f", entry)
    records.write_json(chosen, snakemake.output[0])
