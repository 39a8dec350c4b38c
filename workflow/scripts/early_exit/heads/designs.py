"""Designs of exit heads: classifiers that read the hidden state after an exit's block and give two logits.

A design is one class: `classify`, from hidden states to two logits, and `cost`, what one check costs. Those in `KINDS`
are built in: the paper's three (DYNAMAX, arXiv 2504.20922, sec. III), two slim ones that first project the hidden
state down to `rank` channels, and the hybrid that the paper leaves open. One of your own is a class in a file of your
own (see `head_sources`).

Hidden states are scaled to unit root mean square before the head, without parameters: their norm grows with depth (in
a pre-norm backbone each block adds to it) and differs between backbones, and one learning rate has to do for all of
them. `normalise: none` turns that off.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from early_exit.base.errors import InputError
from early_exit.costs import parts as costs
from early_exit.costs.parts import Cost
from early_exit.heads.mixers import mixer_shape, slim_shape


class Head(nn.Module):
    """One exit's classifier.

    Args:
        hidden_size: width of the hidden states.
        layer_idx: the exit's place among the exits, 0-based; what a cache goes by.
        exits: how many exits there are.
        normalise: rms or none.
    """

    stateful = False  # whether it remembers the tokens before, in a cache

    def __init__(self, hidden_size: int, layer_idx: int, exits: int, *, normalise: str = "rms"):
        super().__init__()
        if normalise not in ("rms", "none"):
            raise InputError(f"normalise: '{normalise}' is unknown; use rms or none")
        self.hidden_size, self.normalise = hidden_size, normalise

    def forward(self, hidden: Tensor, cache: Any = None) -> Tensor:
        """Hidden states (rows, T, hidden) to logits (rows, T, 2); a stateful head goes on from `cache`.

        The hidden states may be of another number format than the head: Mamba backbones keep theirs in float32.
        """
        if self.normalise == "rms":
            hidden = F.rms_norm(hidden, (self.hidden_size,))
        return self.classify(hidden.to(next(self.parameters(), hidden).dtype), cache)

    def classify(self, hidden: Tensor, cache: Any) -> Tensor:
        """What a design is: the same shapes as `forward`, on the scaled hidden states."""
        raise NotImplementedError(f"{type(self).__name__} has no `classify`")

    def new_cache(self) -> DynamicCache | None:
        """The library's cache for running a stateful head over a prompt, shared by all exits."""
        return None

    @classmethod
    def cost(cls, hidden_size: int, **options) -> Cost:
        """What one check of a token costs, in the terms of `block_costs`; a recurrence marks a stateful head."""
        raise NotImplementedError(f"{cls.__name__} has no `cost`; savings without it would be wrong")


class Calm(Head):
    """One linear layer, as in CALM."""

    def __init__(self, hidden_size: int, layer_idx: int, exits: int, **options):
        super().__init__(hidden_size, layer_idx, exits, **options)
        self.linear = nn.Linear(hidden_size, 2)

    def classify(self, hidden, cache):
        return self.linear(hidden)

    @classmethod
    def cost(cls, hidden_size, **options):
        return costs.linear(hidden_size * 2)


class FeedForward(Head):
    """d -> 4d -> 2, as in a Transformer block."""

    def __init__(self, hidden_size: int, layer_idx: int, exits: int, **options):
        super().__init__(hidden_size, layer_idx, exits, **options)
        self.up = nn.Linear(hidden_size, 4 * hidden_size)
        self.down = nn.Linear(4 * hidden_size, 2)

    def classify(self, hidden, cache):
        return self.down(F.silu(self.up(hidden)))

    @classmethod
    def cost(cls, hidden_size, **options):
        return costs.linear(hidden_size * 4 * hidden_size + 4 * hidden_size * 2)


class Mamba(Head):
    """A Mamba mixer whose output projection gives two logits. It remembers the tokens before."""

    stateful = True

    def __init__(self, hidden_size: int, layer_idx: int, exits: int, *, normalise: str = "rms", **shape):
        super().__init__(hidden_size, layer_idx, exits, normalise=normalise)
        self.mixer, self.config = mixer_shape(**shape).build(hidden_size, layer_idx, exits, 2)

    def classify(self, hidden, cache):
        return self.mixer(hidden, cache_params=cache)

    def new_cache(self):
        return DynamicCache(config=self.config)

    @classmethod
    def cost(cls, hidden_size, *, normalise="rms", **shape):
        return mixer_shape(**shape).cost(hidden_size, 2)


class SlimFeedForward(Head):
    """A learned projection to `rank` channels, then r -> 4r -> 2."""

    def __init__(self, hidden_size: int, layer_idx: int, exits: int, *, rank: int = 128, **options):
        super().__init__(hidden_size, layer_idx, exits, **options)
        self.project = projection(hidden_size, rank)
        self.head = FeedForward(rank, layer_idx, exits, normalise="none")

    def classify(self, hidden, cache):
        return self.head(self.project(hidden))

    @classmethod
    def cost(cls, hidden_size, *, rank=128, **options):
        return costs.add(costs.linear(hidden_size * rank), FeedForward.cost(rank))


class SlimMamba(Head):
    """A learned projection to `rank` channels, then a Mamba mixer of that width whose output gives two logits."""

    stateful = True

    def __init__(
        self, hidden_size: int, layer_idx: int, exits: int, *, normalise: str = "rms", rank: int = 128, **shape
    ):  # fmt: skip
        super().__init__(hidden_size, layer_idx, exits, normalise=normalise)
        self.project = projection(hidden_size, rank)
        self.mixer, self.config = slim_shape(**shape).build(rank, layer_idx, exits, 2)

    def classify(self, hidden, cache):
        return self.mixer(self.project(hidden), cache_params=cache)

    def new_cache(self):
        return DynamicCache(config=self.config)

    @classmethod
    def cost(cls, hidden_size, *, normalise="rms", rank=128, **shape):
        return costs.add(costs.linear(hidden_size * rank), slim_shape(**shape).cost(rank, 2))


class Hybrid(Head):
    """A Mamba state with an FFN on top: projection to `rank` channels, x + mixer(x), then r -> 4r -> 2 of its norm.

    A mixer alone is linear in what its state holds but for the gate; the FFN decides on state and token together.
    """

    stateful = True

    def __init__(
        self, hidden_size: int, layer_idx: int, exits: int, *, normalise: str = "rms", rank: int = 128, **shape
    ):  # fmt: skip
        super().__init__(hidden_size, layer_idx, exits, normalise=normalise)
        self.project = projection(hidden_size, rank)
        self.mixer, self.config = slim_shape(**shape).build(rank, layer_idx, exits, rank)
        self.head = FeedForward(rank, layer_idx, exits, normalise="rms")

    def classify(self, hidden, cache):
        hidden = self.project(hidden)
        return self.head(hidden + self.mixer(hidden, cache_params=cache))

    def new_cache(self):
        return DynamicCache(config=self.config)

    @classmethod
    def cost(cls, hidden_size, *, normalise="rms", rank=128, **shape):
        parts = costs.linear(hidden_size * rank), slim_shape(**shape).cost(rank, rank), FeedForward.cost(rank)
        return costs.add(*parts)


def projection(hidden_size: int, rank: int) -> nn.Linear:
    """From the backbone's width to `rank` channels, without bias; InputError if that is no narrowing."""
    if rank > hidden_size:
        raise InputError(f"rank: {rank} is more than the hidden states' {hidden_size} channels; lower it")
    return nn.Linear(hidden_size, rank, bias=False)


KINDS: dict[str, type[Head]] = {
    "calm": Calm,
    "ffn": FeedForward,
    "mamba": Mamba,
    "ffn-slim": SlimFeedForward,
    "mamba-slim": SlimMamba,
    "hybrid": Hybrid,
}
