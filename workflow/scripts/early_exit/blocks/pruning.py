"""Static pruning: which blocks a policy drops for good, by the scores that rule `score_blocks` measures.

================= =======================================================================================
by                the n blocks that are dropped
================= =======================================================================================
last              those just before the last one: the paper's baseline, which needs no score
block-influence   the n that change the direction of the hidden state least (ShortGPT, arXiv 2403.03853)
angular           the n consecutive ones with the smallest angle between their input and output (arXiv 2403.17887;
                  there over the last token of each text, here over all tokens)
one-by-one        greedily, n times the one without which the loss is smallest, given those dropped before (the idea
                  of Mamba-Shedder, arXiv 2501.17088, and of SLEB, arXiv 2402.09025)
================= =======================================================================================

The policy's `prompt` says whether the prompt runs without the blocks, too:

- `pruned` (default): yes. That is what pruning means in the papers above: a smaller model, which also saves memory and
  the prompt's time, and whose caches hold only what it computed itself.
- `full`: the prompt runs at full depth, as it does under early exits; only decode passes drop blocks. Where compute is
  compared on decode passes, the full prompt is free for exits, and here for pruning as well. So this is the fairer and
  the stronger baseline there; the presets run both.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from early_exit.base.errors import InputError
from early_exit.base.records import read_csv

BY = ("last", "block-influence", "angular", "one-by-one")
PROMPTS = ("pruned", "full")
# One candidate per row: `block` is the one to drop, or the first of `dropped` consecutive ones (angular); `dropped` is
# how many are dropped with it (1 for block-influence, which scores each block alone). Smallest scores go first.
SCORE_COLUMNS = ("backbone", "by", "dropped", "block", "score")
DROP_COLUMNS = ("policy", "by", "prompt", "dropped", "blocks")


def drops_by_setting(
    policy: Mapping[str, Any], depth: int, scores: pd.DataFrame | None = None
) -> dict[float, tuple[int, ...]]:
    """Return the blocks that a policy of kind `pruned` drops at each setting; a setting is the number of them."""
    return {float(count): blocks_to_drop(policy["by"], int(count), depth, scores) for count in policy["drop"]}


def read_drops(policy: Mapping[str, Any], depth: int, path: str | None) -> dict[float, tuple[int, ...]]:
    """Return `drops_by_setting` by the scores in a file, if there is one; empty for a policy of another kind."""
    if policy["kind"] != "pruned":
        return {}
    return drops_by_setting(policy, depth, read_csv(path) if path else None)


def metadata(dropped: Mapping[str, Mapping[float, Sequence[int]]]) -> dict[str, str]:
    """Return the metadata of a file of answers: `dropped_blocks`, {policy: {setting: blocks}} as JSON if one prunes."""
    named = {
        policy: {f"{count:g}": list(numbers) for count, numbers in by_setting.items()}
        for policy, by_setting in dropped.items()
    }
    return {"dropped_blocks": json.dumps(named)} if named else {}


def blocks_to_drop(by: str, count: int, depth: int, scores: pd.DataFrame | None = None) -> tuple[int, ...]:
    """Return the `count` of `depth` blocks to drop, ascending, counted from 1.

    `scores` has SCORE_COLUMNS; `last` does not use it. InputError if it has no scores for so many blocks.
    """
    if by == "last":
        return tuple(range(depth - count, depth))
    ranked = scores[scores["by"] == by].sort_values(["score", "block"])  # of equal scores the earlier block first
    if by == "block-influence":
        return _ascending(ranked["block"].iloc[:count], by, count)
    best = ranked.drop_duplicates("dropped").set_index("dropped")["block"]
    if by == "angular":
        first = best.filter([count])
        return _ascending([block + k for block in first for k in range(count)], by, count)
    return _ascending(best.filter(range(1, count + 1)), by, count)


def drop_table(policies: Mapping[str, Mapping[str, Any]], depth: int, scores: pd.DataFrame) -> pd.DataFrame:
    """Return what each policy (of kind `pruned`) drops of a backbone, one row per policy and setting.

    DROP_COLUMNS; the block numbers in `blocks` are separated by spaces.
    """
    rows = [
        (name, policy["by"], policy["prompt"], int(count), " ".join(map(str, numbers)))
        for name, policy in policies.items()
        for count, numbers in drops_by_setting(policy, depth, scores).items()
    ]
    return pd.DataFrame(rows, columns=list(DROP_COLUMNS))


def _ascending(blocks: Iterable[int], by: str, count: int) -> tuple[int, ...]:
    """Return the blocks in ascending order; InputError if they are fewer than `count`."""
    numbers = sorted(map(int, blocks))
    if len(numbers) < count:
        raise InputError(f"block scores: none for {count} blocks dropped by {by}; delete the table and run again")
    return tuple(numbers)
