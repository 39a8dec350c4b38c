"""Static pruning: which blocks a policy leaves out for good, from the scores that rule `score_blocks` measures.

================= =======================================================================================
by                the n blocks that are left out
================= =======================================================================================
last              those just before the last one: the paper's baseline, which needs no score
block-influence   the n that turn the hidden state least (ShortGPT, arXiv 2403.03853)
angular           the n in a row with the least angle between their input and their output (arXiv 2403.17887;
                  there over the last token of each text, here over all tokens)
one-by-one        n times the one whose loss, with those before it gone, is the least (greedy; the idea of
                  Mamba-Shedder, arXiv 2501.17088, and of SLEB, arXiv 2402.09025)
================= =======================================================================================

What becomes of the prompt is the policy's `prompt`:

- `pruned` (default): the blocks are gone for the prompt, too. That is what pruning means, here as in the papers above:
  a smaller model, which saves memory and the prompt's time as well, and whose caches hold nothing that it did not
  compute itself.
- `full`: the prompt runs at full depth, as it does under early exits, and blocks are left out of the decode passes
  alone. Where compute is compared on decode passes, the exits' full prompt is free; with this one pruning's is, too. So
  it is the fairer rival there, and the harder one: the presets run both.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from early_exit.base.errors import InputError
from early_exit.base.records import read_csv

BY = ("last", "block-influence", "angular", "one-by-one")
PROMPTS = ("pruned", "full")
# A candidate a row. `block` is the one that goes, or the first of `dropped` in a row (angular); `dropped`, how many are
# gone with it (block-influence looks at each block alone: 1). Least scores go first.
SCORES = ("backbone", "by", "dropped", "block", "score")
SETS = ("policy", "by", "prompt", "dropped", "blocks")  # what a policy leaves out of a backbone


def chosen(policy: Mapping[str, Any], depth: int, scores: pd.DataFrame | None = None) -> dict[float, tuple[int, ...]]:
    """The blocks that a policy of kind `pruned` leaves out at each of its settings, which are their numbers."""
    return {float(count): blocks(policy["by"], int(count), depth, scores) for count in policy["drop"]}


def read(policy: Mapping[str, Any], depth: int, path: str | None) -> dict[float, tuple[int, ...]]:
    """`chosen` with the scores of a file, if there is one; nothing for a policy of another kind."""
    if policy["kind"] != "pruned":
        return {}
    return chosen(policy, depth, read_csv(path) if path else None)


def metadata(dropped: Mapping[float, Sequence[int]]) -> dict[str, str]:
    """What a run's file says of its own pruning: `dropped_blocks`, {setting: blocks} as JSON."""
    by_setting = {f"{count:g}": list(gone) for count, gone in dropped.items()}
    return {"dropped_blocks": json.dumps(by_setting)} if dropped else {}


def blocks(by: str, count: int, depth: int, scores: pd.DataFrame | None = None) -> tuple[int, ...]:
    """The `count` blocks of `depth` to leave out, ascending, counted from 1.

    `scores` has the columns SCORES; for `last` it is not looked at. InputError if it has not scored so many.
    """
    if by == "last":
        return tuple(range(depth - count, depth))
    own = scores[scores["by"] == by].sort_values(["score", "block"])  # of equal scores the earlier block goes
    if by == "block-influence":
        return tuple(sorted(_scored(own["block"], by, count)))
    best = own.drop_duplicates("dropped").set_index("dropped")["block"]
    if by == "angular":
        first = int(_scored(best.filter([count]), by, count, 1)[0])
        return tuple(range(first, first + count))
    return tuple(sorted(_scored(best.filter(range(1, count + 1)), by, count)))


def sets(policies: Mapping[str, Mapping[str, Any]], depth: int, scores: pd.DataFrame) -> pd.DataFrame:
    """What each of the policies (of kind `pruned`) leaves out of a backbone.

    Columns SETS; the last has spaces between its numbers.
    """
    rows = [
        (name, policy["by"], policy["prompt"], int(count), " ".join(map(str, gone)))
        for name, policy in policies.items()
        for count, gone in chosen(policy, depth, scores).items()
    ]
    return pd.DataFrame(rows, columns=list(SETS))


def _scored(found: pd.Series, by: str, count: int, wanted: int | None = None) -> Sequence[int]:
    """The first `count` of the blocks found (or `wanted` of them)."""
    taken = [int(block) for block in found.iloc[: wanted or count]]
    if len(taken) < (wanted or count):
        raise InputError(f"block scores: none for {count} blocks dropped by {by}; delete the table and run again")
    return taken
