"""Rounds of prompts with the model's own history equal conversations that are held one by one."""

import hashlib
import runpy
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from early_exit.base import records
from early_exit.base.errors import InputError
from early_exit.base.records import EXAMPLES, GENERATIONS
from early_exit.data import prompts
from early_exit.data.conversations import Rounds

SCRIPT = Path(__file__).parents[2] / "workflow" / "scripts" / "show_prompt.py"
THRESHOLDS = (0.5, 0.7, 0.9)


def conversation(name, turns, own=True):
    """Rows of EXAMPLES: the questions q1, q2, ... about a story, whose gold answers are g1, g2, ..."""
    form = prompts.PROFILES["official"]["coqa"]
    rows = []
    for turn in range(1, turns + 1):
        parts = form.parts([f"q{n}" for n in range(1, turn + 1)], f"Story {name}.")
        prompt = prompts.join(parts, [f"g{n}" for n in range(1, turn)])
        rows.append(
            {
                "example_id": f"{name}:{turn}",
                "group_id": name,
                "conversation_id": name,
                "turn": turn,
                "split": "test",
                "story": f"Story {name}.",
                "question": f"q{turn}",
                "prompt": prompt,
                "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
                "prompt_parts": parts if own else [],
                "stop_strings": ["\n"],
                "references": [f"g{turn}"],
                "incorrect": [],
            }
        )
    return rows


def model(text, setting):
    """A fake generator whose answer depends on every byte of the prompt; at low settings fewer prompts differ."""
    digest = hashlib.sha256(f"{text}{setting > 0.6}".encode()).hexdigest()
    return digest[:1] if setting < 0.8 else digest[:4]


def hold(examples, settings, asked=None):
    """Every answer and its prompt, {(example_id, setting): (answer, prompt)}, and the number of rounds."""
    rounds, found, count = asked or Rounds(examples, settings), {}, 0
    for round_ in rounds:
        count += 1
        for prompt in reversed(round_):  # answers come in any order
            for setting in prompt.columns:
                answer = model(prompt.text, setting)
                assert (prompt.example_id, setting) not in found
                assert rounds.prompt(prompt.example_id, setting).sha256 == prompt.sha256
                found[prompt.example_id, setting] = answer, prompt.text
                rounds.note(prompt.example_id, setting, answer)
    return found, count


def hold_one_by_one(examples, settings):
    """The same by hand: one conversation at one setting after the other."""
    found = {}
    for setting in settings:
        so_far = {}
        for row in sorted(examples.itertuples(), key=lambda row: (row.conversation_id, row.turn)):
            text = so_far.get(row.conversation_id, f"{row.story}\n\n") + f"Q: {row.question}\nA:"
            found[row.example_id, setting] = model(text, setting), text
            so_far[row.conversation_id] = f"{text} {model(text, setting)}\n\n"
    return found


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms())
def test_rounds_are_conversations_held_one_by_one(lengths, random):
    rows = [row for i, turns in enumerate(lengths) for row in conversation(f"c{i}", turns)]
    random.shuffle(rows)
    examples = pd.DataFrame(rows)
    found, count = hold(examples, THRESHOLDS)
    assert found == hold_one_by_one(examples, THRESHOLDS)
    assert count == max(lengths)


def test_settings_with_equal_answers_share_a_prompt():
    asked = Rounds(pd.DataFrame(conversation("c", 2)), THRESHOLDS)
    rounds = iter(asked)
    (prompt,) = next(rounds)
    assert prompt.columns == THRESHOLDS and prompt.text == "Story c.\n\nQ: q1\nA:"
    for setting, answer in zip(THRESHOLDS, ["x", "y", "x"], strict=True):
        asked.note("c:1", setting, answer)
    assert [(prompt.columns, prompt.text) for prompt in next(rounds)] == [
        ((0.5, 0.9), "Story c.\n\nQ: q1\nA: x\n\nQ: q2\nA:"),
        ((0.7,), "Story c.\n\nQ: q1\nA: y\n\nQ: q2\nA:"),
    ]


def test_gold_history_is_one_round_of_unchanged_prompts():
    rows = conversation("c", 3, own=False) + conversation("d", 2, own=False)
    ((*asked,),) = Rounds(pd.DataFrame(rows), THRESHOLDS)
    assert [(p.example_id, p.text, p.sha256) for p in asked] == [
        (row["example_id"], row["prompt"], row["prompt_sha256"]) for row in rows
    ]
    assert {p.columns for p in asked} == {THRESHOLDS}


def test_a_killed_run_resumes_where_it_was():
    examples = pd.DataFrame(conversation("c", 3) + conversation("d", 2))
    whole, _ = hold(examples, THRESHOLDS)
    for kept in range(len(whole) + 1):
        rounds, before = Rounds(examples, THRESHOLDS), dict(list(whole.items())[:kept])
        for (example_id, setting), (answer, _) in before.items():
            rounds.note(example_id, setting, answer)
        after, _ = hold(examples, THRESHOLDS, rounds)
        assert not before.keys() & after.keys() and before | after == whole


def test_missing_turns_and_answers_are_refused():
    rows = conversation("c", 3)
    with pytest.raises(InputError, match="example c:3: turn 2 is missing"):
        Rounds(pd.DataFrame([rows[0], rows[2]]), THRESHOLDS)
    rounds = iter(Rounds(pd.DataFrame(rows), THRESHOLDS))
    next(rounds)
    with pytest.raises(ValueError, match=r"c:2: the answer to c:1 at 0\.5 was not noted"):
        next(rounds)


@pytest.fixture
def files(tmp_path):
    """A dataset with own history, and a run on it."""
    examples = pd.DataFrame(conversation("c", 3))
    found, _ = hold(examples, THRESHOLDS)
    run = [
        dict.fromkeys(GENERATIONS.names)
        | {"policy": "calm", "example_id": example_id, "setting": setting, "text": answer}
        | {name: [] for name in ("token_ids", "exit_blocks", "drafted", "accepted")}
        for (example_id, setting), (answer, _) in found.items()
    ]
    records.write_table(examples, tmp_path / "data.parquet", EXAMPLES)
    records.write_table(pd.DataFrame(run), tmp_path / "test.parquet", GENERATIONS)
    return tmp_path, examples, found


@pytest.fixture
def show_prompt(monkeypatch, capsys):
    """Call the script; returns its exit code, standard output and standard error."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["show_prompt.py", *map(str, arguments)])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as end:
            return str(end), *capsys.readouterr()
        return "", *capsys.readouterr()

    return call


def test_show_prompt_prints_the_exact_prompt(files, show_prompt):
    folder, examples, found = files
    data, run = folder / "data.parquet", folder / "test.parquet"
    about = f"example c:1, sha256 {examples['prompt_sha256'][0]}, stop strings ['\\n']\n"
    assert show_prompt(data) == ("", examples["prompt"][0], about)
    assert show_prompt(data, "c:3")[1] == examples["prompt"][2]  # after the gold answers
    _, text, about = show_prompt(data, "c:3", run, "calm", "0.70")
    assert text == found["c:3", 0.7][1] and hashlib.sha256(text.encode()).hexdigest() in about


def test_show_prompt_says_in_one_line_what_is_wrong(files, show_prompt):
    folder, *_ = files
    data, run = folder / "data.parquet", folder / "test.parquet"
    for arguments, message in [
        ([data, "c:9"], "has no example c:9"),
        ([data, "c:3", run, "calm", "0.8"], "has no answer to example c:3 by policy calm at setting 0.8"),
        ([data, "c:3", run, "full", "0.7"], "has no answer to example c:3 by policy full"),
        ([run], "has not the columns of this hand-over file"),
        ([data, "c:3", run, "calm", "high"], "could not convert string to float"),
    ]:
        error, text, _ = show_prompt(*arguments)
        assert error.startswith("Error: ") and "\n" not in error and message in error and not text
    assert "Usage: " in show_prompt(data, "c:3", run)[0]


def test_importing_loads_no_torch():
    code = "import sys; from early_exit.data import conversations; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, check=False).returncode == 0
