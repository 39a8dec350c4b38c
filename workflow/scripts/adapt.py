"""Rule adapt: the plans of adaptive policies, from their confidences on the full model's calibration answers."""

from pathlib import Path

from early_exit.base import job, records
from early_exit.decoding import teacher_forced
from early_exit.experiment.config.policies import parse
from early_exit.models import loading
from early_exit.policies import build, plan
from early_exit.policies.base import Given

with job.logged(snakemake) as log:
    params, files, plans = snakemake.params, snakemake.input, {}
    examples = records.read_table(files.data, records.EXAMPLES)
    examples = examples[examples["split"] == "calibration"]
    chosen = set(examples["example_id"][plan.chosen_on(examples, params.runtime["seed"])])
    full = records.read_answers(files.full)
    full = full[full["policy"] == "full"].reset_index(drop=True)
    manifest, table = records.read_json(files.manifest), records.read_json(files.costs)
    backbone, tokenizer = loading.open_backbone(manifest, params.runtime)
    folders = {Path(path).parent.name: Path(path).parent for path in files.get("heads") or ()}
    policies, measures = {name: parse(values) for name, values in params.policies.items()}, {}
    for name, policy in policies.items():
        folder = folders[policy.trained[0]] if policy.trained else None
        given = Given(manifest, params.exits, params.max_new_tokens, params.runtime["seed"], folder)
        fits = full["example_id"].isin(chosen) if policy.fits_on_calibration else full["example_id"].notna()
        measures[name] = teacher_forced.Measure(
            build.build(policy, backbone, given), policy.price(params.exits), fits.to_numpy()
        )
    answers = teacher_forced.answers(
        backbone, tokenizer, examples, full, max_new_tokens=params.max_new_tokens, overflow=params.overflow
    )
    for name, measured in teacher_forced.measure(backbone, measures, answers, table).items():
        plans[name] = plan.plan(name, policies[name].rule, measured)
        for entry in plans[name]["settings"]:
            message = "%s, %(setting)g: thresholds %(thresholds)s, share %(share).3f, agreement %(agreement).3f"
            log.info(message.replace("%s,", f"{name},"), entry)
        for entry in plans[name]["aims"]:
            log.info(f"{name}, %(budget)g: aims at %(aim).3f, share %(share).3f", entry)
    records.write_json(plans, snakemake.output[0])
