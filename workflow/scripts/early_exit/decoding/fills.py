"""State fills: what the caches of skipped blocks get for a token that left after block e with hidden state h.

=========== =========== ===================================================================================
family      fill        caches of blocks e+1 .. depth
=========== =========== ===================================================================================
transformer copy        block n gets the K/V of block n-1, same token: all get block e's (paper, sec. III)
transformer propagate   K/V projected from h by each block's own norm, projections and rotation
mamba       skip        left as they are: the token never happened there
mamba       propagate   conv and recurrent states advanced once with h (only what they need is computed)
both        deferred    nothing yet: the token waits with h, and goes on when a later one of its row passes e
=========== =========== ===================================================================================

`deferred` is exact: what is computed is what the full model computes, only later, or never if no token needs it.
Waiting tokens running with a later one are the idea of EE-LLM's KV recomputation (arXiv 2312.04916), here per row.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from early_exit.models import cache_updates
from early_exit.models.backbone import Backbone
from early_exit.models.caches import AttentionState, RecurrentState


class Fill:
    """What the decoding loop asks of a state fill; this one leaves the caches as they are."""

    def open(self, slots: int) -> None:
        """Start a job of `slots` rows."""

    def admit(self, slots: Tensor) -> None:
        """New rows are in `slots`."""

    def move(self, source: int, target: int) -> None:
        """Slot `target` becomes a copy of slot `source`."""

    def leave(self, backbone: Backbone, state: AttentionState | RecurrentState, after: int, hidden: Tensor,
              queries: Tensor) -> None:  # fmt: skip
        """`queries` (indices into the state's) go no further than block `after`, with hidden states (n, 1, hidden)."""

    def finish(self, backbone: Backbone, state: AttentionState | RecurrentState) -> None:
        """The step is over: nobody leaves in it any more."""

    def rejoin(self, state: AttentionState | RecurrentState, after: int, hidden: Tensor) -> Tensor:
        """The hidden states (queries, 1, hidden) that block `after` + 1 runs, with those of tokens that join here."""
        return hidden


class Skip(Fill):
    """Mamba `skip`: skipped blocks' states stay as they are (paper, sec. III)."""


class Copy(Fill):
    """Transformer `copy`: skipped blocks take the K/V of the block before them, same token (paper, sec. III)."""

    def leave(self, backbone, state, after, hidden, queries):
        slots, positions = state.slots[queries], state.positions[queries]
        last = backbone.layer_indices[after - 1]
        keys = state.keys[last][slots, :, positions][:, :, None]
        values = state.values[last][slots, :, positions][:, :, None]
        for index in backbone.layer_indices[after:]:
            state.write(index, slots, positions, keys, values)


class Propagate(Fill):
    """`propagate`, for all that left in a step together at its end: each skipped block's weights are read once."""

    def open(self, slots):
        self.left: list[tuple[int, Tensor, Tensor, Tensor]] = []  # block, slots, positions, hidden states; ascending

    def leave(self, backbone, state, after, hidden, queries):
        self.left.append((after, state.slots[queries], state.positions[queries], hidden))

    def finish(self, backbone, state):
        if not self.left:
            return
        after, *parts = zip(*self.left, strict=True)
        slots, positions, hidden = map(torch.cat, parts)
        rotation = self.rotation(state, hidden, positions)
        for n in range(after[0] + 1, backbone.depth + 1):
            gone = sum(len(part) for block, part in zip(after, parts[0], strict=True) if block < n)
            rows = (part[:gone] for part in (hidden, slots, positions, *rotation))
            self.advance(state, backbone.layer_indices[n - 1], backbone.blocks[n - 1], *rows)
        self.left = []

    def rotation(self, state: AttentionState | RecurrentState, hidden: Tensor, positions: Tensor) -> Sequence[Tensor]:
        """What a block needs to know of the positions, beside themselves."""
        return ()

    def advance(self, state, index: int, block: nn.Module, hidden: Tensor, slots: Tensor, positions: Tensor,
                *rotation: Tensor) -> None:  # fmt: skip
        """Bring tokens with hidden states (n, 1, hidden) into the caches of `block`, the library's number `index`."""
        raise NotImplementedError


class PropagateAttention(Propagate):
    """Transformer `propagate`: skipped blocks' K/V are projected from the exit's hidden state ("partial forward")."""

    def rotation(self, state, hidden, positions):
        return state.rotary(hidden, position_ids=positions[:, None])

    def advance(self, state, index, block, hidden, slots, positions, cos, sin):
        keys, values = cache_updates.keys_and_values(block, hidden, (cos, sin))
        state.write(index, slots, positions, keys, values)


class PropagateMamba(Propagate):
    """Mamba `propagate`: skipped blocks' states advance once with the exit's hidden state (paper, sec. III)."""

    def advance(self, state, index, block, hidden, slots, positions):
        states = cache_updates.mixer_states(block, hidden[:, 0], *state.copies(index, slots))
        state.put(index, slots, *states)


class Deferred(Fill):
    """Exact, both families: tokens wait where they left and travel on with the first later one that goes deeper."""

    def open(self, slots):
        self.waiting: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # by block: slots, positions, hidden states

    def admit(self, slots):
        self._keep(lambda waiting: ~torch.isin(waiting, slots))

    def move(self, source, target):
        self._keep(lambda waiting: waiting != target)
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

    def _keep(self, which: Callable[[Tensor], Tensor]) -> None:
        for after, waiting in self.waiting.items():
            keep = which(waiting[0])
            self.waiting[after] = tuple(part[keep] for part in waiting)


FILLS: dict[str, dict[str, type[Fill]]] = {
    "transformer": {"copy": Copy, "propagate": PropagateAttention, "deferred": Deferred},
    "mamba": {"skip": Skip, "propagate": PropagateMamba, "deferred": Deferred},
}
