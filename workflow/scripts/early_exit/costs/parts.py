"""What one token costs in each part of a model, by arithmetic on the part's shape; `passes` adds the parts up.

Formulas count the multiply-accumulates (MACs) of the architectures as published: grouped-query attention with a gated
FFN as in Llama, Mamba (arXiv 2312.00752) and Mamba-2 (arXiv 2405.21060). One MAC is two FLOPs. What is left out is
listed in `passes`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from early_exit.base.errors import InputError
from early_exit.sources import families


class Cost(TypedDict):
    """FLOPs of one token."""

    linear: int  # projections and convolution
    recurrence: int  # Mamba's state update and read-out
    per_context: int  # attention scores and values, for each position attended to, the token's own included


def linear(macs: int) -> Cost:
    """Returns the cost of products with weights, given their MACs; a head without a state consists of these."""
    return _cost(macs)


def add(*parts: Cost) -> Cost:
    """Returns the cost of several parts together."""
    return {term: sum(part[term] for part in parts) for term in Cost.__annotations__}


def flops(cost: Cost, context=0):
    """Returns the FLOPs of one token that attends to `context` positions (a number or an array), its own included."""
    return cost["linear"] + cost["recurrence"] + cost["per_context"] * context


def backbone(config: Mapping[str, Any]) -> tuple[str, Cost, dict[str, Cost], Cost]:
    """Returns family, cost of a block, cost of each state fill for one skipped block, and cost of the LM head.

    `config` is a Hugging Face config. InputError if the model is not supported or a key is missing.
    """
    family, config = families.family(config, "config.json"), families.completed(config)
    if family == "transformer":
        block, fills = _attention(config)
    else:
        mixer = _mixer(config)
        block, fills = mixer.step(mixer.hidden), {"skip": _cost(0), "propagate": mixer.fill()}
    fills["deferred"] = _cost(0)  # the blocks that run later are counted as blocks
    return family, block, fills, linear(read(config, "hidden_size") * read(config, "vocab_size"))


def parameters(config: Mapping[str, Any]) -> int:
    """Returns the number of weights of a backbone: its blocks, its embedding, and its LM head if that is not tied.

    Norms, biases and Mamba's A and D are left out: less than 0.3 % of any real model.
    """
    _, block, _, lm_head = backbone(config)
    tables = 1 if families.completed(config).get("tie_word_embeddings") else 2
    return read(config, "num_hidden_layers") * block["linear"] // 2 + tables * lm_head["linear"] // 2


def read(values: Mapping[str, Any], key: str, where: str = "config.json") -> Any:
    """Returns a value of a mapping; InputError if it is missing or null."""
    if values.get(key) is None:
        raise InputError(f"{where}: {key} is missing; add it")
    return values[key]


@dataclass(frozen=True)
class Mamba1:
    """Shape of a Mamba-1 mixer: `inner` channels with `state` entries each, and step sizes (dt) of rank `rank`.

    Falcon-Mamba (arXiv 2410.05355) only adds norms, which are not counted.
    """

    hidden: int
    inner: int
    state: int
    rank: int
    kernel: int

    def step(self, outputs: int) -> Cost:
        """Returns the cost of one token in a mixer with `outputs` output channels (a block: `hidden`)."""
        in_proj = self.hidden * 2 * self.inner  # to x and z
        x_proj = self.inner * (self.rank + 2 * self.state)  # to dt, B and C
        out_proj = self.inner * outputs
        # Per entry of the state: dt*A, decay, input and their sum (4), read-out by C (2). Per channel: dt*x, D*x, sum.
        recurrence = 6 * self.inner * self.state + 3 * self.inner
        return _cost(in_proj + self._convolution + x_proj + self._dt_proj + out_proj, recurrence)

    def fill(self) -> Cost:
        """Returns the least cost of one token that updates both states: without z, C, read-out and output."""
        in_proj, x_proj = self.hidden * self.inner, self.inner * (self.rank + self.state)
        recurrence = 4 * self.inner * self.state + self.inner
        return _cost(in_proj + self._convolution + x_proj + self._dt_proj, recurrence)

    @property
    def _convolution(self) -> int:
        return self.kernel * self.inner

    @property
    def _dt_proj(self) -> int:
        return self.rank * self.inner


@dataclass(frozen=True)
class Mamba2:
    """Shape of a Mamba-2 mixer: heads with a head_dim x state matrix each, and groups of heads that share B and C."""

    hidden: int
    heads: int
    head_dim: int
    state: int
    groups: int
    kernel: int

    def step(self, outputs: int) -> Cost:
        """Returns the cost of one token in a mixer with `outputs` output channels (a block: `hidden`)."""
        in_proj = self.hidden * (2 * self._inner + 2 * self._group_states + self.heads)  # to z, x, B, C and dt
        convolution = self.kernel * (self._inner + 2 * self._group_states)  # over x, B and C
        out_proj = self._inner * outputs
        # Per entry of the state: decay, input and their sum (3), read-out by C (2). Per channel: dt*x, D*x, sum.
        # dt*A is one product per head, and left out.
        recurrence = 5 * self._inner * self.state + 3 * self._inner
        return _cost(in_proj + convolution + out_proj, recurrence)

    def fill(self) -> Cost:
        """Returns the least cost of one token that updates both states: without z, read-out and output.

        C is projected, as the convolution's window needs it, but not convolved.
        """
        in_proj = self.hidden * (self._inner + 2 * self._group_states + self.heads)
        convolution = self.kernel * (self._inner + self._group_states)
        return _cost(in_proj + convolution, recurrence=3 * self._inner * self.state + self._inner)

    @property
    def _inner(self) -> int:
        return self.heads * self.head_dim

    @property
    def _group_states(self) -> int:
        return self.groups * self.state


def _attention(config: Mapping[str, Any]) -> tuple[Cost, dict[str, Cost]]:
    """Returns the cost of a block with grouped-query attention and a gated FFN, and of its state fills."""
    hidden, heads = read(config, "hidden_size"), read(config, "num_attention_heads")
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    query_and_output, key_and_value = 2 * hidden * heads * head_dim, 2 * hidden * kv_heads * head_dim
    ffn = 3 * hidden * read(config, "intermediate_size")
    block = _cost(query_and_output + key_and_value + ffn, per_context=2 * heads * head_dim)
    return block, {"copy": _cost(0), "propagate": _cost(key_and_value)}


def _mixer(config: Mapping[str, Any]) -> Mamba1 | Mamba2:
    hidden = read(config, "hidden_size")
    if "num_heads" in config:
        keys = ("num_heads", "head_dim", "state_size", "n_groups", "conv_kernel")
        return Mamba2(hidden, *(read(config, key) for key in keys))
    # Falcon-Mamba-7B's config.json has an `expand` that does not fit its weights; the library uses the width, too.
    inner = config.get("intermediate_size") or int(read(config, "expand") * hidden)
    rank = read(config, "time_step_rank")
    rank = math.ceil(hidden / 16) if rank == "auto" else rank
    return Mamba1(hidden, inner, read(config, "state_size"), rank, read(config, "conv_kernel"))


def _cost(macs: int, recurrence: int = 0, per_context: int = 0) -> Cost:
    """Returns a cost from MACs; `recurrence` is given in FLOPs, as not all of its terms are multiply-accumulates."""
    return {"linear": 2 * macs, "recurrence": recurrence, "per_context": 2 * per_context}
