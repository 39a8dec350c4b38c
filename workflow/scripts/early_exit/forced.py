"""Policies that ask nobody: tokens leave at one given exit, or at random ones.

They answer no question about quality. They say what leaving costs and saves: with every token leaving where it is
told to, measured speed can be held against the FLOPs of the same tokens.
"""

from collections.abc import Sequence

import torch

from early_exit.policies import FullDepth


class FixedExit(FullDepth):
    """Every generated token after the first leaves after `exit_block` (the first comes out of the prompt's pass)."""

    def __init__(self, exit_block: int):
        self.exits = [exit_block]

    def leave(self, exit_block, hidden, thresholds):
        return torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)


class RandomExit(FullDepth):
    """Every token of every row leaves at one of the exits or runs all blocks, each as likely as the others.

    The draws come from `seed` in the order in which rows are asked: the same requests in the same batches leave
    alike, other batches do not.
    """

    def __init__(self, exits: Sequence[int], seed: int):
        self.exits, self.seed = list(exits), seed

    def open(self, slots):
        super().open(slots)
        self._generator = torch.Generator().manual_seed(self.seed)

    def leave(self, exit_block, hidden, thresholds):
        # Of the places that are left, this exit and what lies beyond it, one is drawn.
        places = len(self.exits) - self.exits.index(exit_block) + 1
        return (torch.rand(len(hidden), generator=self._generator) < 1 / places).to(hidden.device)
