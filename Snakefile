"""Early exits in language models, from backbones and question sets to a report.

Wiring only: what runs is in workflow/rules, what it runs on in config.yaml.
"""

from snakemake.utils import min_version

min_version("9.27.1")


configfile: "config.yaml"


report: "report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/heads.smk"
include: "workflow/rules/blocks.smk"
include: "workflow/rules/answers.smk"
include: "workflow/rules/precision.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/speed.smk"
include: "workflow/rules/targets.smk"


rule all:
    default_target: True
    input:
        rules.report.output.html,
    localrule: True
