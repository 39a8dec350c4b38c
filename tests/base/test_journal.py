"""What a killed job's answers survive, and what they must not."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from early_exit.base.journal import Journal

ROWS = [{"example_id": f"é{k}", "threshold": 0.1 * k, "token_ids": [k, 2], "text": "a\nb", "degenerate": k > 1}
        for k in range(5)]  # fmt: skip


def written(path, rows=ROWS, every=1):
    journal = Journal(path, "this", every)
    for row in rows:
        journal.add(row)
    return path


def test_what_was_kept_is_found_again_and_grows(tmp_path):
    path = written(tmp_path / "run/journal", ROWS[:3])
    journal = Journal(path, "this", 1)
    assert journal.rows == ROWS[:3]
    journal.add(ROWS[3])
    assert Journal(path, "this", 1).rows == ROWS[:4]


@pytest.mark.parametrize(("every", "kept"), [(1, 5), (2, 4), (3, 3), (6, 0)])
def test_at_most_a_batch_is_lost(tmp_path, every, kept):
    assert Journal(written(tmp_path / "journal", every=every), "this", every).rows == ROWS[:kept]


def test_answers_of_other_settings_are_not_taken(tmp_path, caplog):
    path = written(tmp_path / "journal")
    assert Journal(path, "other", 1).rows == []
    assert "other settings" in caplog.text
    assert Journal(path, "this", 1).rows == []  # it has begun anew


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_file_cut_or_flipped_anywhere_gives_only_whole_answers(tmp_path_factory, data):
    path = written(tmp_path_factory.mktemp("journal") / "journal")
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(0, 255))  # 0: cut there instead
    path.write_bytes(whole[:place] + (bytes([whole[place] ^ flip]) + whole[place + 1 :] if flip else b""))
    ends = [k for k, byte in enumerate(whole) if byte == ord("\n")]
    journal = Journal(path, "this", 1)
    assert journal.rows == ROWS[: max(0, sum(end < place for end in ends) - 1)]
    for row in ROWS[len(journal.rows) :]:
        journal.add(row)
    assert path.read_bytes() == whole
    assert json.loads(whole.splitlines()[1].partition(b" ")[2]) == ROWS[0]
