"""An exit head: down to a few channels, a non-linearity, two logits."""

from torch import nn

from early_exit import Head, linear


class Bottleneck(Head):
    def __init__(self, hidden_size, layer_idx, exits, *, width=16, **options):
        super().__init__(hidden_size, layer_idx, exits, **options)
        self.layers = nn.Sequential(nn.Linear(hidden_size, width), nn.GELU(), nn.Linear(width, 2))

    def classify(self, hidden, cache):
        """Hidden states (rows, tokens, hidden) to logits (rows, tokens, 2)."""
        return self.layers(hidden)

    @classmethod
    def cost(cls, hidden_size, *, width=16, **options):
        """What one check costs: multiply-accumulates, as `linear` counts them."""
        return linear(hidden_size * width + width * 2)
