"""Shards contain every question once and whole groups, and joined they equal a single job."""

import pandas as pd
import pytest

from early_exit.base import records
from early_exit.base.errors import InputError
from early_exit.data import shards
from pruned_answers import run


def make_examples(groups):
    """Questions of these groups, every third of the calibration split, with a row index as a filter leaves it."""
    rows = [
        {"split": "calibration" if place % 3 == 0 else "test", "group_id": group, "example_id": f"{group}:{turn}"}
        for place, (group, turns) in enumerate(groups.items())
        for turn in range(turns)
    ]
    return pd.DataFrame(rows, index=range(7, 7 + len(rows)))


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_shards_contain_every_question_once_in_whole_groups_of_even_number(count):
    examples = make_examples({f"c{i}": 1 + i % 4 for i in range(13)})
    parts = [shards.part(examples, f"{k}-of-{count}") for k in range(count)]
    pd.testing.assert_frame_equal(pd.concat(parts).sort_index(), examples)
    groups = [set(part["group_id"]) for part in parts]
    assert sum(map(len, groups)) == 13
    for split in ("calibration", "test"):
        sizes = [part.loc[part["split"] == split, "group_id"].nunique() for part in parts]
        assert max(sizes) - min(sizes) <= 1
    assert shards.part(examples, None) is examples


def test_an_answer_in_two_shards_is_an_error_that_says_what_to_delete():
    one = pd.DataFrame({"example_id": ["a", "b"], "setting": [0.5, 0.5]})
    two = pd.DataFrame({"example_id": ["a", "b"], "setting": [0.9, 0.9]})
    assert shards.join([two, one])["setting"].tolist() == [0.5, 0.9, 0.5, 0.9]
    with pytest.raises(InputError, match="example b is in two shards; delete the run's folder shards"):
        shards.join([one, two.assign(setting=[0.9, 0.5])])


@pytest.mark.slow
@pytest.mark.parametrize("history", ["gold", "own"])
def test_answers_of_shards_have_the_bytes_of_a_single_job(history, tmp_path):
    """Also with own history and with other batches."""
    folders = [tmp_path / name for name in ("whole", "0-of-3", "1-of-3", "2-of-3")]
    for place, folder in enumerate(folders):
        folder.mkdir()
        run(folder, history, place=folder.name if place else None, batch_size=3 + place)
    whole, *parts = (records.read_table(folder / "test.parquet", records.GENERATIONS) for folder in folders)
    assert all(0 < len(part) < len(whole) for part in parts)
    joined = shards.join(parts)
    records.write_table(joined, tmp_path / "joined.parquet", records.GENERATIONS)
    assert (tmp_path / "joined.parquet").read_bytes() == (tmp_path / "whole/test.parquet").read_bytes()
