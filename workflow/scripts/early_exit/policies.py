"""Policies: where a row leaves. A policy is asked after each exit's block and answers for all live rows at once.

A policy knows exits, thresholds and confidences; it knows neither blocks nor caches of the backbone. Stateful heads
keep their own `RecurrentState`, whose rows follow the backbone's. A head whose exit a token did not reach keeps its
state unchanged for that token (`skip`): it costs nothing, and the cost tables count it so.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from early_exit.heads import confidence
from early_exit.state import RecurrentState


class Policy(Protocol):
    """What the decoding loop asks of a policy."""

    exits: Sequence[int]  # blocks after which `leave` is asked, ascending
    reads_prompt: bool  # whether `admit` needs the prompt's hidden states
    states: Sequence[RecurrentState]  # row-wise states that follow the backbone's rows

    def open(self, slots: int) -> None:
        """Make room for `slots` rows."""

    def admit(self, slots: Tensor, hidden: Mapping[int, Tensor], source: Tensor) -> None:
        """Rows `source` of the prompts' hidden states (rows, T, hidden) after each exit become `slots`."""

    def leave(self, exit_block: int, hidden: Tensor, thresholds: Tensor) -> Tensor:
        """Which live rows leave after `exit_block`: hidden (rows, 1, hidden), thresholds (rows,) to bool (rows,)."""


class FullDepth:
    """Never leave: the full model, and every statically pruned one."""

    exits: Sequence[int] = ()
    reads_prompt = False
    states: Sequence[RecurrentState] = ()

    def open(self, slots):
        pass

    def admit(self, slots, hidden, source):
        pass

    def leave(self, exit_block, hidden, thresholds):
        return torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)


class HeadConfidence:
    """Leave at the first exit whose head is more confident than the row's threshold (paper, sec. III)."""

    def __init__(self, heads: nn.ModuleDict):
        self.heads = heads
        self.exits = [int(n) for n in heads]
        self.reads_prompt = next(iter(heads.values())).stateful
        self.states: list[RecurrentState] = []

    def open(self, slots):
        if self.reads_prompt:
            self.states = [RecurrentState(range(len(self.exits)), slots, next(self.heads.parameters()).device)]

    def admit(self, slots, hidden, source):
        if self.reads_prompt:
            cache = self.heads[str(self.exits[0])].new_cache()
            for exit_block in self.exits:
                self.heads[str(exit_block)](hidden[exit_block], cache)
            self.states[0].insert(slots, cache, source, next(iter(hidden.values())).shape[1])

    def leave(self, exit_block, hidden, thresholds):
        state = self.states[0] if self.reads_prompt else None
        logits = self.heads[str(exit_block)](hidden, state)[:, 0]
        if state is not None:
            state.write_back(self.exits.index(exit_block))
        return confidence(logits) > thresholds
