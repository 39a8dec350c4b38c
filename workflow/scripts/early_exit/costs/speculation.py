"""What self-speculation costs: the FLOPs of drafting and verifying, counted as in `passes`.

A round (see `decoding.speculate`) reads the last token and its drafts. Each of them runs through all blocks, the first
blocks to draft and the rest to verify, whether it is accepted or not. The LM head runs once for every draft, and once
more for every token read. So speculation never saves FLOPs: at best, with every draft right, it pays the LM head twice.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from early_exit.base.errors import InputError
from early_exit.costs.passes import CostTable, flops


def round_flops(
    table: CostTable,
    counted: Mapping[str, np.ndarray],
    *,
    prompt_tokens: Sequence[int],
    drafted: Sequence[Sequence[int]],
    accepted: Sequence[Sequence[int]],
) -> dict[str, np.ndarray]:
    """Returns `blocks`, `flops` and `flops_blocks` of n answers given in rounds, which replace those of `counted`.

    `blocks` are all that were run, so that over `passes` they may exceed the model's depth.

    Args:
        table: the backbone's cost table (`passes.cost_table`).
        counted: `passes.generation_flops` of the same answers.
        prompt_tokens: (n,).
        drafted: drafted[i][r] tokens were drafted in round r of answer i.
        accepted: accepted[i][r] of them are in the answer, followed by one token of the full model unless the answer
            ends before it.

    InputError if the rounds of an answer do not add up to its tokens.
    """
    passes, depth = counted["passes"], table["depth"]
    rows = len(passes)
    rounds = np.fromiter(map(len, drafted), np.int64, rows)
    row = np.repeat(np.arange(rows), rounds)
    drafts = np.fromiter(chain.from_iterable(drafted), np.int64, len(row))
    gained = np.fromiter(chain.from_iterable(accepted), np.int64, len(row)) + 1
    _check(passes, np.bincount(row, gained, rows), rounds)

    # Tokens of the answer and its prompt before each round, which the first token of the round attends to.
    before = np.asarray(prompt_tokens, np.int64)[row] + 1 + gained.cumsum() - gained
    before -= np.concatenate([[0], np.bincount(row, gained, rows).cumsum()])[row].astype(np.int64)
    read = drafts + 1
    contexts = read * before + read * (read - 1) // 2  # of all tokens of the round together
    blocks = depth * (read * flops(table["block"]) + contexts * table["block"]["per_context"])
    heads = (read + drafts) * flops(table["lm_head"])
    return {
        "blocks": np.bincount(row, depth * read, rows).astype(np.int64),
        "flops": np.bincount(row, blocks + heads, rows),
        "flops_blocks": np.bincount(row, blocks, rows),
    }


def _check(passes: np.ndarray, gained: np.ndarray, rounds: np.ndarray) -> None:
    """Raise an InputError unless rounds gain all tokens after the first; the last round may end with a draft."""
    wrong = np.flatnonzero((gained - passes < 0) | (gained - passes > (rounds > 0)))
    if len(wrong):
        raise InputError(f"row {wrong[0]}: {passes[wrong[0]]} tokens are not what its rounds gave; generate again")
