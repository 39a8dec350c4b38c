"""Kept answers are found by their key, whatever happened to the file; a broken line costs its own answer alone."""

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from early_exit.base import kept_answers
from early_exit.base.errors import InputError
from early_exit.base.kept_answers import KeptAnswers, clean

ROWS = [{"example_id": f"é{k}", "prompt_sha256": f"{k}", "token_ids": [k, 2], "text": "a\nb"} for k in range(5)]
NAMES = [row["example_id"] for row in ROWS]


def open_kept(path, keys=("this",), examples=NAMES, every=1):
    return KeptAnswers(path, keys, examples, every)


def written(path, rows=ROWS, every=1, key="this", finish=None):
    """A file of a job that added these rows and then was killed, or ended well if `finish` says what it may spare."""
    kept = open_kept(path, [key], every=every)
    for row in rows:
        kept.add(key, row)
    if finish is not None:
        kept.finish(finish)
    return path


def found(path, key="this", **options):
    kept = open_kept(path, [key], **options)
    return [row for row in ROWS if kept.get(key, row["example_id"], row["prompt_sha256"]) == row]


def test_answers_are_found_by_key_example_and_prompt(tmp_path):
    path = written(tmp_path / "pair/full.jsonl", ROWS[:3])
    assert found(path) == ROWS[:3]
    kept = open_kept(path, ["this", "other"])
    assert kept.get("this", "é0", "1") is kept.get("other", "é0", "0") is None
    assert kept.added == 0
    assert found(path, key="other") == [] and found(path, examples=["é1"]) == ROWS[1:2]


@pytest.mark.parametrize(("every", "saved"), [(1, 5), (2, 4), (3, 3), (6, 0)])
def test_a_killed_job_loses_at_most_one_batch(tmp_path, every, saved):
    assert found(written(tmp_path / "full.jsonl", every=every)) == ROWS[:saved]


def test_a_job_that_ends_on_an_error_loses_nothing(tmp_path):
    with pytest.raises(InputError), open_kept(tmp_path / "full.jsonl", every=100) as kept:
        kept.add("this", ROWS[0])
        raise InputError("out of memory")
    assert found(tmp_path / "full.jsonl") == ROWS[:1]


def test_answers_of_other_jobs_of_the_pair_are_found_and_copied(tmp_path):
    """After a change of the number of shards, a job's own file holds all that it needed."""
    written(tmp_path / "exits-0-of-2.jsonl", ROWS[:2])
    written(tmp_path / "exits-1-of-2.jsonl", ROWS[2:])
    assert found(tmp_path / "exits.jsonl") == ROWS
    open_kept(tmp_path / "exits.jsonl").finish(0)
    for other in tmp_path.glob("exits-*"):
        other.unlink()
    assert found(tmp_path / "exits.jsonl") == ROWS


@settings(max_examples=60, deadline=None)
@given(
    place=st.integers(0, 700), rest=st.sampled_from([b"", b"\n", b'{"example_id": "h', bytes(64), bytes(64) + b"\n"])
)
def test_a_file_that_ends_anywhere_in_half_a_line_or_zeros_goes_on(tmp_path_factory, place, rest):
    path = written(tmp_path_factory.mktemp("kept") / "full.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + rest * (place < len(whole)))
    lines = whole[:place].count(b"\n") + (whole[place : place + 1] == b"\n" and rest in (b"", b"\n"))
    assert found(path) == ROWS[:lines]
    kept = open_kept(path)
    for row in ROWS[lines:]:
        kept.add("this", row)
    assert found(path) == ROWS


def test_a_flipped_bit_anywhere_costs_one_answer_and_changes_none(tmp_path, caplog):
    path = written(tmp_path / "full.jsonl", ROWS[:3])
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        line = whole[:place].count(b"\n")
        lost = {line, line + 1} if whole[place : place + 1] == b"\n" else {line}  # two lines become one
        assert found(path) == [row for k, row in enumerate(ROWS[:3]) if k not in lost]
    assert "full.jsonl: line 1 is broken; what it held is computed again" in caplog.text


def test_clean_drops_what_the_last_job_did_not_need(tmp_path):
    path = written(written(tmp_path / "full.jsonl", key="old", finish=1), finish=1)
    assert found(path, key="old") == found(path) == ROWS
    assert clean(path) > 0 and clean(path) == 0
    assert found(path, key="old") == [] and found(path) == ROWS


def test_a_file_whose_last_job_did_not_end_is_not_cleaned(tmp_path):
    path = written(written(tmp_path / "full.jsonl", key="old", finish=1), ROWS[:2])
    assert clean(path) == 0
    assert found(path, key="old") == ROWS and found(path) == ROWS[:2]


def test_a_job_cleans_its_file_where_spare_answers_take_too_much(tmp_path):
    path = written(tmp_path / "full.jsonl", key="old", finish=1)
    spare = path.stat().st_size / kept_answers.MIB
    assert found(written(path, finish=spare), key="old") == ROWS
    open_kept(path).finish(spare / 2)
    assert found(path, key="old") == [] and found(path) == ROWS


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    kept = open_kept(tmp_path / "full.jsonl")
    monkeypatch.setattr(kept_answers.os, "fsync", full)
    with pytest.raises(InputError, match=r"full\.jsonl: no space left on device; free some"):
        kept.add("this", ROWS[0])
