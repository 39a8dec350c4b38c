"""Shards contain every question once and whole groups, and together they equal a single job."""

import pandas as pd
import pytest

from early_exit.base import records
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
    parts = [shards.part(examples, f"-{k}-of-{count}") for k in range(count)]
    pd.testing.assert_frame_equal(pd.concat(parts).sort_index(), examples)
    groups = [set(part["group_id"]) for part in parts]
    assert sum(map(len, groups)) == 13
    for split in ("calibration", "test"):
        sizes = [part.loc[part["split"] == split, "group_id"].nunique() for part in parts]
        assert max(sizes) - min(sizes) <= 1
    assert shards.part(examples, "") is examples


@pytest.mark.slow
@pytest.mark.parametrize("history", ["gold", "own"])
def test_answers_of_shards_have_the_bytes_of_a_single_job(history, tmp_path):
    """Also with own history and with other batches."""
    folders = [tmp_path / name for name in ("whole", "-0-of-3", "-1-of-3", "-2-of-3")]
    for place, folder in enumerate(folders):
        folder.mkdir()
        run(folder, history, place=folder.name if place else "", batch_size=3 + place)
    whole, *parts = ([folder / "test.parquet"] for folder in folders)
    sizes = [len(records.read_answers(part)) for part in parts]
    assert all(sizes) and sum(sizes) == len(records.read_answers(whole))
    joined = records.read_answers([path for part in parts for path in part])
    records.write_table(joined, tmp_path / "joined.parquet", records.GENERATIONS)
    assert (tmp_path / "joined.parquet").read_bytes() == whole[0].read_bytes()
