"""A slow reference of early-exit decoding: one row, one token, one block at a time, Python lists for caches.

Written from the definitions (papers: RoPE 2104.09864, GQA 2305.13245, Mamba 2312.00752, Mamba-2 2405.21060, Falcon
Mamba 2410.05355), with the modules' weights but none of our or the library's caches, masks, batches or scans. Norms,
embeddings and MLPs, which know nothing of other tokens, are called as they are.

What it keeps of each token, so that an engine can be held to it at any moment:

    hidden[p][n]    hidden state of the token at position p after n blocks (n = 0: embedding), as deep as it went
    keys[n][p]      block n + 1, position p: (key/value heads, head_dim); values likewise
    states[n][p]    block n + 1's recurrent state once position p is done; windows[n][p]: last inputs of its convolution

`deferred` is exact, so here it is the full model: every token runs through every block, and only what goes to the LM
head is taken from the exit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Schedule:
    """Leave where told: `exits[i]` is the exit block of the i-th token after the first."""

    def __init__(self, exits: Sequence[int]):
        self.exits, self.steps = list(exits), len(exits)

    def read(self, hidden: Sequence[Tensor]) -> None:
        """A token of the prompt; `hidden[n]` is its hidden state after n blocks."""

    def leaves(self, i: int, n: int, hidden: Tensor) -> bool:
        return self.exits[i] == n


class Heads:
    """Leave where a head is more confident than `threshold`; heads with a state go on from a cache of their own.

    `head_state` says what becomes of the heads above the exit that a token left at: `skip` leaves them as they are,
    `propagate` runs each once on the exit's hidden state.
    """

    def __init__(self, heads: Mapping[str, nn.Module], threshold: float, head_state: str, steps: int):
        self.heads = {int(n): head for n, head in heads.items()}
        self.threshold, self.head_state, self.steps = threshold, head_state, steps
        self.caches = {n: head.new_cache() for n, head in self.heads.items()}
        self.confidences: list[tuple[int, float]] = []  # (exit block, confidence) of all that were asked

    def read(self, hidden):
        for n in self.heads:
            self.confidence(n, hidden[n])

    def leaves(self, i, n, hidden):
        if n not in self.heads:
            return False
        self.confidences.append((n, self.confidence(n, hidden)))
        leaves = self.confidences[-1][1] > self.threshold
        if leaves and self.head_state == "propagate":
            for above in self.heads:
                if above > n:
                    self.confidence(above, hidden)
        return leaves

    def confidence(self, n: int, hidden: Tensor) -> float:
        return float(torch.softmax(self.heads[n](hidden[None, None], self.caches[n])[0, 0], -1)[1])


@dataclass
class Trace:
    """What a row must be: `logits[i]` and `leaving[i]`, the hidden state they come from, belong to `token_ids[i]`."""

    token_ids: list[int]
    leaving: Tensor
    logits: Tensor
    exits: list[int]  # per position, the prompt's tokens at full depth
    reference: "Reference"

    def depth(self, position: int, now: int) -> int:
        """Blocks that the token at `position` has been through once the one at `now` has left.

        Only `deferred` takes a token on later: then as deep as the deepest of its row since.
        """
        return max(self.exits[position : now + 1]) if self.reference.fill == "deferred" else self.exits[position]


@torch.inference_mode()
def decode(model, prompt: Sequence[int], policy: Schedule | Heads, fill: str, layers: Sequence[int] = ()) -> Trace:
    """Greedy tokens for a prompt: one that it yields itself, and one for each of the policy's steps.

    `layers` are the 0-based indices of the layers that the model shall have; all by default.
    """
    kind = next(kind for kind in KINDS if model.config.model_type in KINDS[kind])
    reference = kind(model, fill, layers)
    exits = []
    for token in prompt:
        exits.append(reference.step(token, lambda n, hidden: False))
        policy.read(reference.hidden[-1])
    tokens, leaving, logits = [], [], []
    for i in range(policy.steps + 1):
        leaving.append(reference.hidden[-1][exits[-1]])
        logits.append(reference.logits(leaving[-1]))
        tokens.append(int(logits[-1].argmax()))
        if i < policy.steps:
            exits.append(reference.step(tokens[-1], lambda n, hidden, i=i: policy.leaves(i, n, hidden)))
    return Trace(tokens, torch.stack(leaving), torch.stack(logits), exits, reference)


class Reference:
    """A model taken apart; what families differ in is in the subclasses."""

    def __init__(self, model, fill, layers=()):
        self.model, self.fill, self.body = model, fill, model.base_model
        self.layers = [self.body.layers[i] for i in layers or range(len(self.body.layers))]
        self.hidden: list[list[Tensor]] = []

    def step(self, token, leaves) -> int:
        """Run one token until it leaves (with `deferred` on through all blocks), fill the rest; gives its exit."""
        hidden = self.model.get_input_embeddings()(torch.tensor([token]))[0]
        self.hidden.append([hidden])
        depth = exit_block = len(self.layers)
        for n, layer in enumerate(self.layers):
            if n < exit_block or self.fill == "deferred":
                hidden = self.block(n, layer, hidden)
                self.hidden[-1].append(hidden)
            else:
                self.skipped(n, layer, hidden)
            if exit_block == depth and n + 1 < depth and leaves(n + 1, hidden):
                exit_block = n + 1
        return exit_block


class Attention(Reference):
    def __init__(self, model, fill, layers=()):
        super().__init__(model, fill, layers)
        self.keys, self.values = ([[] for _ in self.layers] for _ in range(2))

    def logits(self, hidden):
        return self.model.lm_head(self.body.norm(hidden))

    def block(self, n, layer, hidden):
        attention, normed = layer.self_attn, layer.input_layernorm(hidden)
        self.store(n, layer, normed)
        query = attention.q_proj(normed).view(-1, attention.head_dim)
        if hasattr(attention, "q_norm"):
            query = attention.q_norm(query)
        query = self.rotate(query, len(self.hidden) - 1)
        keys, values = torch.stack(self.keys[n], 1), torch.stack(self.values[n], 1)  # (key/value heads, positions, ..)
        query = query.view(len(keys), -1, attention.head_dim)  # each key/value head serves a group of query heads
        weights = torch.softmax(query @ keys.mT / attention.head_dim**0.5, -1)
        hidden = hidden + attention.o_proj((weights @ values).flatten())
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

    def skipped(self, n, layer, hidden):
        if self.fill == "copy":
            self.keys[n].append(self.keys[n - 1][-1])
            self.values[n].append(self.values[n - 1][-1])
        else:
            self.store(n, layer, layer.input_layernorm(hidden))

    def store(self, n, layer, normed):
        attention = layer.self_attn
        key = attention.k_proj(normed).view(-1, attention.head_dim)
        if hasattr(attention, "k_norm"):
            key = attention.k_norm(key)
        self.keys[n].append(self.rotate(key, len(self.hidden) - 1))
        self.values[n].append(attention.v_proj(normed).view(-1, attention.head_dim))

    def rotate(self, x, position):
        """Pairs (i, i + half) turn by position * theta^(-i / half); the powers are the model's own."""
        half = x.shape[-1] // 2
        angles = position * self.body.rotary_emb.inv_freq
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


class Mamba(Reference):
    def __init__(self, model, fill, layers=()):
        super().__init__(model, fill, layers)
        self.states, self.windows = ([[] for _ in self.layers] for _ in range(2))

    def logits(self, hidden):
        return self.model.lm_head(self.body.norm_f(hidden))

    def block(self, n, layer, hidden):
        return hidden + self.mixer(n, layer.mixer, layer.norm(hidden))

    def skipped(self, n, layer, hidden):
        if self.fill == "propagate":
            self.mixer(n, layer.mixer, layer.norm(hidden))
        else:
            self.states[n].append(self.states[n][-1])
            self.windows[n].append(self.windows[n][-1])

    def convolve(self, n, mixer, new):
        window = self.windows[n][-1] if self.windows[n] else new.new_zeros(len(new), mixer.conv_kernel_size)
        window = torch.cat([window[:, 1:], new[:, None]], 1)
        self.windows[n].append(window)
        mixed = (window * mixer.conv1d.weight[:, 0]).sum(-1)
        return F.silu(mixed if mixer.conv1d.bias is None else mixed + mixer.conv1d.bias)

    def advance(self, n, decay, added):
        self.states[n].append(decay * self.states[n][-1] + added if self.states[n] else added)
        return self.states[n][-1]


class Mamba1(Mamba):
    """Diagonal A, one step size per channel; Falcon Mamba norms step size, B and C, without weights."""

    def mixer(self, n, mixer, normed):
        x, gate = mixer.in_proj(normed).chunk(2)
        x = self.convolve(n, mixer, x)
        dt, b, c = mixer.x_proj(x).split([mixer.time_step_rank, mixer.ssm_state_size, mixer.ssm_state_size])
        if self.model.config.model_type == "falcon_mamba":
            dt, b, c = (y / (y.pow(2).mean() + self.model.config.mixer_rms_eps).sqrt() for y in (dt, b, c))
        dt = F.softplus(mixer.dt_proj(dt))[:, None]  # (channels, 1)
        state = self.advance(n, torch.exp(-dt * torch.exp(mixer.A_log)), dt * b * x[:, None])
        return mixer.out_proj((state @ c + mixer.D * x) * F.silu(gate))


class Mamba2(Mamba):
    """Scalar A and step size per head, B and C shared by the heads of a group, norm per group after the gate."""

    def mixer(self, n, mixer, normed):
        inner, size, groups, heads = mixer.intermediate_size, mixer.ssm_state_size, mixer.n_groups, mixer.num_heads
        gate, x_b_c, dt = mixer.in_proj(normed).split([inner, inner + 2 * groups * size, heads])
        x, b, c = self.convolve(n, mixer, x_b_c).split([inner, groups * size, groups * size])
        x, group = x.view(heads, -1), torch.arange(heads) * groups // heads
        b, c = b.view(groups, size)[group], c.view(groups, size)[group]
        dt = F.softplus(dt + mixer.dt_bias)[:, None, None]
        decay = torch.exp(-dt * torch.exp(mixer.A_log)[:, None, None])
        state = self.advance(n, decay, dt * x[:, :, None] * b[:, None, :])  # (heads, head_dim, state)
        out = torch.einsum("hps,hs->hp", state, c) + mixer.D[:, None] * x
        gated = (out.flatten() * F.silu(gate)).view(groups, -1)
        scale = torch.rsqrt(gated.pow(2).mean(-1, keepdim=True) + mixer.norm.variance_epsilon)
        return mixer.out_proj(mixer.norm.weight * (gated * scale).flatten())


KINDS = {Attention: ("mistral", "llama", "qwen2", "qwen3"), Mamba1: ("mamba", "falcon_mamba"), Mamba2: ("mamba2",)}
