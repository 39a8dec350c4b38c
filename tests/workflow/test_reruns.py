"""What a change runs again, row by row as docs/reproducibility.md says: jobs, and answers computed.

Answers are counted in real runs of the smallest experiment, from what the jobs log.
"""

import re
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

import small
from conftest import ROOT

PRESET = yaml.safe_load((ROOT / "workflow/presets/tiny.yaml").read_text())
POLICIES = dict.fromkeys(PRESET["policies"]) | {
    "full": PRESET["policies"]["full"],
    "calm": {"kind": "head", "recipe": "own", "head": "calm", "state_fill": "propagate", "thresholds": [0.5, 0.9]},
    "pruned": {"drop": [2]},
}
CONFIG = small.CONFIG | {
    "policies": POLICIES,
    "recipes": {"paper": None, "own": ["calm"]},
    "datasets": {"coqa": None, "truthfulqa": None,
                 "triviaqa": {"examples": {"calibration": 4, "test": 5}, "max_new_tokens": 6}},
    "calibration": {"promises": {**dict.fromkeys(PRESET["calibration"]["promises"]),
                                 "one": {"risk": "disagreement", "epsilon": 0.2}}},
}  # fmt: skip
BOTH = [f"{small.ANSWERS}/{part}/test.parquet" for part in ("full", "exits")]
RECORD = {"full": "answer_full", "exits": "answer"}
# Both splits, nine questions: the full model, and the head at two thresholds; pruning answers the five test questions.
FULL, CALM, PRUNED = 9, 2 * 9, 5
COMPUTED_AT_FIRST = {"full": FULL, "exits": CALM + PRUNED}


def changed(**keys):
    """The config with other keys; `policies` and `datasets` one level deeper."""
    config = deepcopy(CONFIG)
    for key, value in keys.items():
        config[key] = {**config[key], **value} if isinstance(config.get(key), dict) else value
    return config


CALM_AT = CONFIG["policies"]["calm"]
TRIVIAQA = CONFIG["datasets"]["triviaqa"]
# Rows of the page's table, the config that makes all these changes, and the answers that the two jobs compute; None
# where one does not run.
RENAMED = changed(batch_size=3, degeneration={"ngram": 2}, scoring={"rules": "lm-eval"}, policies={"mine": CALM_AT})
RENAMED["policies"] |= {"pruned": None}
del RENAMED["policies"]["calm"]
LEAN = {"head": "ffn-slim", "thresholds": [0.9]}
CHANGES = {
    "nothing is computed": (
        ["`batch_size`, `generation.shards`", "`degeneration`", "`scoring.rules`, an edit of `evaluation/metrics.py`",
         "a policy removed or renamed", "a job's outputs deleted"],
        RENAMED,
        {"full": 0, "exits": 0},
    ),
    "settings, policies and heads more": (
        ["a threshold more", "a policy more, or another state fill", "a head more, in a recipe of its own",
         "a head more, in a recipe that there is"],
        changed(policies={"calm": CALM_AT | {"thresholds": [0.5, 0.7, 0.9]},
                          "copied": CALM_AT | {"state_fill": "copy", "thresholds": [0.9]},
                          "fixed": {"kind": "fixed", "state_fill": "copy"},
                          "lean": CALM_AT | LEAN,
                          "wide": CALM_AT | {"recipe": "more", "head": "ffn", "thresholds": [0.9]}},
                recipes={"own": ["ffn-slim", "calm"], "more": ["ffn"]}),
        {"full": None, "exits": 9 + 9 + 4 * 5 + 9 + 9},
    ),
    "questions": (
        ["test questions more"],
        changed(datasets={"triviaqa": TRIVIAQA | {"examples": {"calibration": 4, "test": 7}}}),
        {"full": 2, "exits": 2 * 2 + 2},
    ),
    "exits": (
        ["`exits`"],
        changed(backbones={"tiny-transformer": {"exits": [8, 12]}}),
        {"full": 0, "exits": CALM},
    ),
    "length": (
        ["`max_new_tokens`, `dtype`, `generation.repetition_penalty`, an edit of the engine"],
        changed(datasets={"triviaqa": TRIVIAQA | {"max_new_tokens": 7}}),
        COMPUTED_AT_FIRST,
    ),
}  # fmt: skip
SECTION = (
    (ROOT / "docs/reproducibility.md").read_text().partition("## What a change runs again")[2].partition("\n## ")[0]
)
ROWS = [row[0] for row in re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", SECTION, re.MULTILINE)[2:]]
WITHOUT_ANSWERS = ["`bootstrap.resamples`, an edit of `report/style.py`"]  # see test_dag


def computed(folder: Path) -> dict[str, int | None]:
    """By part how many answers the jobs of the last run computed; None if none ran."""
    found = {}
    for part, rule in RECORD.items():
        logs = sorted((folder / small.RESULTS / "logs" / rule).rglob("triviaqa*.log"))
        counts = [re.search(r"answers, of which (\d+) were computed now", log.read_text())[1] for log in logs]
        found[part] = sum(map(int, counts)) if counts else None
        for log in logs:
            log.unlink()
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    small.run(folder, *BOTH, config=CONFIG)
    assert computed(folder) == COMPUTED_AT_FIRST
    return folder


@pytest.fixture
def folder(whole, tmp_path_factory):
    """A copy at the same depth in the file system, so that relative paths are the same."""
    return Path(shutil.copytree(whole, tmp_path_factory.mktemp("again"), dirs_exist_ok=True))


def test_every_row_of_the_page_is_tried():
    tried = [row for rows, *_ in CHANGES.values() for row in rows]
    assert sorted([*tried, *WITHOUT_ANSWERS, "`kept/` deleted"]) == sorted(ROWS)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_computes_what_the_page_says(change, folder):
    _, config, expected = CHANGES[change]
    if change == "nothing is computed":
        (folder / BOTH[0]).unlink()
    small.run(folder, *BOTH, config=config)
    assert computed(folder) == expected


def test_another_number_of_shards_computes_nothing_and_answers_the_same(folder):
    from early_exit.base import records

    whole = records.read_answers([folder / BOTH[1]])
    parts = [f"{small.ANSWERS}/exits-{k}-of-2/test.parquet" for k in range(2)]
    small.run(folder, *parts, config=changed(generation={"shards": 2, "checkpoint_rows": 2}))
    assert computed(folder) == {"full": None, "exits": 0}
    assert records.read_answers([folder / part for part in parts]).equals(whole)


def test_cleaning_drops_what_nothing_needs_and_kept_answers_go_with_their_folder(folder):
    """A setting that was taken away is computed again after its answers were dropped, and nothing else."""
    fewer = changed(policies={"calm": CALM_AT | {"thresholds": [0.9]}})
    small.run(folder, *BOTH, config=fewer)
    assert computed(folder) == {"full": None, "exits": 0}
    said = small.run(folder, "clean_answers", config=fewer)
    assert re.search(r"kept: 0\.0 MiB freed", said)
    small.run(folder, *BOTH, config=CONFIG)
    assert computed(folder) == {"full": None, "exits": 9}
    shutil.rmtree(folder / small.RESULTS / "kept")
    small.run(folder, *BOTH, config=CONFIG)
    assert computed(folder) == {"full": None, "exits": None}
    (folder / BOTH[1]).unlink()
    small.run(folder, *BOTH, config=CONFIG)
    assert computed(folder) == {"full": None, "exits": COMPUTED_AT_FIRST["exits"]}
