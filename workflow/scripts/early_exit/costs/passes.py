"""The FLOPs of answers with early exits, by arithmetic on the backbone's config.

One multiply-accumulate (MAC) is two FLOPs. Costs are those of one sequence alone, without the padding of a batch and
without prompts that settings share. Counted are products with weights, attention scores and values, and Mamba's
recurrence. Left out everywhere are norms (the final one too), biases, RoPE, softmax, activations and gates, residual
sums and the embedding look-up. Linear maps and attention equal `torch.utils.flop_counter` on Hugging Face's models with
eager attention. Conventions:

- The prompt is causal: its p-th token attends to p positions. (An eager kernel computes the full square, about twice
  that.) The LM head reads its last position only. Sliding windows do not matter, as no sequence is longer than one.
- The recurrence is counted token by token, in the prompt too. (The chunked scan that computes a prompt does other work,
  which depends on the size of a chunk.)
- The convolution costs one window per token. (Mamba's plain PyTorch path computes two windows for a decoded token, and
  at least kernel - 1 too many for a prompt, and drops them.)
- A check without training costs what it computes: the LM head (softmax, margin, patience), or a dot product of two
  hidden states (saturation, from the second exit on). If a token leaves at a check that computed the LM head, the token
  is chosen from these logits, so that the LM head is not paid again.
- Blocks, heads and state fills are those of DYNAMAX (arXiv 2504.20922). `propagate` is the least work that updates the
  whole cache of a skipped block. With `deferred`, a token that left runs further blocks when a later token of its row
  goes deeper: in the end it has run as many blocks as the deepest of itself and the later ones, each at its own
  position.

The cost of each part is in `parts`.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, TypedDict

import numpy as np

from early_exit.base.errors import InputError
from early_exit.costs.parts import Cost, add, backbone, flops, linear, read

__all__ = ["Cost", "ExitPrice", "add", "cost_table", "flops", "generation_flops", "linear"]
HEAD_STATES = ("skip", "propagate")


@dataclass(frozen=True)
class Check:
    """What one check at an exit costs where no trained head decides.

    `at_first_exit`: whether there is one at the first exit, too. `gives_logits`: whether it computes the LM head's
    logits, of which a token that leaves is then chosen, so that they are not paid again.
    """

    cost: Cost
    at_first_exit: bool = True
    gives_logits: bool = False


@dataclass(frozen=True)
class ExitPrice:
    """What a policy's tokens cost beside their blocks.

    Args:
        exits: the blocks after which there are checks.
        head: the trained head that is checked, if any.
        state_fill: the fill of skipped blocks; None costs nothing.
        head_state: what a head with a recurrence does at an exit that a token did not reach: it keeps its state (skip),
            or takes the token in at the cost of a check (propagate).
        check: the confidence without training that is checked, if any.

    InputError for an unknown `head_state`.
    """

    exits: Sequence[int] = ()
    head: str | None = None
    state_fill: str | None = None
    head_state: str = "skip"
    check: str | None = None

    def __post_init__(self):
        if self.head_state not in HEAD_STATES:
            raise InputError(f"head_state: {self.head_state} is not one of {', '.join(HEAD_STATES)}")

    def one_check(self, table: "CostTable") -> tuple[Cost, Check]:
        """The cost of a check in this table, and how checks are met."""
        untrained = Check(linear(0)) if self.check is None else Check(**_pick(table, "checks", self.check))
        return untrained.cost if self.head is None else _pick(table, "heads", self.head), untrained

    def fill(self, table: "CostTable") -> float:
        """FLOPs of the fill of one skipped block."""
        return flops(linear(0) if self.state_fill is None else _pick(table, "state_fill", self.state_fill))


class CostTable(TypedDict):
    """FLOPs for one token of each part of a backbone (costs/{backbone}.json, which also says how they were checked)."""

    model_type: str  # the architecture's name in Transformers
    family: str  # transformer | mamba
    depth: int  # blocks
    hidden: int  # width of the hidden states
    block: Cost
    state_fill: dict[str, Cost]  # for one skipped block, by fill
    heads: dict[str, Cost]  # one check, by head
    checks: dict[str, dict[str, Any]]  # one `Check`, by kind of policy
    lm_head: Cost
    counted: dict[str, int]  # a block's products, by counter; written by rule layer_costs, which has checked them


def cost_table(
    config: Mapping[str, Any],
    heads: Mapping[str, Cost],
    checks: Mapping[str, Callable[[int, Cost], Check]] = MappingProxyType({}),
) -> CostTable:
    """The cost of each part of a backbone, as JSON.

    `config` is the Hugging Face config as a dict, `heads` the cost of one check of each exit head, as its own class
    says it (`heads.store.cost`); `checks` returns the `Check` of each confidence without training for a backbone of a
    hidden size whose LM head costs so much. Returns `model_type, family, depth, hidden` and the costs
    `{"linear", "recurrence", "per_context"}` in FLOPs a token: `block`, `lm_head`, `state_fill[name]` for each
    skipped block, `heads[name]` for each check; `checks[kind]` is a `Check`. InputError
    for an unsupported model, or a missing key.
    """
    family, block, fills, lm_head = backbone(config)
    hidden = read(config, "hidden_size")
    return {
        "model_type": config.get("model_type"),
        "family": family,
        "depth": read(config, "num_hidden_layers"),
        "hidden": hidden,
        "block": block,
        "state_fill": fills,
        "heads": dict(heads),
        "checks": {kind: asdict(check(hidden, lm_head)) for kind, check in checks.items()},
        "lm_head": lm_head,
    }


def generation_flops(
    table: CostTable,
    *,
    prompt_tokens: Sequence[int],
    exit_blocks: Sequence[Sequence[int]],
    price: ExitPrice = ExitPrice(),
    prompt_blocks: Sequence[int] | None = None,
    decode_blocks: Sequence[int] | None = None,
) -> dict[str, np.ndarray]:
    """Returns the FLOPs of n answers: arrays of shape (n,), named as `records.COSTS`.

    Args:
        table: the backbone's cost table, from `cost_table`.
        prompt_tokens: (n,).
        exit_blocks: exit_blocks[i][j] is the number of blocks run before token j of answer i was chosen. Token 0 comes
            from the pass over the prompt, each other token from a decode pass.
        price: what they cost beside their blocks.
        prompt_blocks: (n,) blocks run over the prompt; None stands for all.
        decode_blocks: (n,) blocks of a decode pass that does not leave; None stands for as many as over the prompt. All
            blocks cost the same, so only the number of pruned ones matters.

    A decode pass costs its blocks at context prompt + j, a check at every exit up to where it leaves, the fill of each
    block that it skips, and the LM head. With the fill `deferred`, `flops` and `flops_blocks` count the blocks run in
    the end: without checks, a pass runs on to the deepest of the later passes of its row. `blocks` counts those run
    before passes left, for every fill. A head with a recurrence has a state at each exit, so it also reads the prompt.

    InputError if a name is unknown, or if a pass left elsewhere than at an exit.
    """
    depth, block, lm_head = table["depth"], table["block"], flops(table["lm_head"])
    prompt_tokens = np.asarray(prompt_tokens, np.int64)
    rows, exits = len(prompt_tokens), np.unique(np.asarray(price.exits, np.int64))
    prompt_blocks = np.full(rows, depth) if prompt_blocks is None else np.asarray(prompt_blocks, np.int64)
    decode_blocks = prompt_blocks if decode_blocks is None else np.asarray(decode_blocks, np.int64)

    blocks, row, position = _decode_passes(exit_blocks, rows)
    _check_exits(blocks, decode_blocks[row], exits)
    per_block = flops(block, prompt_tokens[row] + position)
    ran = _deepest_later(blocks, row) if price.state_fill == "deferred" else blocks
    overhead = _overhead(table, price, exits, blocks)

    def per_row(values: np.ndarray) -> np.ndarray:
        return np.bincount(row, values, rows)  # float64, exact for integers below 2**53

    checked, _ = price.one_check(table)
    attended = prompt_tokens * (prompt_tokens + 1) // 2  # by all tokens of a causal prompt together
    prompt_per_block = prompt_tokens * flops(block) + attended * block["per_context"]
    prompt_checks = prompt_tokens * len(exits) * flops(checked) * _has_state(checked)
    return {
        "passes": np.bincount(row, minlength=rows),
        "blocks": per_row(blocks).astype(np.int64),
        "flops": per_row(ran * per_block + overhead),
        "flops_full": per_row(depth * per_block + lm_head),
        "flops_blocks": per_row(ran * per_block),
        "flops_blocks_full": per_row(depth * per_block),
        "prompt_flops": (prompt_blocks * prompt_per_block + prompt_checks + lm_head).astype(np.float64),
        "prompt_flops_full": (depth * prompt_per_block + lm_head).astype(np.float64),
    }


def _decode_passes(exit_blocks: Sequence[Sequence[int]], rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks, answer and place in it of all decode passes, each (passes,): of every token but an answer's first."""
    tokens = np.fromiter(map(len, exit_blocks), np.int64, rows)
    blocks = np.fromiter(itertools.chain.from_iterable(exit_blocks), np.int64, tokens.sum())
    row = np.repeat(np.arange(rows), tokens)
    position = np.arange(len(blocks)) - np.repeat(tokens.cumsum() - tokens, tokens)
    later = position > 0  # token 0 comes out of the prompt's pass
    return blocks[later], row[later], position[later]


def _overhead(table: CostTable, price: ExitPrice, exits: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """FLOPs of decode passes (passes,) beside their blocks: checks, fill, and LM head."""
    checked, how = price.one_check(table)
    every = _has_state(checked) and price.head_state == "propagate"
    met = np.full(len(blocks), len(exits)) if every else np.searchsorted(exits, blocks, side="right")
    met = met if how.at_first_exit else np.maximum(met - 1, 0)
    answered = np.isin(blocks, exits) & how.gives_logits  # by the logits of the last check
    skipped = (table["depth"] - blocks) * price.fill(table)
    return met * flops(checked) + skipped + flops(table["lm_head"]) * ~answered


def _has_state(checked: Cost) -> bool:
    """Whether a head has a recurrence."""
    return checked["recurrence"] > 0


def _pick(table: CostTable, part: str, name: str) -> dict[str, Any]:
    if name not in table[part]:
        raise InputError(f"{part}: {name} is not one of this {table['family']}'s: {', '.join(sorted(table[part]))}")
    return table[part][name]


def _check_exits(blocks: np.ndarray, every: np.ndarray, exits: np.ndarray) -> None:
    wrong = blocks[~np.isin(blocks, exits) & (blocks != every)]
    if len(wrong):
        raise InputError(f"exit_blocks: {wrong[0]} is neither an exit {exits.tolist()} nor all blocks; generate again")


def _deepest_later(blocks: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Returns for each pass the most blocks of itself and the later passes of its row; `row` is ascending."""
    steps = (row.max(initial=0) - row) * (blocks.max(initial=0) + 1)  # above all values of the rows after
    return np.maximum.accumulate((blocks + steps)[::-1])[::-1] - steps
