"""The questions of a run in shards, one per job, and the answers of all shards joined.

A group (a conversation in CoQA, else an example) is never divided, as its turns may need each other. No answer depends
on the other questions of its batch, so the number of shards does not change the answers.
"""

from collections.abc import Iterable

import pandas as pd

from early_exit.base.errors import InputError


def part(examples: pd.DataFrame, place: str | None) -> pd.DataFrame:
    """Returns the rows of records.EXAMPLES that one job answers: of each split every n-th group. There may be none.

    `place` is `k-of-n` with k from 0, the name of the job's folder; None stands for the only job.
    """
    if place is None:
        return examples
    shard, _, count = place.partition("-of-")
    groups = examples.drop_duplicates(["split", "group_id"])[["split", "group_id"]]
    groups = groups[groups.groupby("split").cumcount() % int(count) == int(shard)]
    return examples.reset_index().merge(groups, on=["split", "group_id"]).set_index("index").rename_axis(None)


def join(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Returns the answers (records.GENERATIONS) of all shards, in the order of a single job.

    InputError if two shards have the same answer.
    """
    key = ["example_id", "setting"]
    joined = pd.concat(parts).sort_values(key, ignore_index=True)
    twice = joined[joined.duplicated(key)]
    if len(twice):
        raise InputError(
            f"example {twice['example_id'].iloc[0]} is in two shards; delete the run's folder shards and run again"
        )
    return joined
