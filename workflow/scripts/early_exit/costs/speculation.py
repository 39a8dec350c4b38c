"""What self-speculation costs: the FLOPs of drafts and verifications, in the terms of `costs`.

A round (see `speculate`) reads the last token and its drafts: each runs through all blocks, the first of them to draft
and the rest to verify, whether it is kept or thrown away. The LM head runs for every draft, and again for every token
read. So speculation never saves FLOPs: at best, with every draft right, it pays the LM head twice for them.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from early_exit.base.errors import InputError
from early_exit.costs.passes import flops


def round_flops(
    table: Mapping[str, Any], counted: Mapping[str, np.ndarray], *, prompt_tokens: Sequence[int],
    drafted: Sequence[Sequence[int]], accepted: Sequence[Sequence[int]],
) -> dict[str, np.ndarray]:  # fmt: skip
    """FLOPs of n generations in rounds: what differs from `counted`, which `costs.generation_flops` says of them.

    `drafted[i][r]` tokens were drafted in round r of row i, and `accepted[i][r]` of them are in its answer, with one
    more of the full model behind them (but for an answer that ends with a draft). `passes` are still the generated
    tokens after the first; `blocks` are all that were run, by `passes` more than there are. InputError if a row's
    rounds do not add up to its tokens.
    """
    passes, depth = counted["passes"], table["depth"]
    rows = len(passes)
    rounds = np.fromiter(map(len, drafted), np.int64, rows)
    row = np.repeat(np.arange(rows), rounds)
    drafts = np.fromiter(chain.from_iterable(drafted), np.int64, len(row))
    given = np.fromiter(chain.from_iterable(accepted), np.int64, len(row)) + 1
    _check(passes, np.bincount(row, given, rows), rounds)

    # Tokens of the row before the round, the prompt's with them: what the first that it reads attends to.
    before = np.asarray(prompt_tokens, np.int64)[row] + 1 + given.cumsum() - given
    before -= np.concatenate([[0], np.bincount(row, given, rows).cumsum()])[row].astype(np.int64)
    read = drafts + 1
    contexts = read * before + read * (read - 1) // 2  # of all that the round reads, together
    blocks = depth * (read * flops(table["block"]) + contexts * table["block"]["per_context"])
    heads = (read + drafts) * flops(table["lm_head"])
    return {
        "blocks": np.bincount(row, depth * read, rows).astype(np.int64),
        "flops": np.bincount(row, blocks + heads, rows),
        "flops_blocks": np.bincount(row, blocks, rows),
    }


def _check(passes: np.ndarray, given: np.ndarray, rounds: np.ndarray) -> None:
    """Rounds give a row's tokens after the first; the last one may have ended with a draft."""
    wrong = np.flatnonzero((given - passes < 0) | (given - passes > (rounds > 0)))
    if len(wrong):
        raise InputError(f"row {wrong[0]}: {passes[wrong[0]]} tokens are not what its rounds gave; generate again")
