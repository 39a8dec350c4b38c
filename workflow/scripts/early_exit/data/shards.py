"""A run's questions in parts, one for each job, and its answers put together again.

What is resampled together (a conversation, elsewhere an example) stays together: its turns may need each other. No
answer depends on the rows that it was given beside, so the number of parts changes none of them.
"""

from collections.abc import Iterable

import pandas as pd

from early_exit.base.errors import InputError


def part(examples: pd.DataFrame, place: str | None) -> pd.DataFrame:
    """The rows of records.EXAMPLES that one job answers: of each split every n-th group.

    `place` is `k-of-n`, k from 0, as the job's folder is called; None is the only job. There may be no rows.
    """
    if place is None:
        return examples
    shard, _, count = place.partition("-of-")
    groups = examples.drop_duplicates(["split", "group_id"])[["split", "group_id"]]
    groups = groups[groups.groupby("split").cumcount() % int(count) == int(shard)]
    return examples.reset_index().merge(groups, on=["split", "group_id"]).set_index("index").rename_axis(None)


def join(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The answers (records.GENERATIONS) of all parts, sorted as one job has them. InputError if two hold the same."""
    key = ["example_id", "setting"]
    joined = pd.concat(parts).sort_values(key, ignore_index=True)
    twice = joined[joined.duplicated(key)]
    if len(twice):
        raise InputError(f"example {twice['example_id'].iloc[0]} is in two shards; delete the run's folder shards")
    return joined
