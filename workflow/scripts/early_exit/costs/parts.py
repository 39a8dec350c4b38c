"""What one token costs in a part of a model, by arithmetic on its shape: the terms that `costs` adds up.

A cost has three named terms, in FLOPs, so that each can be compared or left out: `linear` (projections and
convolution), `recurrence` (Mamba's state update and read-out) and `per_context` (attention, for each position attended
to, the token itself included). What is counted and what is not is said in `costs`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from early_exit.base.errors import InputError
from early_exit.sources import families

Cost = dict[str, int]
TERMS = ("linear", "recurrence", "per_context")


def linear(macs: int) -> Cost:
    """Products with weights, `macs` multiply-accumulates a token: all that a head without a state is made of."""
    return _cost(macs)


def mamba1(
    hidden: int, inner: int, state_size: int, time_step_rank: int, conv_kernel: int, *, outputs: int
) -> Cost:  # fmt: skip
    """A Mamba-1 mixer of `inner` channels that reads `hidden` channels and gives `outputs`."""
    return _Mamba1(hidden, inner, state_size, time_step_rank, conv_kernel).step(outputs)


def mamba2(
    hidden: int, num_heads: int, head_dim: int, state_size: int, n_groups: int, conv_kernel: int, *, outputs: int
) -> Cost:  # fmt: skip
    """A Mamba-2 mixer that reads `hidden` channels and gives `outputs`."""
    return _Mamba2(hidden, num_heads, head_dim, state_size, n_groups, conv_kernel).step(outputs)


def add(*parts: Cost) -> Cost:
    """What several parts cost together."""
    return {term: sum(part[term] for part in parts) for term in TERMS}


def flops(cost: Cost, context=0):
    """FLOPs of one token that attends to `context` positions (a number or an array), itself included."""
    return cost["linear"] + cost["recurrence"] + cost["per_context"] * context


def backbone(config: Mapping[str, Any]) -> tuple[str, Cost, dict[str, Cost], Cost]:
    """Of a Hugging Face config: family, block, state fills by name for one skipped block, and LM head."""
    family, config = families.family(config, "config.json"), families.completed(config)
    if family == "transformer":
        block, fills = _attention(config)
    else:
        mixer = _mixer(config)
        block, fills = mixer.step(mixer.hidden), {"skip": _cost(0), "propagate": mixer.fill()}
    fills["deferred"] = _cost(0)  # the blocks that a token runs later are counted as blocks
    return family, block, fills, linear(read(config, "hidden_size") * read(config, "vocab_size"))


def parameters(config: Mapping[str, Any]) -> int:
    """Weights of a backbone of this Hugging Face config: of its blocks, its embedding, and its LM head if not tied.

    Norms, biases and a Mamba's A and D are left out: less than 0.3 % of any real model.
    """
    _, block, _, lm_head = backbone(config)
    tables = 1 if families.completed(config).get("tie_word_embeddings") else 2
    return read(config, "num_hidden_layers") * block["linear"] // 2 + tables * lm_head["linear"] // 2


def read(values: Mapping[str, Any], key: str, where: str = "config.json") -> Any:
    """A value that must be there."""
    if values.get(key) is None:
        raise InputError(f"{where}: {key} is missing; add it")
    return values[key]


@dataclass(frozen=True)
class _Mamba1:
    """Shape of a Mamba-1 mixer (arXiv 2312.00752): channels with a state of n entries each, step sizes of rank r.

    Falcon-Mamba's (arXiv 2410.05355) is the same: its norms of step size, B and C are not counted, as no norms are.
    """

    hidden: int
    inner: int
    n: int
    rank: int
    kernel: int

    def step(self, outputs: int) -> Cost:
        """One token: in_proj to x and z, convolution over x, x_proj to dt, B and C, dt_proj, recurrence, out_proj."""
        in_proj, x_proj = self.hidden * 2 * self.inner, self.inner * (self.rank + 2 * self.n)
        # Each of inner*n state entries: dt*A, decay, input and their sum (4), read-out by C (2). Each channel: dt*x,
        # D*x, sum. In Mamba-2, dt*A is one product a head, and left out.
        recurrence = 6 * self.inner * self.n + 3 * self.inner
        return _cost(in_proj + self._convolution + x_proj + self._dt_proj + self.inner * outputs, recurrence)

    def fill(self) -> Cost:
        """One token into both states, nothing out: no z, no C, no read-out."""
        in_proj, x_proj = self.hidden * self.inner, self.inner * (self.rank + self.n)
        recurrence = 4 * self.inner * self.n + self.inner
        return _cost(in_proj + self._convolution + x_proj + self._dt_proj, recurrence)

    @property
    def _convolution(self) -> int:
        return self.kernel * self.inner

    @property
    def _dt_proj(self) -> int:
        return self.rank * self.inner


@dataclass(frozen=True)
class _Mamba2:
    """Shape of a Mamba-2 mixer (arXiv 2405.21060): h heads of p channels, a p x n state each, g groups of B and C."""

    hidden: int
    h: int
    p: int
    n: int
    g: int
    kernel: int

    def step(self, outputs: int) -> Cost:
        """One token: in_proj to z, x, B, C and dt, convolution over x, B and C, recurrence, out_proj to `outputs`."""
        inner, bc = self.h * self.p, 2 * self.g * self.n
        in_proj = self.hidden * (2 * inner + bc + self.h)
        convolution = self.kernel * (inner + bc)
        # Each of h*p*n state entries: decay, input and their sum (3), read-out by C (2). Each channel: dt*x, D*x, sum.
        recurrence = 5 * self.h * self.p * self.n + 3 * inner
        return _cost(in_proj + convolution + inner * outputs, recurrence)

    def fill(self) -> Cost:
        """One token into both states, nothing out: no z, no read-out; C is projected for the convolution's window."""
        inner, bc = self.h * self.p, 2 * self.g * self.n
        in_proj = self.hidden * (inner + bc + self.h)
        convolution = self.kernel * (inner + bc // 2)
        return _cost(in_proj + convolution, recurrence=3 * self.h * self.p * self.n + inner)


def _attention(config: Mapping[str, Any]) -> tuple[Cost, dict[str, Cost]]:
    """A block with grouped-query attention and a gated FFN, and its state fills."""
    hidden, heads = read(config, "hidden_size"), read(config, "num_attention_heads")
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    query_and_output, key_and_value = 2 * hidden * heads * head_dim, 2 * hidden * kv_heads * head_dim
    ffn = 3 * hidden * read(config, "intermediate_size")
    block = _cost(query_and_output + key_and_value + ffn, per_context=2 * heads * head_dim)
    return block, {"copy": _cost(0), "propagate": _cost(key_and_value)}


def _mixer(config: Mapping[str, Any]) -> _Mamba1 | _Mamba2:
    hidden = read(config, "hidden_size")
    if "num_heads" in config:
        keys = ("num_heads", "head_dim", "state_size", "n_groups", "conv_kernel")
        return _Mamba2(hidden, *(read(config, key) for key in keys))
    # Falcon-Mamba-7B's config.json has an `expand` that is not what its weights are; the library takes the width, too.
    inner = config.get("intermediate_size") or int(read(config, "expand") * hidden)
    rank = read(config, "time_step_rank")
    rank = math.ceil(hidden / 16) if rank == "auto" else rank
    return _Mamba1(hidden, inner, read(config, "state_size"), rank, read(config, "conv_kernel"))


def _cost(macs: int, recurrence: int = 0, per_context: int = 0) -> Cost:
    """MACs to FLOPs; `recurrence` is in FLOPs already, its terms are not all multiply-accumulates."""
    return {"linear": 2 * macs, "recurrence": recurrence, "per_context": 2 * per_context}
