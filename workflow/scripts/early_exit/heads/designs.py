"""Designs of exit heads: classifiers that read the hidden state after an exit's block and give two logits.

A design is one class with two methods: `classify` maps hidden states to two logits, `cost` returns what one check
costs. `KINDS` has the built-in ones: the paper's three (DYNAMAX, arXiv 2504.20922, sec. III), two slim ones that first
project the hidden state down to `rank` channels, and the hybrid that the paper leaves open. A user's design is such a
class in a file of its own; its kind is `path/to/file.py:Class` (see `sources.user_code`).

Hidden states are scaled to unit root mean square before the head, without parameters: their norm grows with depth (in
a pre-norm backbone each block adds to it) and differs between backbones, while one learning rate must suit all of them.
`normalise: none` turns that off.
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
        layer_idx: 0-based index of the exit among the exits, by which a cache is addressed.
        exits: number of exits.
        normalise: rms or none.
    """

    stateful = False  # whether it keeps a state of earlier tokens, in a cache

    def __init__(self, hidden_size: int, layer_idx: int, exits: int, *, normalise: str = "rms"):
        super().__init__()
        if normalise not in ("rms", "none"):
            raise InputError(f"normalise: '{normalise}' is unknown; use rms or none")
        self.hidden_size, self.normalise = hidden_size, normalise

    def forward(self, hidden: Tensor, cache: Any = None) -> Tensor:
        """Map hidden states (rows, T, hidden) to logits (rows, T, 2); a stateful head continues from `cache`.

        The hidden states may have another number format than the head: Mamba backbones keep theirs in float32.
        """
        if self.normalise == "rms":
            hidden = F.rms_norm(hidden, (self.hidden_size,))
        return self.classify(hidden.to(next(self.parameters(), hidden).dtype), cache)

    def classify(self, hidden: Tensor, cache: Any) -> Tensor:
        """Map scaled hidden states to logits, in the shapes of `forward`; each design implements this."""
        raise NotImplementedError(f"{type(self).__name__} has no `classify`")

    def new_cache(self) -> DynamicCache | None:
        """Return the library's cache for a pass over a prompt, shared by all exits; None for a stateless head."""
        return None

    @classmethod
    def cost(cls, hidden_size: int, **options) -> Cost:
        """Return what one check of a token costs (see `costs.parts`); a recurrence marks a stateful head."""
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
    """A Mamba mixer whose output projection yields two logits; its state depends on all earlier tokens."""

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
    """A learned projection to `rank` channels, then a Mamba mixer of that width that outputs two logits."""

    stateful = True

    def __init__(
        self, hidden_size: int, layer_idx: int, exits: int, *, normalise: str = "rms", rank: int = 128, **shape
    ):
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

    Without the FFN, the logits are linear in the mixer's state except for the gate; with it, state and token interact.
    """

    stateful = True

    def __init__(
        self, hidden_size: int, layer_idx: int, exits: int, *, normalise: str = "rms", rank: int = 128, **shape
    ):
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
    """Return a linear layer from the backbone's width to `rank` channels; InputError if it would widen."""
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
