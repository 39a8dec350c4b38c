"""Early exits in language models, from backbones and question sets to a report.

Wiring only: what runs is in workflow/rules, what it runs on in config.yaml.
"""

from snakemake.utils import min_version

min_version("9.27.1")


configfile: "config.yaml"


report: "report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/generate_inputs.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/exits.smk"
include: "workflow/rules/heads.smk"
include: "workflow/rules/head_report.smk"
include: "workflow/rules/speed_inputs.smk"
include: "workflow/rules/adapt.smk"
include: "workflow/rules/pruning.smk"
include: "workflow/rules/generate.smk"
include: "workflow/rules/wallclock.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/claims.smk"
include: "workflow/rules/promise.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/speed.smk"
include: "workflow/rules/targets.smk"


localrules:
    all,
    report,
    fetch,
    status,
    estimate,


rule all:
    default_target: True
    input:
        rules.report.output.html,
