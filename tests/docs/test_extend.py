"""The examples of docs/extend.md: the page shows the files of docs/examples as they are, and they do what it says.

That their configs run is in tests/workflow/test_examples.py.
"""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch

from conftest import ROOT
from early_exit.data import questions
from early_exit.heads import store
from early_exit.sources.rows import Row

PAGE = (ROOT / "docs/extend.md").read_text()
EXAMPLES = ROOT / "docs/examples"
SHOWN = re.findall(r"^<!-- (docs/examples/\S+) -->\n```\w+\n(.*?)```$", PAGE, re.MULTILINE | re.DOTALL)
SCORE = """
from types import SimpleNamespace
from early_exit.base.records import RESULTS_COLUMNS
from early_exit.evaluation.scoring import score_answer
example = SimpleNamespace(example_id="q", references=["Rome"], incorrect=[])
assert score_answer("It is Rome, of course.", example, kind="triviaqa")["contains"] == 100
assert score_answer("Romeo", example, kind="triviaqa")["contains"] == 0
assert {"contains", "contains_low", "contains_high"} <= set(RESULTS_COLUMNS)
"""
DRAW = """
import pandas as pd
from early_exit.experiment.figures import KINDS, Figure
from early_exit.report import figures
[kind] = [kind for kind in KINDS if kind.name == "answer_length"]
rows = pd.DataFrame({"dataset": ["coqa", "coqa", "triviaqa"], "backbone": "b", "policy": "p", "head": "calm",
                     "state_fill": "copy", "flops_saved": [0.2, 0.1, 0.3], "mean_tokens": [5.0, 6.0, 7.0]})
drawn = figures.draw(Figure(kind.name, kind.category, kind.tables, key="coqa"), {"results": rows})
assert drawn.axes[0].lines[0].get_xydata().tolist() == [[10.0, 6.0], [20.0, 5.0]]
"""


def test_the_page_shows_every_example_as_it_is():
    assert [(name, (ROOT / name).read_text()) for name, _ in SHOWN] == SHOWN
    mentioned = set(re.findall(r"docs/examples/[\w.]+\w", PAGE))
    assert mentioned == {path.relative_to(ROOT).as_posix() for path in EXAMPLES.iterdir() if path.is_file()}


def test_the_page_shows_a_row_of_the_questions_and_all_of_them_are_read():
    rows = [json.loads(line) for line in (EXAMPLES / "questions.jsonl").read_text().splitlines()]
    assert json.loads(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1]) == rows[0]
    examples = questions.read_examples("triviaqa", [Row(f"row {k}", row) for k, row in enumerate(rows)])
    assert [example.answer for example in examples] == [row["answer"]["value"] for row in rows]


def test_the_head_maps_hidden_states_to_two_logits_and_says_what_that_costs():
    design = {"kind": f"{EXAMPLES}/narrow_head.py:Bottleneck", "width": 8}
    heads = store.build(design, 32, [2, 4])
    assert heads["4"](torch.randn(3, 5, 32)).shape == (3, 5, 2)
    assert store.cost(design, 32) == {"linear": 2 * (32 * 8 + 8 * 2), "recurrence": 0, "per_context": 0}


@pytest.mark.parametrize(("name", "code"), [("metric", SCORE), ("figure", DRAW)])
def test_a_change_applies_and_works(name, code, tmp_path):
    shutil.copytree(ROOT / "workflow/scripts/early_exit", tmp_path / "workflow/scripts/early_exit")
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "apply", EXAMPLES / f"{name}.diff"], check=True)
    env = {"PYTHONPATH": str(tmp_path / "workflow/scripts")}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
    assert name != "figure" or (tmp_path / "report/answer_length.rst").is_file()
