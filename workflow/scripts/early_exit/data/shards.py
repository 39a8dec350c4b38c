"""The questions of a dataset in shards, one per job.

A group (a conversation in CoQA, else an example) is never divided, as its turns may need each other. No answer depends
on the other questions of its batch, so the number of shards does not change the answers.
"""

import pandas as pd


def part(examples: pd.DataFrame, place: str) -> pd.DataFrame:
    """Returns the rows of records.EXAMPLES that one job answers: of each split every n-th group. There may be none.

    `place` is `-k-of-n` with k from 0, as it ends the name of the job's folder; empty for the only job.
    """
    if not place:
        return examples
    shard, _, count = place.removeprefix("-").partition("-of-")
    groups = examples.drop_duplicates(["split", "group_id"])[["split", "group_id"]]
    groups = groups[groups.groupby("split").cumcount() % int(count) == int(shard)]
    return examples.reset_index().merge(groups, on=["split", "group_id"]).set_index("index").rename_axis(None)
