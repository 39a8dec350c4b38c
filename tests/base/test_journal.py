"""A killed job resumes with the whole answers of its journal, and with no others."""

import json

import pytest
from early_exit.base.journal import Journal
from hypothesis import given, settings
from hypothesis import strategies as st

ROWS = [{"example_id": f"é{k}", "setting": 0.1 * k, "token_ids": [k, 2], "text": "a\nb", "degenerate": k > 1}
        for k in range(5)]  # fmt: skip


def written(path, rows=ROWS, every=1):
    journal = Journal(path, "this", every)
    for row in rows:
        journal.add(row)
    return path


def test_saved_answers_are_read_again_and_more_are_added(tmp_path):
    path = written(tmp_path / "run/journal", ROWS[:3])
    journal = Journal(path, "this", 1)
    assert journal.rows == ROWS[:3]
    journal.add(ROWS[3])
    assert Journal(path, "this", 1).rows == ROWS[:4]


@pytest.mark.parametrize(("every", "saved"), [(1, 5), (2, 4), (3, 3), (6, 0)])
def test_at_most_one_batch_is_lost(tmp_path, every, saved):
    assert Journal(written(tmp_path / "journal", every=every), "this", every).rows == ROWS[:saved]


def test_answers_with_another_fingerprint_are_not_used(tmp_path, caplog):
    path = written(tmp_path / "journal")
    assert Journal(path, "other", 1).rows == []
    assert "other settings" in caplog.text
    assert Journal(path, "this", 1).rows == []  # the file was replaced


@settings(max_examples=60, deadline=None)
@given(
    place=st.integers(0, 600), rest=st.sampled_from([b"", b"\n", b'{"example_id": "h', bytes(64), bytes(64) + b"\n"])
)
def test_a_file_that_ends_anywhere_in_half_a_line_or_zeros_resumes_with_whole_answers(tmp_path_factory, place, rest):
    path = written(tmp_path_factory.mktemp("journal") / "journal")
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + rest * (place < len(whole)))
    journal = Journal(path, "this", 1)
    lines = whole[:place].count(b"\n") + (whole[place : place + 1] == rest == b"\n")
    assert journal.rows == ROWS[: max(0, lines - 1)]
    for row in ROWS[len(journal.rows) :]:
        journal.add(row)
    assert path.read_bytes() == whole
    assert json.loads(whole.splitlines()[1]) == ROWS[0]
