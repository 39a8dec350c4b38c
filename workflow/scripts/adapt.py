"""Rule adapt: what an adaptive policy goes by, measured on the full model's answers to the calibration questions."""

from pathlib import Path

from early_exit.base import job, records
from early_exit.decoding import teacher_forced
from early_exit.experiment import policy_kinds
from early_exit.models import loading
from early_exit.policies import build
from early_exit.policies import plan as planning

with job.logged(snakemake) as log:
    params, files, policy = snakemake.params, snakemake.input, snakemake.params.policy
    examples = records.read_table(files.data, records.EXAMPLES)
    examples = examples[examples["split"] == "calibration"]
    if policy["adapt"] == "per-exit":
        examples = examples[planning.chosen_on(examples, params.runtime["seed"])]
    full = records.read_table(files.full, records.GENERATIONS)
    full = full[full["example_id"].isin(examples["example_id"])]
    manifest, table = records.read_json(files.manifest), records.read_json(files.costs)
    backbone, tokenizer = loading.open_backbone(manifest, params.runtime)
    folder = Path(files.heads).parent if files.get("heads") else None
    length = params.max_new_tokens
    given = build.Given(manifest, params.exits, length, params.runtime["seed"], folder)
    asked = build.build(policy, backbone, given)
    some = teacher_forced.answers(backbone, tokenizer, examples, full, max_new_tokens=length, overflow=params.overflow)
    costs = policy_kinds.counted(policy, params.exits)
    measured = teacher_forced.measure(backbone, asked, some, table, costs)
    plan = planning.plan(snakemake.wildcards.policy, policy, measured)
    for entry in plan["settings"]:
        log.info("%(setting)g: thresholds %(thresholds)s, share %(share).3f, agreement %(agreement).3f", entry)
    for entry in plan["aims"]:
        log.info("%(budget)g: aims at %(aim).3f, share %(share).3f", entry)
    records.write_json(plan, snakemake.output[0])
