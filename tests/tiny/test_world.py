"""The embedded question sets: the bytes of their seed, the hub's schemas, and no test question in training."""

import json
from pathlib import Path

import pytest

from early_exit.base.words import words
from tiny import files
from tiny.world import World

TINY = Path(__file__).parents[2] / "workflow" / "resources" / "tiny"
SETS = ("triviaqa", "coqa", "truthfulqa")
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def world():
    return World(7)


def records(name, split="train"):
    return [json.loads(line) for line in (TINY / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def asked(name, split):
    """Every question of a set as (question, plainest answer)."""
    if name == "triviaqa":
        return [(r["question"], r["answer"]["value"]) for r in records(name, split)]
    if name == "truthfulqa":
        return [(r["question"], r["best_answer"]) for r in records(name, split)]
    pairs = [(r["questions"]["input_text"], r["answers"]["input_text"]) for r in records(name, split)]
    return [pair for questions, answers in pairs for pair in zip(questions, answers, strict=True)]


def test_the_files_are_what_seed_7_gives(world, tmp_path):
    files.write(world, tmp_path)
    written = sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*.jsonl"))
    assert len(written) == 10
    for file in written:
        assert (tmp_path / file).read_bytes() == (TINY / file).read_bytes(), file
    assert sum((tmp_path / file).stat().st_size for file in written) < 3_000_000


def test_another_seed_gives_another_world(tmp_path):
    files.write(World(8), tmp_path)
    for name in SETS:
        assert (tmp_path / name / "test.jsonl").read_bytes() != (TINY / name / "test.jsonl").read_bytes()


def test_counts():
    counts = {name: [len(asked(name, split)) for split in SPLITS] for name in SETS}
    assert counts == {"triviaqa": [20, 200, 360], "coqa": [20, 200, 360], "truthfulqa": [20, 200, 320]}
    assert len({record["text"] for record in records("corpus")}) == 700


@pytest.mark.parametrize("split", SPLITS)
def test_hub_schemas(split):
    for record in records("triviaqa", split):
        assert set(record) == {
            "question",
            "question_id",
            "question_source",
            "entity_pages",
            "search_results",
            "answer",
        }
        assert record["answer"]["value"] in record["answer"]["aliases"]
        assert len(record["answer"]["aliases"]) == len(record["answer"]["normalized_aliases"])
    for record in records("truthfulqa", split):
        assert set(record) == {
            "type",
            "category",
            "question",
            "best_answer",
            "correct_answers",
            "incorrect_answers",
            "source",
        }
        assert record["best_answer"] in record["correct_answers"]
        assert not set(record["correct_answers"]) & set(record["incorrect_answers"])
    for record in records("coqa", split):
        assert set(record) == {"id", "source", "story", "questions", "answers", "additional_answers"}
        for answers in (record["answers"], *record["additional_answers"].values()):
            assert answers["turn_id"] == record["questions"]["turn_id"] == [1, 2, 3, 4]
            spans = zip(answers["span_start"], answers["span_end"], answers["span_text"], strict=True)
            assert all(record["story"][start:end] == text for start, end, text in spans)


def test_no_question_is_asked_in_two_roles():
    for name in SETS:
        train, validation, test = ({words(question) for question, _ in asked(name, split)} for split in SPLITS)
        assert not (train & validation or train & test or validation & test), name


def test_test_wordings_are_never_trained_on(world):
    for wordings in world.wordings.values():
        train, calibration, test = (set(wordings[role]) for role in ("train", "calibration", "test"))
        assert test and calibration and not (train & calibration or train & test or calibration & test)
    trained = {question for question, _ in world.fact_questions("train")}
    trained |= {question for question, _ in world.myth_questions("train")}
    corpus = "\n".join(record["text"] for record in records("corpus"))
    for name in ("triviaqa", "truthfulqa"):
        for question, _ in asked(name, "test") + asked(name, "validation"):
            assert question not in trained
            assert f": {question}" not in corpus


def test_stories_belong_to_one_role(world):
    train, validation, test = ({record["story"] for record in records("coqa", split)} for split in SPLITS)
    assert not (train & validation or train & test or validation & test)
    assert len(test) == 90 and len(validation) == 50
    assert validation | test <= world.held_out
    corpus = "\n".join(record["text"] for record in records("corpus"))
    assert not any(story in corpus for story in validation | test)


def test_facts_and_errors_are_the_same_in_every_role(world):
    for known, questions in ((world.facts, world.fact_questions), (world.myths, world.myth_questions)):
        assert {item for _, item in questions("train")} == {item for _, item in questions("test")} == set(known)
    in_world = {role: dict(world.fact_questions(role)) for role in ("calibration", "test")}
    for split, role in (("validation", "calibration"), ("test", "test")):
        assert all(in_world[role][question].value == answer for question, answer in asked("triviaqa", split))


def test_every_fact_is_asked_as_often_as_any_other(world):
    facts = dict(world.fact_questions("test"))
    times = [0] * len(world.facts)
    for question, _ in asked("triviaqa", "test"):
        times[world.facts.index(facts[question])] += 1
    assert set(times) == {1, 2}
