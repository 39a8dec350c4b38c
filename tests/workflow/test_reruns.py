"""What a change runs again, row by row as docs/reproducibility.md says, counted in dry runs over a finished run."""

import re

import pytest
import yaml
from test_dag import ROOT, SMALLEST, copy, dry_run, finished  # noqa: F401  # fixtures

PRESET = yaml.safe_load((ROOT / "workflow/presets/tiny.yaml").read_text())
RUN = {"generate", "count_flops", "score"}
CALIBRATED = {"calibrate"}
TRAINED = {"train_heads", "train_heads_seed", "measure_heads"}
# Change of the page's table: the config that makes it, or the module that is edited; the rules that run before the
# tables.
CHANGES = {
    "`thresholds`": ({"thresholds": [0.4, 0.6]}, RUN | CALIBRATED),
    "`scoring.rules`": ({"scoring": {"rules": "lm-eval"}}, {"score", "calibrate"}),
    "an edit of `evaluation/metrics.py`": ("evaluation/metrics", {"score", "calibrate"}),
    "`bootstrap.resamples`": ({"bootstrap": {"resamples": 7}}, set()),
    "an edit of `report/style.py`": ("report/style", set()),
    "a backbone more": (
        {"backbones": {}, "policies": {k: v for k, v in SMALLEST["policies"].items() if k != "calm-skip"}},
        RUN | CALIBRATED | TRAINED | {"fetch_backbone", "settle", "layer_costs"},
    ),
    "a dataset more": ({"datasets": {"truthfulqa": None}}, RUN | CALIBRATED | {"fetch_dataset", "check_disjoint"}),
    "a head more, in a recipe of its own": (
        {
            "heads": {"wide": PRESET["heads"]["mamba"]},
            "recipes": {"more": ["wide"]},
            "policies": {
                **SMALLEST["policies"],
                "wide": {"kind": "head", "recipe": "more", "head": "wide", "state_fill": "copy"},
            },
        },
        RUN | CALIBRATED | TRAINED | {"layer_costs"},
    ),
    "`batch_size`": ({"batch_size": 5}, RUN | CALIBRATED),
    "`generation.shards`": ({"generation": {"shards": 2}}, RUN | CALIBRATED | {"join_shards"}),
}
SECTION = (ROOT / "docs/reproducibility.md").read_text().partition("## What a change runs again")[2]
ROWS = re.findall(r"^\| (.+?) \| (.+?) \|$", SECTION, re.MULTILINE)[2:]
DATA = {"fetch_dataset", "fetch_corpus", "check_disjoint"}
JOBS = RUN | CALIBRATED | TRAINED | DATA | {"join_shards", "fetch_backbone", "settle", "layer_costs"}
AFTER = {"tables", "compare", "claims", "figures", "head_tables", "provenance", "report", "promise", "all"}


def test_every_row_of_the_page_is_tried():
    assert [change for change, _ in ROWS] == list(CHANGES)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_runs_what_the_page_says(change, finished):  # noqa: F811
    config, expected = CHANGES[change]
    if isinstance(config, str):
        module = finished / f"workflow/scripts/early_exit/{config}.py"
        before = module.read_text()
        module.write_text(before + "\n# edited\n")
        rerun = dry_run(finished)
        module.write_text(before)
    else:
        rerun = dry_run(finished, **config)
    assert rerun.keys() - AFTER == expected
    named = set(re.findall(r"`(\w+)`", dict(ROWS)[change]))
    assert expected == (JOBS - named if "all rules but" in dict(ROWS)[change] else named)
    assert all(rerun.get(rule, 1) == 1 for rule in ("train_heads", "fetch_backbone", "fetch_dataset"))
