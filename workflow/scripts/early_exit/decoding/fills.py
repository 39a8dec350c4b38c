"""State fills: what the caches of skipped blocks store for a token that left after block e with hidden state h.

=========== =========== ===================================================================================
family      fill        caches of blocks e+1 .. depth
=========== =========== ===================================================================================
transformer copy        block n gets the K/V of block n-1, same token: all get block e's (paper, sec. III)
transformer propagate   K/V projected from h by each block's norm, projections and rotation
mamba       skip        unchanged, as if the token had never been there
mamba       propagate   conv and recurrent states advanced once with h (only what they need is computed)
both        deferred    nothing yet: the token waits with h, and continues when a later one of its row passes e
=========== =========== ===================================================================================

The paper is DYNAMAX, arXiv 2504.20922. `deferred` is exact: it computes what the full model computes, only later, or
never if no token needs it. Running waiting tokens with a later one is the idea of EE-LLM's KV recomputation (arXiv
2312.04916), here per row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from early_exit.models import cache_updates
from early_exit.models.backbone import Backbone
from early_exit.models.caches import AttentionState, RecurrentState


class Fill:
    """A state fill as the decoding loop calls it; this one leaves caches unchanged."""

    def open(self, slots: int) -> None:
        """Start a job of `slots` rows."""

    def admit(self, slots: Tensor) -> None:
        """Note that `slots` hold new rows."""

    def move(self, source: int, target: int) -> None:
        """Note that slot `source` was copied to slot `target`."""

    def leave(
        self, backbone: Backbone, state: AttentionState | RecurrentState, after: int, hidden: Tensor, queries: Tensor
    ) -> None:
        """Note that `queries` (indices into the state's) leave after block `after`; hidden states (n, 1, hidden)."""

    def finish(self, backbone: Backbone, state: AttentionState | RecurrentState) -> None:
        """End the step: no more queries leave in it."""

    def rejoin(self, state: AttentionState | RecurrentState, after: int, hidden: Tensor) -> Tensor:
        """Return the hidden states (queries, 1, hidden) that block `after` + 1 runs: `hidden`, and those that join."""
        return hidden


class Skip(Fill):
    """Mamba `skip`: states of skipped blocks stay unchanged (paper, sec. III)."""


class Copy(Fill):
    """Transformer `copy`: skipped blocks store the K/V of the block before them, same token (paper, sec. III)."""

    def leave(self, backbone, state, after, hidden, queries):
        slots, positions = state.slots[queries], state.positions[queries]
        last = backbone.layer_indices[after - 1]
        keys = state.keys[last][slots, :, positions][:, :, None]
        values = state.values[last][slots, :, positions][:, :, None]
        for index in backbone.layer_indices[after:]:
            state.write(index, slots, positions, keys, values)


@dataclass(frozen=True)
class Tokens:
    """Tokens that left: slots and positions (n,), hidden states (n, 1, hidden), cosines and sines of the positions."""

    slots: Tensor
    positions: Tensor
    hidden: Tensor
    rotation: Sequence[Tensor] = ()

    def first(self, count: int) -> "Tokens":
        """Return the first `count` tokens."""
        slots, positions, hidden, *rotation = (
            part[:count] for part in (self.slots, self.positions, self.hidden, *self.rotation)
        )
        return Tokens(slots, positions, hidden, rotation)


class Propagate(Fill):
    """`propagate`, at the end of a step for all its queries at once, so that each block's weights are read once."""

    def open(self, slots):
        self.left: list[tuple[int, Tensor, Tensor, Tensor]] = []  # block, slots, positions, hidden states; ascending

    def leave(self, backbone, state, after, hidden, queries):
        self.left.append((after, state.slots[queries], state.positions[queries], hidden))

    def finish(self, backbone, state):
        if not self.left:
            return
        after, *parts = zip(*self.left, strict=True)
        slots, positions, hidden = map(torch.cat, parts)
        tokens = Tokens(slots, positions, hidden, self.rotation(state, hidden, positions))
        for n in range(after[0] + 1, backbone.depth + 1):
            count = sum(len(part) for block, part in zip(after, parts[0], strict=True) if block < n)
            self.store(state, backbone.layer_indices[n - 1], backbone.blocks[n - 1], tokens.first(count))
        self.left = []

    def rotation(self, state: AttentionState | RecurrentState, hidden: Tensor, positions: Tensor) -> Sequence[Tensor]:
        """Return what blocks read of the positions: cosines and sines for attention, nothing for Mamba."""
        return ()

    def store(self, state: AttentionState | RecurrentState, index: int, block: nn.Module, tokens: Tokens) -> None:
        """Store tokens in the caches of `block`, whose library index is `index`."""
        raise NotImplementedError


class PropagateAttention(Propagate):
    """Transformer `propagate`: skipped blocks' K/V are projected from the exit's hidden state ("partial forward")."""

    def rotation(self, state, hidden, positions):
        return state.rotary(hidden, position_ids=positions[:, None])

    def store(self, state, index, block, tokens):
        keys, values = cache_updates.keys_and_values(block, tokens.hidden, tokens.rotation)
        state.write(index, tokens.slots, tokens.positions, keys, values)


class PropagateMamba(Propagate):
    """Mamba `propagate`: skipped blocks' states advance once with the exit's hidden state (paper, sec. III)."""

    def store(self, state, index, block, tokens):
        states = cache_updates.mixer_states(block, tokens.hidden[:, 0], *state.copies(index, tokens.slots))
        state.put(index, tokens.slots, *states)


class Deferred(Fill):
    """Exact, both families: tokens wait where they left and continue with the first later one that goes deeper."""

    def open(self, slots):
        self.waiting: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # by block: slots, positions, hidden states

    def admit(self, slots):
        self._filter(lambda waiting: ~torch.isin(waiting, slots))

    def move(self, source, target):
        self._filter(lambda waiting: waiting != target)
        for slots, _, _ in self.waiting.values():
            slots[slots == source] = target

    def leave(self, backbone, state, after, hidden, queries):
        left = state.slots[queries], state.positions[queries], hidden
        before = self.waiting.get(after)
        self.waiting[after] = left if before is None else tuple(map(torch.cat, zip(before, left, strict=True)))

    def rejoin(self, state, after, hidden):
        if after not in self.waiting:
            return hidden
        slots, positions, waiting = self.waiting[after]
        ready = torch.isin(slots, state.slots)
        if ready.any():
            self.waiting[after] = slots[~ready], positions[~ready], waiting[~ready]
            state.join(slots[ready], positions[ready])
            hidden = torch.cat([hidden, waiting[ready]])
        return hidden

    def _filter(self, select: Callable[[Tensor], Tensor]) -> None:
        """Drop waiting tokens unless `select`, from their slots (n,) to a mask (n,), is true."""
        for after, waiting in self.waiting.items():
            keep = select(waiting[0])
            self.waiting[after] = tuple(part[keep] for part in waiting)


FILLS: dict[str, dict[str, type[Fill]]] = {
    "transformer": {"copy": Copy, "propagate": PropagateAttention, "deferred": Deferred},
    "mamba": {"skip": Skip, "propagate": PropagateMamba, "deferred": Deferred},
}
