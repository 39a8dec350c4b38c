"""Loading question sets and corpora: accepted schemas, disjoint roles, one-line errors, real data."""

import csv
import hashlib
import json
import runpy
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from early_exit.base.errors import InputError
from early_exit.base.records import CORPUS, EXAMPLES, read_metadata, read_table, write_table
from early_exit.data import datasets, disjoint, prompts, questions
from early_exit.data.corpus import load_corpus
from early_exit.sources.readers import READERS, Row, read
from early_exit.sources.rows import HubSource, LocalSource

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parents[3] / "shared" / "data"
GOLDEN = DATA.parent / "golden"
real = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared")

TINY_SPLITS = {"shots": "train", "calibration": "validation", "test": "test"}
ONE_SPLIT = {"shots": None, "calibration": None, "test": None}


def spec(kind, source, shots=0, calibration=2, test=2, splits=None, **more):
    examples = {"calibration": calibration, "test": test}
    return {
        "kind": kind,
        "source": str(source),
        "shots": shots,
        "examples": examples,
        "splits": splits or ONE_SPLIT,
        **more,
    }


def trivia(number, question=None):
    return {
        "question": question or f"What is number {number}?",
        "question_id": f"q{number}",
        "question_source": "",
        "entity_pages": {"doc_source": [], "filename": [], "title": [], "wiki_context": []},
        "search_results": {"description": [], "search_context": []},
        "answer": {
            "value": f"VALUE {number}",
            "aliases": [f"value {number}", f"No. {number}"],
            "normalized_aliases": [f"value {number}", f"no {number}"],
        },
    }


def truth(number):
    return {
        "type": "Adversarial",
        "category": "c",
        "question": f"Is {number} lucky?",
        "best_answer": f"No, {number} is not",
        "correct_answers": [f"No, {number} is not", "No"],
        "incorrect_answers": ["Yes"],
        "source": "s",
    }


def conversation(number, turns=3, story=None):
    """The original schema: lists of records."""

    def said(text):
        return [{"input_text": f"{text} {turn}", "turn_id": turn} for turn in range(1, turns + 1)]

    return {
        "id": f"c{number}",
        "source": "s",
        "story": story or f"This is story {number}. It is short.",
        "questions": said("which"),
        "answers": said("gold"),
        "additional_answers": {str(k): said(f"other{k}") for k in range(3)},
    }


def as_hub(conversation):
    """The same as EleutherAI/coqa has it: records of lists."""

    def lists(records):
        return {key: [record[key] for record in records] for key in ("input_text", "turn_id")}

    extra = {key: lists(records) for key, records in conversation["additional_answers"].items()}
    return {
        **conversation,
        "questions": lists(conversation["questions"]),
        "answers": lists(conversation["answers"]),
        "additional_answers": extra,
    }


def as_stanford(conversation):
    """stanfordnlp/coqa: no ids, one annotator, questions as texts."""
    texts = [turn["input_text"] for turn in conversation["answers"]]
    return {
        "source": "s",
        "story": conversation["story"],
        "questions": [turn["input_text"] for turn in conversation["questions"]],
        "answers": {"input_text": texts, "answer_start": [0] * len(texts), "answer_end": [1] * len(texts)},
    }


def write_lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_parquet(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


def only(frame, split):
    return frame[frame["split"] == split].reset_index(drop=True)


# --- schemas and forms of sources


def test_triviaqa_row(tmp_path):
    path = write_lines(tmp_path / "t.jsonl", [trivia(i) for i in range(4)])
    frame = datasets.load("t", spec("triviaqa", path, shots=2, calibration=1, test=1), seed=0)
    row = only(frame, "test").iloc[0]
    number = row.example_id[1:]
    assert row.references == [f"value {number}", f"No. {number}"] and row.incorrect == []
    blocks = row.prompt.split("\n\n")
    assert len(blocks) == 3 and blocks[2] == f"Question: What is number {number}?\nAnswer:"
    assert blocks[0].endswith("\nAnswer: VALUE " + blocks[0].split("?")[0].split()[-1])
    write_table(frame, tmp_path / "out.parquet", EXAMPLES, frame.attrs)
    pd.testing.assert_frame_equal(read_table(tmp_path / "out.parquet", EXAMPLES), frame, check_dtype=False)


def test_odd_quotes_stay_and_outer_spaces_are_stripped(tmp_path):
    question = ' "Who said ""No""?" '
    path = write_lines(tmp_path / "t.jsonl", [trivia(1, question), trivia(2)])
    frame = datasets.load("t", spec("triviaqa", path, calibration=1, test=1), seed=0)
    assert 'Question: "Who said ""No""?"\nAnswer:' in set(frame["prompt"])


def test_coqa_forms_agree(tmp_path):
    conversations = [conversation(i) for i in range(6)]
    original = tmp_path / "dev.json"
    original.write_text(json.dumps({"version": "1.0", "data": conversations}), encoding="utf-8")
    hub = [as_hub(c) for c in conversations]
    paths = [original, write_lines(tmp_path / "hub.jsonl", hub), write_parquet(tmp_path / "hub.parquet", hub)]
    frames = [datasets.load("c", spec("coqa", path, calibration=6, test=6), seed=3) for path in paths]
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0])
    row = frames[0].iloc[1]
    assert row.example_id == f"{row.group_id}:2"
    assert row.references == ["gold 2", "other0 2", "other1 2", "other2 2"]
    number = row.group_id[1:]
    assert row.prompt == (f"This is story {number}. It is short.\n\nQ: which 1\nA: gold 1\n\nQ: which 2\nA:")


def test_coqa_without_ids_has_stable_ones(tmp_path):
    rows = [as_stanford(conversation(i)) for i in range(4)]
    frames = [
        datasets.load("c", spec("coqa", write_lines(tmp_path / f"{n}.jsonl", given), calibration=3, test=3), seed=0)
        for n, given in enumerate((rows, rows[::-1]))
    ]
    pd.testing.assert_frame_equal(frames[0], frames[1])
    assert frames[0]["references"].map(len).eq(1).all() and frames[0]["example_id"].is_unique


def test_empty_additional_answers_of_a_training_split(tmp_path):
    hub = as_hub(conversation(0)) | {"additional_answers": {k: {"input_text": [], "turn_id": []} for k in "012"}}
    path = write_lines(tmp_path / "c.jsonl", [hub, as_hub(conversation(1))])
    frame = datasets.load("c", spec("coqa", path, calibration=3, test=3), seed=0)
    assert sorted(frame["references"].map(len)) == [1, 1, 1, 4, 4, 4]


def test_truthfulqa_hub_and_csv_agree(tmp_path):
    rows = [truth(i) for i in range(6)]
    path = tmp_path / "TruthfulQA.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source"]
        )
        writer.writerows([*[v if isinstance(v, str) else "; ".join(v) + ";" for v in row.values()]] for row in rows)
    hub = datasets.load("t", spec("truthfulqa", write_parquet(tmp_path / "h.parquet", rows), shots=1), seed=5)
    original = datasets.load("t", spec("truthfulqa", path, shots=1), seed=5)
    pd.testing.assert_frame_equal(hub, original)
    row = only(hub, "test").iloc[0]
    assert row.references[1] == "No" and row.incorrect == ["Yes"] and row.prompt.count("A: No, ") == 1


SETS = {"triviaqa": trivia, "truthfulqa": truth, "coqa": lambda n: as_hub(conversation(n)), "turns": conversation,
        "stanford": lambda number: as_stanford(conversation(number))}  # fmt: skip


def save_as(writer, records, path):
    """A CSV file of records as one of these programs writes it; the path."""
    frame = pd.DataFrame(records)
    if writer == "numpy":  # pandas reads lists from Parquet as arrays
        frame = pd.read_parquet(write_parquet(path.with_suffix(".parquet"), records))
    if writer in ("json", "json in ascii"):
        frame = frame.map(lambda v: v if isinstance(v, str) else json.dumps(v, ensure_ascii=writer != "json"))
    if writer == "arrow":
        Dataset.from_list(records).to_csv(path)
    else:
        frame.to_csv(path, index=writer == "numpy")
    return path


@pytest.mark.parametrize("writer", ["pandas", "numpy", "json", "json in ascii", "arrow"])
@pytest.mark.parametrize("form", SETS)
def test_csv_files_have_the_lists_and_objects_that_were_written_there(form, writer, tmp_path):
    kind = form if form in ("triviaqa", "truthfulqa") else "coqa"
    records = [SETS[form](number) for number in range(6)]
    if form == "truthfulqa":
        odd = ['It\'s "odd", is [it]?', "a; b", "«漢字» 🙂\n", "x\\y", *(f"answer number {n}" for n in range(30))]
        records[0] |= {"correct_answers": odd, "incorrect_answers": odd[:1]}
    if form == "triviaqa":
        records[0]["answer"]["aliases"] = ["It's", 'the "a, b"', "None", "..."]
    given = spec(kind, write_lines(tmp_path / "a.jsonl", records), calibration=9 if kind == "coqa" else 3, test=3)
    original = datasets.load("d", given, seed=0)
    read = datasets.load("d", given | {"source": str(save_as(writer, records, tmp_path / "a.csv"))}, seed=0)
    pd.testing.assert_frame_equal(read, original)


@pytest.mark.parametrize("column", ["Correct Answers", "Incorrect Answers"])
@pytest.mark.parametrize(
    "text", ["['a' ... 'b']", "['a', 'b", "[a, b]", 'c("a", "b")', "{a,b}", "array(['a']", "\"['a']\"", "[1, 2]", "{}"]
)
def test_a_cell_whose_list_cannot_be_read_exactly_is_refused(column, text, tmp_path):
    row = {"Question": "Why?", "Best Answer": "So", "Correct Answers": "a; b", "Incorrect Answers": "c"}
    pd.DataFrame([row, row | {"Question": "Who?", column: text}]).to_csv(tmp_path / "t.csv", index=False)
    name = column.lower().replace(" ", "_")
    why = rf"^\S+t.csv, line 3: {name} is (not a list of texts|a text that cannot be read \(.*)"
    with pytest.raises(InputError, match=why) as caught:
        datasets.load("t", spec("truthfulqa", tmp_path / "t.csv"), seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "layout", ["{}.jsonl", "data/{}-00000-of-00001.parquet", "rc.nocontext/{}-00000-of-00001.parquet"]
)
def test_folder_layouts_of_the_hub(tmp_path, layout):
    for split, first in (("train", 0), ("validation", 10), ("test", 20)):
        path = tmp_path / layout.format(split)
        rows = [trivia(i) for i in range(first, first + 5)]
        (write_lines if path.suffix == ".jsonl" else write_parquet)(path, rows)
    given = spec("triviaqa", tmp_path, 1, splits=TINY_SPLITS, name="rc.nocontext")
    frame = datasets.load("t", given, seed=0)
    assert {int(i[1:]) // 10 for i in only(frame, "test")["example_id"]} == {2}
    assert {int(i[1:]) // 10 for i in only(frame, "calibration")["example_id"]} == {1}
    assert [key for key in frame.attrs if key.startswith("sha256:")] == sorted(
        f"sha256:{Path(layout.format(split)).as_posix()}" for split in TINY_SPLITS.values()
    )


def test_shards_are_read_together_and_must_be_whole(tmp_path):
    for shard in range(2):
        write_parquet(tmp_path / f"test-0000{shard}-of-00002.parquet", [trivia(10 * shard + i) for i in range(3)])
    assert len(datasets.load("t", spec("triviaqa", tmp_path, calibration=3, test=3), seed=0)) == 6
    (tmp_path / "test-00001-of-00002.parquet").unlink()
    with pytest.raises(InputError, match=r"split test are not one whole set: test-00000-of-00002.parquet"):
        datasets.load("t", spec("triviaqa", tmp_path), seed=0)


def test_json_lines_in_a_json_file(tmp_path):
    path = write_lines(tmp_path / "t.json", [trivia(i) for i in range(4)])
    assert len(datasets.load("t", spec("triviaqa", path), seed=0)) == 4


def test_a_relative_source_starts_at_root(tmp_path):
    write_lines(tmp_path / "here" / "t.jsonl", [trivia(i) for i in range(4)])
    assert len(datasets.load("t", spec("triviaqa", "here/t.jsonl"), seed=0, root=tmp_path)) == 4


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_code_reads_what_local_code_reads(tmp_path, monkeypatch, streaming):
    """The hub's library accepts a folder in place of a hub id, so the real call runs without a network."""
    import datasets as hugging_face

    monkeypatch.setattr(hugging_face.config, "HF_DATASETS_CACHE", tmp_path)
    folder = ROOT / "workflow" / "resources" / "tiny" / "coqa"
    hub = HubSource("datasets.c", str(folder), None, None)
    assert hub.split("test", "key") == "test"
    local = LocalSource("datasets.c", "tiny", folder, None)
    there = questions.read_examples("coqa", hub.rows("test", streaming))
    assert there == questions.read_examples("coqa", local.rows("test")) and len(there) == 360
    with pytest.raises(InputError, match=r"key: null, but .* more than one split; name one of train, validation, test"):
        hub.split(None, "key")


def test_an_unreachable_hub_is_one_line(monkeypatch):
    import datasets as hugging_face

    def refuse(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'a/b' on the Hub\nlong story")

    monkeypatch.setattr(hugging_face, "load_dataset_builder", refuse)
    given = spec("triviaqa", "a/b", splits=TINY_SPLITS, revision="0" * 40)
    with pytest.raises(InputError, match=r"^datasets.t: a/b at revision 0+ cannot be read .*on the Hub\)$"):
        datasets.load("t", given, seed=0)


def test_a_gated_set_says_what_to_do(monkeypatch):
    import datasets as hugging_face

    def refuse(*args, **kwargs):
        raise hugging_face.exceptions.DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub.")

    monkeypatch.setattr(hugging_face, "load_dataset_builder", refuse)
    given = spec("triviaqa", "a/b", splits=TINY_SPLITS, revision="0" * 40)
    with pytest.raises(InputError, match=r"on the Hub\.\); accept its terms on its page, and set HF_TOKEN"):
        datasets.load("t", given, seed=0)


# --- prompt profiles, turns and history


def test_lm_eval_triviaqa_prompt_and_stops(tmp_path):
    path = write_lines(tmp_path / "t.jsonl", [trivia(i) for i in range(4)])
    frame = datasets.load("t", spec("triviaqa", path, shots=1, calibration=1, test=1, prompt="lm-eval"), seed=0)
    row = only(frame, "test").iloc[0]
    assert row.prompt.endswith(f"\n\nQuestion: {row.question}?\nAnswer:") and row.question.endswith("?")
    assert "\nAnswer: value " in row.prompt  # the first alias; the official prompt shows the value, VALUE n
    assert row.stop_strings == ["\n", ".", ","] and frame.attrs["prompt"] == "lm-eval"


def test_lm_eval_truthfulqa_prompt_leaves_the_cue_to_the_model(tmp_path):
    path = write_lines(tmp_path / "t.jsonl", [truth(i) for i in range(4)])
    frame = datasets.load("t", spec("truthfulqa", path, shots=1, calibration=1, test=1, prompt="lm-eval"), seed=0)
    row = only(frame, "test").iloc[0]
    assert row.prompt.count("Q: ") == 2 and row.prompt.count("\nA: ") == 1
    assert row.prompt.endswith(f"\n\nQ: {row.question}") and row.stop_strings == ["\n\n"]


def test_only_the_lm_eval_prompt_keeps_space_around_a_story(tmp_path):
    path = write_lines(tmp_path / "c.jsonl", [conversation(i, story=f"\n Story {i}. ") for i in range(4)])
    frames = {
        profile: datasets.load("c", spec("coqa", path, calibration=3, test=3, prompt=profile), seed=0)
        for profile in ("official", "lm-eval")
    }
    (_, official, *_), (_, lm_eval, *_) = (only(frame, "test").itertuples() for frame in frames.values())
    assert official.example_id == lm_eval.example_id == f"{official.conversation_id}:2"
    number = official.conversation_id[1:]
    assert official.prompt == f"Story {number}.\n\nQ: which 1\nA: gold 1\n\nQ: which 2\nA:"
    assert lm_eval.prompt == f"\n Story {number}. \n\nQ: which 1\n\nA: gold 1\n\nQ: which 2\n\nA:"
    assert (official.stop_strings, lm_eval.stop_strings) == (["\n"], ["\nQ:"])


def test_last_turns_only(tmp_path):
    rows = [conversation(i, turns=i + 2) for i in range(6)]
    path = write_lines(tmp_path / "c.jsonl", rows)
    frame = datasets.load("c", spec("coqa", path, calibration=3, test=3, turns="last"), seed=0)
    assert sorted(frame["conversation_id"]) == [row["id"] for row in rows]
    for row in frame.itertuples():
        assert row.turn == int(row.conversation_id[1:]) + 2 == row.prompt.count("Q: ")
        assert row.example_id == f"{row.conversation_id}:{row.turn}" and row.references[0] == f"gold {row.turn}"
    with pytest.raises(InputError, match=r"datasets\.c\.history: own, but .* set turns to all"):
        datasets.load("c", spec("coqa", path, turns="last", history="own"), seed=0)


@pytest.mark.parametrize("profile", ["official", "lm-eval"])
def test_the_parts_of_own_history_with_gold_answers_are_the_gold_prompt(tmp_path, profile):
    path = write_lines(tmp_path / "c.jsonl", [conversation(i) for i in range(4)])
    gold, own = (
        datasets.load("c", spec("coqa", path, calibration=6, test=6, prompt=profile, history=history), seed=0)
        for history in ("gold", "own")
    )
    assert gold["prompt_parts"].map(len).eq(0).all() and own["prompt_parts"].map(len).tolist() == own["turn"].tolist()
    pd.testing.assert_frame_equal(gold.drop(columns="prompt_parts"), own.drop(columns="prompt_parts"))
    for row in own.itertuples():
        assert prompts.join(row.prompt_parts, [f"gold {turn}" for turn in range(1, row.turn)]) == row.prompt


def test_every_prompt_has_its_hash_and_every_row_its_question(tmp_path):
    path = write_lines(tmp_path / "t.jsonl", [trivia(i) for i in range(5)])
    for row in datasets.load("t", spec("triviaqa", path, shots=1), seed=0).itertuples():
        assert row.prompt_sha256 == hashlib.sha256(row.prompt.encode()).hexdigest()
        assert row.question in row.prompt and row.conversation_id == row.example_id and row.turn == 1


@pytest.mark.parametrize("parts", [[], ["a"], ["a", "b", "c"]])
def test_a_gap_for_every_answer(parts):
    with pytest.raises(ValueError, match="gaps for"):
        prompts.join(parts, ["x"])


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(texts, texts), max_size=3), texts, st.sampled_from(["triviaqa", "coqa", "truthfulqa"]))
def test_the_official_prompt_is_labelled_blocks_with_a_blank_line_between(turns, question, kind):
    """Written out, as the tiny models were trained on this form: not a byte of it may change."""
    asked, answered = ("Question", "Answer") if kind == "triviaqa" else ("Q", "A")
    blocks = [f"{asked}: {q}\n{answered}: {a}" for q, a in turns] + [f"{asked}: {question}\n{answered}:"]
    expected = "\n\n".join((["A story."] if kind == "coqa" else []) + blocks)
    story = ["A story."] if kind == "coqa" else []
    assert getattr(prompts, kind)(*story, turns, question) == expected


# --- errors


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.jsonl", json.dumps(trivia(1)) + '\n{"question": "Wh', r"t.jsonl, line 2: not JSON \(Unterminated string"),
        ("t.jsonl", "[1]\n", "t.jsonl, line 1: a record must be a JSON object"),
        ("t.json", '[{"question": "a"},\n {"question"', r"t.json, line 2: not JSON"),
        ("t.json", '{"data": 3}', "t.json: neither a list of records"),
        ("t.csv", "Question,Best Answer\na,b,c\n", "t.csv, line 2: not as many columns"),
        ("t.csv", "Question,Best Answer\na\n", "t.csv, line 2: not as many columns"),
        ("t.csv", 'Question,Best Answer\n"a","b\n', "t.csv, line 2: not CSV"),
        ("t.csv", "Question,Best Answer,Question\na,b,c\n", "t.csv, line 1: column 'Question' stands there twice; re"),
        ("t.parquet", "PAR1 and no more", "t.parquet: cannot be read"),
        ("t.jsonl", '{"question": "a", "question_id": "1", "answer": {"value": "v"}}',
         r"line 1: lacks answer.aliases; triviaqa accepts TriviaQA rc.nocontext \(question, "),
        ("t.csv", "Question\nWhy?\n", "line 2: lacks question, question_id, answer.value, answer.aliases"),
        ("t.jsonl", json.dumps(trivia(1) | {"question": " "}), "line 1: question is not a text, or is blank"),
        ("t.jsonl", json.dumps(trivia(1)) + "\n" + json.dumps(trivia(1, "Other?")),
         "line 2: id q1 stands for two different questions"),
        ("t.jsonl", "", "0 are left of the 0 in the file"),
        ("t.xlsx", "", "t.xlsx is none of .jsonl, .json, .csv, .parquet"),
    ],
)  # fmt: skip
def test_broken_files(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        datasets.load("t", spec("triviaqa", tmp_path / name), seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.jsonl", '{"question": "a", "n": ' + "9" * 5000 + "}", "line 1: not JSON \\(a number of 5000 digits"),
        ("t.json", '[{"question": "a"},\n {"n": -' + "9" * 5000 + "}]", "line 2: not JSON \\(a number of 5000 "),
        ("t.jsonl", "[" * 200_000, "t.jsonl, line 1: not JSON \\(lists or objects nested too deep"),
        ("t.json", '{"a":' * 200_000, "t.json, line 1: not JSON \\(lists or objects nested too deep"),
        ("t.jsonl", '{"question": "a \\ud83d"}', r"line 1: question has half of a surrogate pair \(\\ud83d\)"),
        ("t.json", '[{"answer": {"aliases": ["x", "\\uDE00"]}}]', r"record 1: answer.aliases has half of a surrogate"),
        ("t.jsonl", '{"\\udc00": "a"}', "line 1: a name in the record has half of a surrogate pair"),
        ("t.jsonl", "version https://git-lfs.github.com/spec/v1\nsize 9\n", "t.jsonl: a Git LFS pointer"),
        ("t.csv", "version https://git-lfs.github.com/spec/v1\n", "t.csv: a Git LFS pointer"),
        ("t.parquet", "version https://git-lfs.github.com/spec/v1\n", "t.parquet: a Git LFS pointer"),
        ("t.parquet", "", "t.parquet: cannot be read"),
    ],
)  # fmt: skip
def test_files_that_python_cannot_hold(tmp_path, name, text, message):
    test_broken_files(tmp_path, name, text, message)


def test_whole_surrogate_pairs_are_characters(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(json.dumps(trivia(i, f"🙂 {i}?")) for i in range(2)), encoding="utf-8")
    assert "\\ud83d\\ude42" in path.read_text()
    assert datasets.load("t", spec("triviaqa", path, 0, 1, 1), seed=0)["question"].str.startswith("🙂").all()


def test_parquet_values_that_python_does_not_have_are_named(tmp_path):
    texts = pa.array([b"a", b"b", b"\xff"]).view(pa.string())  # as programs write that check nothing
    pq.write_table(pa.table({"id": ["1", "2", "3"], "text": texts}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"t.parquet, row 3: 'text' cannot be read \('utf-8' .*; correct the row$"):
        load_corpus(corpus_spec(tmp_path / "t.parquet"), seed=0)


def test_a_csv_file_may_have_a_long_text(tmp_path):
    long = "word " * 100_000
    pd.DataFrame({"text": ["a", long, "b"]}).to_csv(tmp_path / "t.csv", index=False)
    assert load_corpus(corpus_spec(tmp_path / "t.csv", 2, 1), seed=0)["text"].tolist() == ["a", long, "b"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(list(READERS)),
    st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"", b'{"text": "', b'[{"text": ', b'text,b\n"', b"PAR1", b"\xef\xbb\xbf"]),
)
def test_any_bytes_are_records_or_are_refused_in_one_line(tmp_path, suffix, content, begin):
    path = tmp_path / f"any{suffix}"
    path.write_bytes(begin + content)
    try:
        assert all(row.where.startswith(str(path)) and isinstance(row.values, dict) for row in read(path))
    except InputError as error:
        assert str(error).startswith(str(path)) and len(str(error).splitlines()) == 1


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["[1]", "['a' 'b']"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["input_text", "turn_id", "value", "aliases", "0"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_value_in_any_column_is_read_or_refused_in_one_line(data):
    form = data.draw(st.sampled_from(list(SETS)))
    record = SETS[form](1)
    column = data.draw(st.sampled_from(list(record)))
    if isinstance(record[column], dict) and data.draw(st.booleans()):
        record[column] |= {data.draw(st.sampled_from(list(record[column]))): data.draw(values)}
    else:
        record[column] = data.draw(values)
    kind = form if form in ("triviaqa", "truthfulqa") else "coqa"
    try:
        assert questions.read_examples(kind, [Row("file, line 1", record)])
    except InputError as error:
        assert str(error).startswith("file, line 1: ") and "\n" not in str(error)


def test_truncated_parquet_and_bad_bytes(tmp_path):
    path = write_parquet(tmp_path / "t.parquet", [trivia(i) for i in range(50)])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"t.parquet: cannot be read"):
        datasets.load("t", spec("triviaqa", path), seed=0)
    path = tmp_path / "t.jsonl"
    path.write_bytes(json.dumps(trivia(1)).encode() + b'\n{"question": "\xff"}\n')
    with pytest.raises(InputError, match=r"t.jsonl, line 2: not UTF-8 text"):
        datasets.load("t", spec("triviaqa", path), seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": conversation(0, turns=2)["answers"]}, "not one answer for each of the 3 questions"),
        ({"questions": conversation(0)["questions"][::-1]}, "turn_id of questions do not count 1, 2, ..., 3"),
        ({"questions": [None]}, "questions has no text for some turn"),
        ({"additional_answers": ["a"]}, "additional_answers is not an object with one list of answers per annotator"),
        ({"additional_answers": "a"}, "additional_answers is a text that cannot be read"),
        ({"additional_answers": 3}, "additional_answers is not an object"),
        ({"additional_answers": {"0": 3}}, "additional_answers.0 has no text for some turn"),
        ({"questions": {"input_text": ["a", "b", "c"], "turn_id": 3}}, "turn_id of questions is not a list of numbers"),
        ({"answers": {"input_text": ["a", "b", "c"], "turn_id": "3"}}, "answers.turn_id is a text that cannot be read"),
        ({"answers": {"input_text": "a"}}, "answers.input_text is a text that cannot be read"),
        ({"id": ["x"]}, "id is not a text or a number, or is blank"),
        ({"story": None}, "lacks story; coqa accepts the original JSON and EleutherAI/coqa"),
    ],
)
def test_broken_conversations(tmp_path, change, message):
    path = write_lines(tmp_path / "c.jsonl", [conversation(1), conversation(0) | change])
    with pytest.raises(InputError, match=f"line 2: .*{message}"):
        datasets.load("c", spec("coqa", path), seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "nowhere/t.jsonl"}, "datasets.t.source: nowhere/t.jsonl is no file or folder here"),
        ({"source": "owner/name"}, "datasets.t.revision: owner/name is no local path; a hub id needs the commit"),
        ({"splits": TINY_SPLITS | {"test": "dev"}}, "splits.test: dev is no split of .*; it has test, train, "),
        ({"splits": TINY_SPLITS | {"test": None}}, "splits.test: null, but .* more than one split"),
        ({"examples": {"calibration": 2, "test": 361}},
         "datasets.t.examples.test: 361 wanted, but 360 are left of the 360 in split test"),
        ({"examples": {"calibration": 201, "test": 1}}, "examples.calibration: 201 wanted, but 200 are left"),
        ({"shots": 21}, "datasets.t.shots: 21 wanted, but 20 are left of the 20 in split train"),
        ({"kind": "coqa", "shots": 1}, "datasets.t.shots: 1, but the CoQA prompt has none"),
    ],
)  # fmt: skip
def test_wrong_config(change, message):
    given = spec("triviaqa", "workflow/resources/tiny/triviaqa", splits=TINY_SPLITS) | change
    with pytest.raises(InputError, match=message):
        datasets.load("t", given, seed=0, root=ROOT)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("truthfulqa", {"incorrect_answers": []}, "has no incorrect answer, which TruthfulQA's scores need; add"),
        ("truthfulqa", {"incorrect_answers": [" ", ""]}, "has no incorrect answer"),
        ("truthfulqa", {"correct_answers": []}, "has no reference answer; take another split, add one or rem"),
        ("truthfulqa", {"correct_answers": ["", "\n"]}, "has no reference answer"),
        ("truthfulqa", {"correct_answers": ["...", "!"]}, "has no reference answer but punctuation"),
        ("triviaqa", {"answer": {"value": "x", "aliases": [" "]}}, "has no reference answer; take another split"),
        ("triviaqa", {"answer": {"value": "x", "aliases": ["?!", "-"]}}, "has no reference answer but punctuation"),
        ("triviaqa", {"answer": {"value": 3, "aliases": ["x"]}}, "line 4: answer.value is not a text, or is blank"),
        ("triviaqa", {"answer": {"value": "x", "aliases": [3]}}, "line 4: answer.aliases is not a list of texts"),
        ("triviaqa", {"answer": {"value": "x", "aliases": "x"}}, "answer.aliases is a text that cannot be read"),
        ("triviaqa", {"question_id": {}}, "line 4: question_id is not a text or a number"),
        ("truthfulqa", {"incorrect_answers": None}, "line 4: lacks incorrect_answers"),
        ("truthfulqa", {"incorrect_answers": 3}, "line 4: incorrect_answers is not a list of texts"),
        ("coqa", {"answers": ["", "", ""], "additional_answers": {}}, r"c3:\d \(.*line 4\) has no reference answer"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_scored_is_refused_before_anything_is_generated(kind, change, message, tmp_path):
    rows = [{"coqa": conversation, "triviaqa": trivia, "truthfulqa": truth}[kind](i) for i in range(4)]
    rows[3] |= change
    path = write_lines(tmp_path / "t.jsonl", rows)
    with pytest.raises(InputError, match=message) as caught:
        datasets.load("t", spec(kind, path, calibration=6 if kind == "coqa" else 2, test=None), seed=0)
    assert "t.jsonl, line 4" in str(caught.value) and "\n" not in str(caught.value)


def test_a_split_without_answers(tmp_path):
    rows = [trivia(i) | {"answer": {"value": "<unk>", "aliases": []}} for i in range(4)]
    with pytest.raises(InputError, match="has no reference answer; take another split"):
        datasets.load("t", spec("triviaqa", write_lines(tmp_path / "t.jsonl", rows)), seed=0)


# --- roles


def test_repeats_are_dropped_and_duplicates_stay_together(tmp_path):
    rows = [trivia(i) for i in range(6)]
    rows += [trivia(2), trivia(90, "what is NUMBER 3"), trivia(91, '"What is number 3?"')]
    frame = datasets.load("t", spec("triviaqa", write_lines(tmp_path / "t.jsonl", rows), calibration=4, test=4), seed=1)
    assert frame["example_id"].is_unique and len(frame) == 8
    same = frame[frame["example_id"].isin(["q3", "q90", "q91"])]
    assert same["group_id"].eq("q3").all() and same["split"].nunique() == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [("राम का भाई?", "राम की भाई?"), ("What is 7 + 3?", "What is 7 - 3?"), ("Who made C++?", "Who made C#?")],
)
def test_questions_that_differ_in_a_sign_or_a_mark_are_two_groups(one, other, tmp_path):
    path = write_lines(tmp_path / "t.jsonl", [trivia(1, one), trivia(2, other)])
    frame = datasets.load("t", spec("triviaqa", path, calibration=1, test=1), seed=0)
    assert set(frame["question"]) == {one, other} and frame["group_id"].is_unique
    path = write_lines(tmp_path / "same.jsonl", [trivia(1, one), trivia(1, other)])
    with pytest.raises(InputError, match="line 2: id q1 stands for two different questions"):
        datasets.load("t", spec("triviaqa", path, calibration=1, test=1), seed=0)


def test_two_conversations_about_one_story_stay_together(tmp_path):
    story = "A story, told twice."
    rows = [conversation(i) for i in range(5)] + [conversation(8, story=story), conversation(9, story=story.upper())]
    path = write_lines(tmp_path / "c.jsonl", rows)
    for seed in range(6):
        frame = datasets.load("c", spec("coqa", path, calibration=9, test=None), seed=seed)
        twice = frame[frame["prompt"].str.lower().str.startswith(story.lower())]
        assert twice["split"].nunique() == 1 and twice["group_id"].eq("c8").all()


def test_the_last_conversation_is_cut_at_the_count(tmp_path):
    path = write_lines(tmp_path / "c.jsonl", [conversation(i) for i in range(9)])
    frame = datasets.load("c", spec("coqa", path, calibration=4, test=5), seed=0)
    assert sorted(Counter(only(frame, "test")["group_id"]).values()) == [2, 3]
    assert sorted(Counter(only(frame, "calibration")["group_id"]).values()) == [1, 3]


def test_changing_one_count_keeps_the_others_rows(tmp_path):
    path = write_lines(tmp_path / "c.jsonl", [conversation(i) for i in range(20)])

    def load(calibration, test):
        return datasets.load("c", spec("coqa", path, calibration=calibration, test=test), seed=4)

    few, more_test, more_calibration = load(7, 7), load(7, 20), load(20, 7)
    pd.testing.assert_frame_equal(only(few, "calibration"), only(more_test, "calibration"))
    pd.testing.assert_frame_equal(only(few, "test"), only(more_calibration, "test"))
    pd.testing.assert_frame_equal(only(few, "test"), only(more_test, "test").head(7))
    pd.testing.assert_frame_equal(only(few, "calibration"), only(more_calibration, "calibration").head(7))
    assert len(only(load(7, None), "test")) == 60 - 9  # all but the three conversations that calibration cut into


def test_the_seed_draws_the_examples(tmp_path):
    path = write_lines(tmp_path / "t.jsonl", [trivia(i) for i in range(40)])
    first, again, other = (datasets.load("t", spec("triviaqa", path, 2, 9, 9), seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert set(first["example_id"]) != set(other["example_id"])


def test_duplicates_across_splits_leave_shots_and_calibration(tmp_path):
    write_lines(tmp_path / "test.jsonl", [trivia(i) for i in range(5)])
    write_lines(tmp_path / "validation.jsonl", [trivia(100 + i, f"what is number {i}") for i in range(3, 8)])
    write_lines(tmp_path / "train.jsonl", [trivia(200 + i, f"What is number {i}!") for i in range(9)])
    given = spec("triviaqa", tmp_path, shots=1, calibration=3, test=2, splits=TINY_SPLITS)
    frame = datasets.load("t", given, seed=0)
    assert set(only(frame, "calibration")["example_id"]) == {"q105", "q106", "q107"}
    assert "What is number 8!" in frame["prompt"].iloc[0].split("\n")[0]
    with pytest.raises(InputError, match="shots: 2 wanted, but 1 are left"):
        datasets.load("t", given | {"shots": 2}, seed=0)


def test_ids_repeated_in_another_split(tmp_path):
    for split in TINY_SPLITS.values():
        write_lines(tmp_path / f"{split}.jsonl", [trivia(i, f"Which {split} {i}?") for i in range(3)])
    with pytest.raises(InputError, match=r"share q[0-2]; ids must be unique in all splits"):
        datasets.load("t", spec("triviaqa", tmp_path, 3, 3, 3, splits=TINY_SPLITS), seed=0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_roles_never_share_a_group(data):
    """For all shared splits and repeats, roles are disjoint and of the right size, or refused."""
    subjects = st.lists(st.integers(0, 12), min_size=1, max_size=12)
    splits = {role: data.draw(st.sampled_from(["a", "b", "c"])) for role in datasets.ROLES}
    examples = {
        split: [
            questions.Example(f"{split}{i}", f"{split}{i}", f"Subject {s}?", "x", ("x",))
            for i, s in enumerate(data.draw(subjects))
        ]
        for split in sorted(set(splits.values()))
    }
    counts = {role: data.draw(st.one_of(st.none(), st.integers(0, 5))) for role in datasets.ROLES}
    try:
        roles = datasets.assign_roles("datasets.t", examples, splits, counts, seed=data.draw(st.integers(0, 3)))
    except InputError:
        return
    subjects_of = {role: {example.subject for example in roles[role]} for role in datasets.ROLES}
    assert sum(map(len, subjects_of.values())) == len(set().union(*subjects_of.values()))
    for role, count in counts.items():
        assert len(roles[role]) == count if count is not None else roles[role]


# --- corpus


def corpus_spec(source, documents=3, held_out=2, **more):
    return {"source": str(source), "documents": documents, "held_out": held_out, **more}


def test_corpus(tmp_path):
    texts = ["one", "two", "one", " ", "three", "four", "five", "six"]
    path = write_lines(tmp_path / "c.jsonl", [{"text": text} for text in texts])
    frame = load_corpus(corpus_spec(path), seed=0)
    assert frame["text"].tolist() == ["one", "two", "three", "four", "five"]
    assert frame["split"].value_counts().to_dict() == {"train": 3, "held_out": 2}
    assert frame["sha256"].tolist() == [questions.sha256(text) for text in frame["text"]]
    assert frame["document_id"].is_unique
    held_out = {tuple(only(load_corpus(corpus_spec(path), seed), "held_out")["text"]) for seed in range(9)}
    assert len(held_out) > 1
    with pytest.raises(InputError, match=r"documents . held_out is 7, but .* has 6 texts"):
        load_corpus(corpus_spec(path, documents=5), seed=0)


def test_corpus_forms(tmp_path):
    texts = [f"Document {i}." for i in range(5)]
    rows = [{"text": text, "id": f"<urn:{i}>"} for i, text in enumerate(texts)]
    text_file = tmp_path / "c.txt"
    text_file.write_text("\n \n".join(texts) + "\n", encoding="utf-8")
    shards = tmp_path / "sample"
    write_parquet(shards / "000_00000.parquet", rows[:3])
    write_parquet(shards / "001_00000.parquet", rows[3:])
    for source in (text_file, write_lines(tmp_path / "f" / "train.jsonl", rows).parent, shards):
        frame = load_corpus(corpus_spec(source, split="train"), seed=0)
        assert frame["text"].tolist() == texts
    assert frame["document_id"].tolist() == [row["id"] for row in rows]


def test_broken_corpora(tmp_path):
    path = write_lines(tmp_path / "c.jsonl", [{"content": "a", "url": "b"}])
    with pytest.raises(InputError, match="line 1: a corpus needs a column `text`; there are 'content', 'url'"):
        load_corpus(corpus_spec(path), seed=0)
    for value, kind in ((None, "null"), (3, "int"), (["a"], "list")):
        path = write_lines(tmp_path / "n.jsonl", [{"text": "a"}, {"text": value, "url": "b"}])
        with pytest.raises(
            InputError, match=f"n.jsonl, line 2: `text` is no text but {kind}; write a text there, or rem"
        ):
            load_corpus(corpus_spec(path), seed=0)
    path = write_lines(tmp_path / "i.jsonl", [{"text": "a", "id": 0}, {"text": "b", "id": ["x"]}])
    with pytest.raises(InputError, match="line 2: `id` is no text or number but list"):
        load_corpus(corpus_spec(path), seed=0)
    path = tmp_path / "h.jsonl"
    path.write_text('{"text": "a"}\n{"text": "half \\ud83d"}\n')
    with pytest.raises(InputError, match=r"h.jsonl, line 2: text has half of a surrogate pair \(\\ud83d\); write the"):
        load_corpus(corpus_spec(path), seed=0)
    path = write_lines(tmp_path / "d.jsonl", [{"text": "a", "id": "x"}, {"text": "b", "id": "x"}])
    with pytest.raises(InputError, match="line 2: id x stands for two different texts"):
        load_corpus(corpus_spec(path), seed=0)


def test_a_document_leaks_only_whole_questions(tmp_path):
    given = spec("triviaqa", "workflow/resources/tiny/triviaqa", 2, 100, 100, TINY_SPLITS)
    frame = datasets.load("t", given, seed=0, root=ROOT)
    coqa = datasets.load("c", spec("coqa", "workflow/resources/tiny/coqa", 0, 8, 8, TINY_SPLITS), seed=0, root=ROOT)
    asked = frame["prompt"].iloc[7].rpartition("Question: ")[2].removesuffix("?\nAnswer:")
    story = coqa["prompt"].iloc[0].partition("\n")[0]

    def leaks(text):
        corpus = pd.DataFrame({"document_id": ["d"], "text": [text]})
        return list(disjoint.leaks(corpus, pd.concat([frame, coqa])))

    assert leaks(f"Well. {asked.upper()}?! Hm.") == leaks(f"Q: {asked}\nA: x") == [("d", frame["example_id"].iloc[7])]
    assert leaks(f"Can you tell, {asked}?") == [] == leaks(story.partition(". ")[2])
    assert {group.partition(":")[0] for _, group in leaks(f"Once. {story} And so on.")} == {coqa["group_id"].iloc[0]}
    with pytest.raises(InputError, match=r"evaluated questions \(1: d contains validation_\d+\)"):
        disjoint.refuse_leaks(pd.DataFrame({"document_id": ["d"], "text": [asked]}), frame)


# --- the embedded default


def test_the_tiny_sets_load_and_the_corpus_contains_none_of_their_questions():
    tiny = "workflow/resources/tiny"
    corpus = load_corpus(corpus_spec(f"{tiny}/corpus", 600, 60, split="train"), seed=1, root=ROOT)
    assert corpus["split"].value_counts().to_dict() == {"train": 600, "held_out": 60}
    sizes = {"triviaqa": (2, 360), "coqa": (0, 360), "truthfulqa": (1, 320)}
    for kind, (shots, test) in sizes.items():
        frame = datasets.load(kind, spec(kind, f"{tiny}/{kind}", shots, 200, test, TINY_SPLITS), seed=1, root=ROOT)
        assert frame["split"].value_counts().to_dict() == {"calibration": 200, "test": test}
        assert frame["example_id"].is_unique
        disjoint.refuse_leaks(corpus, frame)


def test_the_scripts_write_the_same_bytes_twice(tmp_path):
    given = spec("coqa", "workflow/resources/tiny/coqa", 0, 10, 10, TINY_SPLITS)
    corpus = corpus_spec("workflow/resources/tiny/corpus", split="train")
    jobs = {"fetch_dataset": {"name": "coqa", "spec": given}, "fetch_corpus": {"spec": corpus}}
    for script, params in jobs.items():
        written = []
        for take in range(2):
            output = tmp_path / f"{script}{take}.parquet"
            snakemake = SimpleNamespace(
                params=SimpleNamespace(**params, seed=1, root=str(ROOT)),
                output=[str(output)],
                log=[str(tmp_path / "log")],
                rule=script,
            )
            runpy.run_path(str(ROOT / "workflow" / "scripts" / f"{script}.py"), {"snakemake": snakemake})
            written.append(output.read_bytes())
        assert written[0] == written[1]
        metadata = read_metadata(output)
        assert metadata["source"].startswith("workflow/") and any(key.startswith("sha256:") for key in metadata)
    read_table(output, CORPUS)


# --- real data


@real
def test_real_triviaqa():
    frame = datasets.load("t", spec("triviaqa", DATA / "triviaqa-validation.jsonl", 2, 100, None), seed=1)
    assert frame["split"].value_counts().to_dict() == {"test": 427, "calibration": 100}
    row = frame[frame["example_id"] == "test_6654"].iloc[0]
    assert row.prompt.endswith("Question: Cleeve Hill is the highest point in which range of English hills?\nAnswer:")
    assert row.prompt.count("Question: ") == 3 and "Cotswold Hills (England)" in row.references
    original = {
        r["question_id"]: r for r in map(json.loads, (DATA / "triviaqa-validation.jsonl").open(encoding="utf-8"))
    }
    assert all(row.references == original[row.example_id]["answer"]["aliases"] for row in frame.itertuples())


@real
def test_real_coqa_has_the_official_references():
    frame = datasets.load("c", spec("coqa", DATA / "coqa-test-part.json", 0, 600, 1200), seed=1)
    assert frame["split"].value_counts().to_dict() == {"test": 1200, "calibration": 600}
    references = dict(zip(frame["example_id"], frame["references"], strict=True))
    golden = map(json.loads, (GOLDEN / "coqa_official.jsonl").open(encoding="utf-8"))
    known = [(references[key], g["references"]) for g in golden if (key := f"{g['id']}:{g['turn_id']}") in references]
    assert len(known) > 200 and all(mine == official for mine, official in known)
    assert frame["references"].map(len).eq(4).all()
    assert not set(only(frame, "test")["group_id"]) & set(only(frame, "calibration")["group_id"])


@real
def test_real_truthfulqa_has_the_harness_references():
    frame = datasets.load("t", spec("truthfulqa", DATA / "TruthfulQA.csv", 1, 100, 318), seed=1)
    assert len(frame) == 418 and frame["example_id"].is_unique
    golden = [json.loads(line) for line in (GOLDEN / "truthfulqa_lmeval.jsonl").open(encoding="utf-8")]
    by_id = {questions.sha256(g["question"])[:16]: g for g in golden}
    for row in frame.itertuples():
        assert row.references == by_id[row.example_id]["correct_answers"]
        assert row.incorrect == by_id[row.example_id]["incorrect_answers"]
        assert row.prompt.count("Q: ") == 2 and row.prompt.endswith("\nA:")


@real
def test_real_corpora_contain_no_question():
    corpus = load_corpus(corpus_spec(DATA / "fineweb_edu.jsonl", 140, 25), seed=1)
    assert corpus["split"].value_counts().to_dict() == {"train": 140, "held_out": 25}
    assert len(load_corpus(corpus_spec(DATA / "wikitext2-valid.txt", 100, 10), seed=1)) == 110
    for kind, file in (
        ("triviaqa", "triviaqa-validation.jsonl"),
        ("coqa", "coqa-test-part.json"),
        ("truthfulqa", "TruthfulQA.csv"),
    ):
        disjoint.refuse_leaks(corpus, datasets.load(kind, spec(kind, DATA / file, 0, 100, None), seed=1))
