"""Policies: where a row leaves. A policy is asked after each exit's block and answers for all live rows at once.

A policy knows exits, thresholds and confidences; it knows neither blocks nor caches of the backbone. Stateful heads
keep their own `RecurrentState`, whose rows follow the backbone's.

What the state of a head gets from a token that left below its exit (`head_state`):

- `skip` (default): nothing, the token never happened there. It costs nothing.
- `propagate`: the hidden state the token left with, as the backbone's blocks may get it. Every token pays all heads.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from early_exit.heads import confidence
from early_exit.state import RecurrentState

HEAD_STATES = ("skip", "propagate")


class Policy:
    """What the decoding loop asks of a policy; this one never leaves."""

    exits: Sequence[int] = ()  # blocks after which `leave` is asked, ascending
    reads_prompt: bool = False  # whether `admit` needs the prompt's hidden states
    states: Sequence[RecurrentState] = ()  # row-wise states that follow the backbone's rows

    def open(self, slots: int) -> None:
        """Make room for `slots` rows."""

    def admit(self, slots: Tensor, hidden: Mapping[int, Tensor], source: Tensor) -> None:
        """Rows `source` of the prompts' hidden states (rows, T, hidden) after each exit become `slots`."""

    def leave(self, exit_block: int, hidden: Tensor, thresholds: Tensor) -> Tensor:
        """Which live rows leave after `exit_block`: hidden (rows, 1, hidden), thresholds (rows,) to bool (rows,)."""
        return torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)

    def left(self, exit_block: int, hidden: Tensor, rows: Tensor) -> None:
        """The live rows `rows` (indices) left after `exit_block` with these hidden states (n, 1, hidden)."""


class FullDepth(Policy):
    """Never leave: the full model, and every statically pruned one."""


class HeadConfidence(Policy):
    """Leave at the first exit whose head is more confident than the row's threshold (paper, sec. III)."""

    def __init__(self, heads: nn.ModuleDict, head_state: str = "skip"):
        self.heads, self.head_state = heads, head_state
        self.exits = [int(n) for n in heads]
        self.reads_prompt = next(iter(heads.values())).stateful
        self.states: list[RecurrentState] = []

    def open(self, slots):
        if self.reads_prompt:
            device = next(self.heads.parameters()).device
            self.states = [RecurrentState(range(len(self.exits)), slots, device)]

    def admit(self, slots, hidden, source):
        if self.reads_prompt:
            cache = self.heads[str(self.exits[0])].new_cache()
            for exit_block in self.exits:
                self.heads[str(exit_block)](hidden[exit_block], cache)
            self.states[0].insert(slots, cache, source, hidden[self.exits[0]].shape[1])

    def leave(self, exit_block, hidden, thresholds):
        return confidence(self._logits(exit_block, hidden, None)) > thresholds

    def left(self, exit_block, hidden, rows):
        if self.reads_prompt and self.head_state == "propagate":
            for above in self.exits[self.exits.index(exit_block) + 1 :]:
                self._logits(above, hidden, rows)

    def _logits(self, exit_block: int, hidden: Tensor, rows: Tensor | None) -> Tensor:
        """One check, (rows, 1, hidden) to (rows, 2); the state of these live rows (None: all) goes on by a token."""
        if not self.reads_prompt:
            return self.heads[str(exit_block)](hidden)[:, 0]
        state = self.states[0]
        state.only(rows)
        logits = self.heads[str(exit_block)](hidden, state)[:, 0]
        state.write_back(self.exits.index(exit_block))
        return logits
