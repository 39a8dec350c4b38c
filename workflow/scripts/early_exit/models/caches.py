"""Caches of running rows: one slot per row, allocated once per job.

Running rows have slots 0..count-1. A step works on *queries*, one token each: first the new tokens of the rows, then
earlier tokens that continue with them (see `fills.Deferred`). `narrow` removes the queries that leave. Both subclasses
are passed to the library's blocks as their cache.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from early_exit.models.attention import GATHERED_BYTES, ScatteredRows


class RowState:
    """Slots, positions and queries; the subclasses have the tensors."""

    def __init__(self, layer_indices: Sequence[int], slots: int, device: torch.device):
        self.layer_indices, self.size = tuple(layer_indices), slots
        self.lengths = torch.zeros(slots, dtype=torch.long, device=device)  # tokens seen, the running one included

    def begin(self, count: int) -> None:
        """Start a step for slots 0..count-1, with one new token each."""
        self.slots = torch.arange(count, device=self.lengths.device)  # (queries,)
        self.positions = self.lengths[:count].clone()  # (queries,), 0-based
        self.lengths[:count] += 1
        self.prefix: int | None = count  # if the queries are slots 0..prefix-1: caches are then used in place

    def narrow(self, keep: Tensor) -> None:
        """Continue with the queries `keep` (indices or a mask) only."""
        self.slots, self.positions, self.prefix = self.slots[keep], self.positions[keep], None

    def join(self, slots: Tensor, positions: Tensor) -> None:
        """Add one query for each of `slots`, at `positions` before the running token's (both (n,))."""
        self.slots, self.positions = torch.cat([self.slots, slots]), torch.cat([self.positions, positions])
        self.prefix = None

    def record(self) -> None:
        """From now on save what `rewind` needs, until it is called."""

    def advance(self, keep: Tensor) -> None:
        """Continue with the next token of the rows whose queries are in `keep` (a mask), each a row's last token."""
        if not bool(keep.all()):
            self.narrow(keep)
        self.positions = self.positions + 1
        self.lengths[self.slots] += 1

    def rewind(self, lengths: Tensor) -> None:
        """Restore slots 0..n-1 to `lengths` (n,) tokens, which undoes later ones since `record`."""
        self.lengths[: len(lengths)] = lengths

    def move(self, source: int, target: int) -> None:
        """Copy slot `source` to slot `target`."""
        self.lengths[target] = self.lengths[source]


class AttentionState(RowState):
    """Keys and values: per block one pair of tensors (slots, key/value heads, capacity, head_dim)."""

    def __init__(self, layer_indices: Sequence[int], slots: int, capacity: int, rotary: torch.nn.Module):
        super().__init__(layer_indices, slots, rotary.inv_freq.device)
        self.capacity, self.rotary = capacity, rotary
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def insert(self, slots: Tensor, prompt: DynamicCache, source: Tensor, lengths: Tensor) -> None:
        """Copy rows `source` of a cache of prompts to `slots`, with `lengths` tokens each (all (n,)).

        Padding behind a prompt lies beyond its length: it is overwritten before it is read.
        """
        longest = int(lengths.max())
        for index in self.layer_indices:
            layer = prompt.layers[index]
            for caches, filled in ((self.keys, layer.keys), (self.values, layer.values)):
                if index not in caches:
                    _, heads, _, width = filled.shape
                    caches[index] = filled.new_zeros(self.size, heads, self.capacity, width)
                caches[index][slots, :, :longest] = filled[:, :, :longest].index_select(0, source)
        self.lengths[slots] = lengths

    def begin(self, count: int) -> None:
        super().begin(count)
        self.extent = int(self.positions.max()) + 1
        self._reach()

    def narrow(self, keep: Tensor) -> None:
        super().narrow(keep)
        self.mask = None if self.mask is None else self.mask[keep]
        self.rotation = tuple(part[keep] for part in self.rotation)

    def join(self, slots: Tensor, positions: Tensor) -> None:
        super().join(slots, positions)
        self._reach()

    def advance(self, keep: Tensor) -> None:
        super().advance(keep)
        self.extent = max(self.extent, int(self.positions.max()) + 1)
        self._reach()

    def move(self, source: int, target: int) -> None:
        super().move(source, target)
        length = int(self.lengths[source])
        for caches in (self.keys, self.values):
            for cache in caches.values():
                cache[target, :, :length] = cache[source, :, :length]

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int
    ) -> tuple[Tensor | ScatteredRows, Tensor | ScatteredRows]:
        """Store new keys and values (queries, heads, 1, head_dim); return all so far. The library calls this.

        All are stored before any is read, so a query sees the earlier tokens of its row that continue with it.
        """
        self.write(layer_idx, self.slots, self.positions, keys, values)
        return self._read(self.keys[layer_idx]), self._read(self.values[layer_idx])

    def write(self, index: int, slots: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store keys and values (n, heads, 1, head_dim) of one token per slot."""
        self.keys[index][slots, :, positions] = keys[:, :, 0]
        self.values[index][slots, :, positions] = values[:, :, 0]

    def _read(self, cache: Tensor) -> Tensor | ScatteredRows:
        cache = cache[:, :, : self.extent]
        if self.prefix is not None:
            return cache[: self.prefix]
        if cache.device.type == "cpu" and cache[0].nbytes > GATHERED_BYTES:
            where = zip(self.slots.tolist(), self.positions.tolist(), strict=True)
            return ScatteredRows([cache[slot : slot + 1, :, : position + 1] for slot, position in where])
        return cache.index_select(0, self.slots)  # plain indexing takes three to five times as long on a CPU

    def _reach(self) -> None:
        """Set each query's rotation and the mask of positions that it attends to, None if all queries attend to all."""
        reach = torch.arange(self.extent, device=self.positions.device)
        mask = (reach <= self.positions[:, None])[:, None, None]  # (queries, 1, 1, extent)
        self.mask = None if bool(mask.all()) else mask
        self.rotation = self.rotary(self.keys[self.layer_indices[0]], position_ids=self.positions[:, None])


class RecurrentState(RowState):
    """Convolution windows (slots, channels, kernel) and recurrent states (slots, ...) per mixer."""

    def __init__(self, layer_indices: Sequence[int], slots: int, device: torch.device):
        super().__init__(layer_indices, slots, device)
        self.conv: dict[int, Tensor] = {}
        self.recurrent: dict[int, Tensor] = {}
        self._lent: dict[int, tuple[Tensor, Tensor]] = {}
        self._past: dict[int, list[tuple[Tensor, ...]]] | None = None  # by mixer: slots, positions, states after them

    def insert(self, slots: Tensor, prompt: DynamicCache, source: Tensor, lengths: Tensor | int) -> None:
        """Copy rows `source` of a cache of prompts to `slots`, with `lengths` tokens each (all (n,))."""
        for index in self.layer_indices:
            layer = prompt.layers[index]
            conv, recurrent = layer.conv_states[0], layer.recurrent_states[0]
            if index not in self.conv:
                # Channels are contiguous, as steps read them, not the kernel's few entries.
                self.conv[index] = conv.new_zeros(self.size, *conv.mT.shape[1:]).mT
                self.recurrent[index] = recurrent.new_zeros(self.size, *recurrent.shape[1:])
            self.put(index, slots, conv.index_select(0, source), recurrent.index_select(0, source))
        self.lengths[slots] = lengths

    def begin(self, count: int) -> None:
        super().begin(count)
        self.waves: list[Tensor] | None = None

    def narrow(self, keep: Tensor) -> None:
        super().narrow(keep)
        self._order()

    def join(self, slots: Tensor, positions: Tensor) -> None:
        super().join(slots, positions)
        self._order()

    def record(self) -> None:
        """From now on save the states after every token: mixers get copies, which nothing changes later."""
        self._past, self.prefix = {}, None

    def rewind(self, lengths: Tensor) -> None:
        super().rewind(lengths)
        for index, steps in self._past.items():
            for slots, positions, conv, recurrent in steps:
                last = positions == lengths[slots] - 1
                self.put(index, slots[last], conv[last], recurrent[last])
        self._past = None

    def move(self, source: int, target: int) -> None:
        super().move(source, target)
        for states in (self.conv, self.recurrent):
            for state in states.values():
                state[target] = state[source]

    def select(self, wave: Tensor | None) -> None:
        """Lend mixers the states of the queries of one wave (indices); None: of all queries."""
        self._wave = wave

    def copies(self, index: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Return copies of the windows and recurrent states of `slots` (n,); `put` stores changed ones."""
        return self.conv[index].mT.index_select(0, slots).mT, self.recurrent[index].index_select(0, slots)

    def put(self, index: int, slots: Tensor, conv: Tensor, recurrent: Tensor) -> None:
        """Store windows and recurrent states of `slots` (n,)."""
        self.conv[index][slots], self.recurrent[index][slots] = conv, recurrent

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor:
        """Return what the mixer updates in place. The library calls this."""
        return self._lend(layer_idx)[0]

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor:
        """Return what the mixer updates in place. The library calls this."""
        return self._lend(layer_idx)[1]

    def is_recording_past(self, layer_idx: int) -> bool:
        """Return False. The library calls this, for its own way of rewinding."""
        return False

    def write_back(self, layer_idx: int) -> None:
        """Store what a mixer changed in the copies that it was lent; views need no storing."""
        conv, recurrent = self._lent.pop(layer_idx)
        if self.prefix is None or self._wave is not None:
            slots = self.slots if self._wave is None else self.slots[self._wave]
            self.put(layer_idx, slots, conv, recurrent)
        if self._past is not None:
            positions = self.positions if self._wave is None else self.positions[self._wave]
            self._past.setdefault(layer_idx, []).append((slots, positions, conv, recurrent))

    _wave: Tensor | None = None

    def _lend(self, index: int) -> tuple[Tensor, Tensor]:
        if index not in self._lent:
            if self.prefix is None or self._wave is not None:
                self._lent[index] = self.copies(index, self.slots if self._wave is None else self.slots[self._wave])
            else:
                self._lent[index] = self.conv[index][: self.prefix], self.recurrent[index][: self.prefix]
        return self._lent[index]

    def _order(self) -> None:
        """Group queries into waves with one token per slot, in order of position; None if one wave is enough."""
        same = self.slots[:, None] == self.slots
        rank = (same & (self.positions < self.positions[:, None])).sum(-1)  # earlier queries of the same slot
        last = int(rank.max()) if len(rank) else 0
        self.waves = [(rank == r).nonzero()[:, 0] for r in range(last + 1)] if last else None
