"""Policies: where a row leaves. A policy is asked after each exit's block and answers for all live rows at once.

A policy knows exits, thresholds and confidences; it knows neither blocks nor caches of the backbone. What a row does
depends on that row alone: on its hidden states, and on what it has generated so far, which `thresholds` is shown. So no
result depends on the batch that a row ran in, or on its neighbours. Confidences are in `confidences`, thresholds that
adapt in `adaptive`, exits that nobody is asked about in `forced`.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from early_exit.models.caches import RecurrentState


class Row(Protocol):
    """A running answer as a policy sees it; `exit_blocks[i]` blocks were run for the pass that gave token i."""

    example_id: str
    setting: float  # the row's setting
    prompt_tokens: int
    token_ids: list[int]
    exit_blocks: list[int]


class Policy:
    """What the decoding loop asks of a policy; this one never leaves."""

    exits: Sequence[int] = ()  # blocks after which `leave` is asked, ascending
    reads_prompt: bool = False  # whether `admit` needs the prompt's hidden states
    asks_lm_head: bool = False  # whether `leave` computes logits, which take memory
    states: Sequence[RecurrentState] = ()  # row-wise states that follow the backbone's rows

    def open(self, slots: int) -> None:
        """Make room for `slots` rows."""

    def admit(self, slots: Tensor, hidden: Mapping[int, Tensor], source: Tensor) -> None:
        """Rows `source` of the prompts' hidden states (rows, T, hidden) after each exit become `slots`."""

    def thresholds(self, rows: Sequence[Row]) -> Tensor:
        """What `leave` compares with in the coming step, (rows, exits): here each row's setting at every exit."""
        return torch.tensor([row.setting for row in rows])[:, None].expand(-1, len(self.exits))

    def leave(self, exit_block: int, hidden: Tensor, thresholds: Tensor) -> Tensor:
        """Which live rows leave after `exit_block`: hidden (rows, 1, hidden), thresholds (rows,) to bool (rows,)."""
        return torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)

    def left(self, exit_block: int, hidden: Tensor, rows: Tensor) -> None:
        """The live rows `rows` (indices) left after `exit_block` with these hidden states (n, 1, hidden)."""

    def logits(self, rows: Tensor) -> Tensor | None:
        """What the LM head gives for the live rows `rows` (indices), just asked, if the check has computed it."""
        return None


class FullDepth(Policy):
    """Never leave: the full model, and every statically pruned one."""
