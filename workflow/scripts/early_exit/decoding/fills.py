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

import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from early_exit.models import recurrent_steps
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
        attention = block.self_attn
        normed = block.input_layernorm(hidden)
        keys, values = (
            project(normed).view(len(hidden), 1, -1, attention.head_dim)
            for project in (attention.k_proj, attention.v_proj)
        )
        if hasattr(attention, "k_norm"):  # Qwen3
            keys = attention.k_norm(keys)
        rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
        keys = rotate(keys.transpose(1, 2), keys.transpose(1, 2), cos, sin)[1]
        state.write(index, slots, positions, keys, values.transpose(1, 2))


class PropagateMamba(Propagate):
    """Mamba `propagate`: skipped blocks' states advance once with the exit's hidden state (paper, sec. III)."""

    def advance(self, state, index, block, hidden, slots, positions):
        normed = block.norm(hidden[:, 0].to(block.norm.weight.dtype))
        step = advance_mamba2 if hasattr(block.mixer, "num_heads") else advance_mamba1
        state.put(index, slots, *step(block.mixer, normed, *state.copies(index, slots)))


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


def advance_mamba1(mixer: nn.Module, normed: Tensor, window: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor]:
    """One token into a Mamba-1 mixer's states, nothing out; Falcon-Mamba's too.

    The least that leaves both whole: in_proj's x half (not the gate), its convolution, x_proj's dt and B rows (not C),
    dt_proj, the state update in float32 as the library has it; no read-out, gate or output projection.

    Args:
        normed: the mixer's input, (rows, hidden).
        window: the last inputs of the convolution, (rows, inner, kernel).
        recurrent: (rows, inner, state).
    """
    inner, rank, size = mixer.intermediate_size, mixer.time_step_rank, mixer.ssm_state_size
    bias = None if mixer.in_proj.bias is None else mixer.in_proj.bias[:inner]
    x = F.linear(normed, mixer.in_proj.weight[:inner], bias)
    window, x = _convolve(mixer, window, x, inner)
    dt, b = F.linear(x, mixer.x_proj.weight[: rank + size]).split([rank, size], dim=-1)
    if hasattr(mixer, "dt_layernorm"):  # Falcon-Mamba
        dt, b = mixer.dt_layernorm(dt), mixer.b_layernorm(b)
    dt = F.linear(dt, mixer.dt_proj.weight)
    dt = F.softplus(dt + mixer.dt_proj.bias.to(dt.dtype)).float()[..., None]  # (rows, inner, 1)
    decay = torch.exp(dt * -torch.exp(mixer.A_log.float()))
    added = dt * b.float()[:, None] * x.float()[..., None]
    return window, (recurrent.float() * decay + added).to(recurrent.dtype)


def advance_mamba2(mixer: nn.Module, normed: Tensor, window: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor]:
    """One token into a Mamba-2 mixer's states, nothing out.

    The least that leaves both whole: in_proj's x, B, C and dt columns (not the gate), the convolution of x and B (C
    only enters its window), the state update; no output, gated norm or output projection.

    Args:
        normed: the mixer's input, (rows, hidden).
        window: the last inputs of the convolution, (rows, channels, kernel).
        recurrent: (rows, heads, head_dim, state), a copy, which is changed.
    """
    inner, channels, groups, size = mixer.intermediate_size, mixer.conv_dim, mixer.n_groups, mixer.ssm_state_size
    bias = None if mixer.in_proj.bias is None else mixer.in_proj.bias[inner:]
    x_b_c, dt = F.linear(normed, mixer.in_proj.weight[inner:], bias).split([channels, mixer.num_heads], dim=-1)

    window, x_b = _convolve(mixer, window, x_b_c, inner + groups * size)
    x, b = x_b.split([inner, groups * size], dim=-1)

    x, b = x.view(-1, mixer.num_heads, mixer.head_dim), b.view(-1, groups, size)
    rate = -torch.exp(mixer.A_log.to(recurrent.dtype))
    recurrent_steps.update(recurrent, x, dt, mixer.dt_bias, rate, b)
    return window, recurrent


def _convolve(mixer: nn.Module, window: Tensor, new: Tensor, used: int) -> tuple[Tensor, Tensor]:
    """The window (rows, channels, kernel) moved on by an input (rows, channels), and its first `used` convolved."""
    window = torch.cat([window[:, :, 1:], new[:, :, None]], dim=-1)
    bias = None if mixer.conv1d.bias is None else mixer.conv1d.bias[:used]
    convolved = F.conv1d(window[:, :used], mixer.conv1d.weight[:used], bias, groups=used)
    return window, mixer.act(convolved[:, :, 0])
