"""Policies without a check: tokens leave at one given exit, or at random ones.

`fixed` shows what leaving costs and saves: where every token leaves at the same exit, measured speed can be compared
with the FLOPs of the same tokens; as a rival of other policies it is a model cut short. `random` leaves as often at
each exit as the run of another policy did, but with other tokens: the difference between the two is what that policy's
decisions are worth.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate

import pandas as pd
import torch

from early_exit.base.errors import InputError
from early_exit.experiment.config import policies as entries
from early_exit.policies.base import Decision, Policy


class FixedExit(Policy):
    """Every generated token after the first leaves at the first exit from block `setting` on.

    The first token comes from the prompt's pass. A row whose setting is beyond the last exit runs all blocks.
    """

    entry = entries.Fixed

    def __init__(self, exits: Sequence[int]):
        self.exits = list(exits)

    @classmethod
    def from_entry(cls, entry, backbone, given):
        return cls(given.exits)

    def leave(self, exit_block, hidden, thresholds):
        return Decision(thresholds <= exit_block)


class RandomExit(FixedExit):
    """Every token of every row leaves at an exit drawn by given rates, or runs all blocks.

    Args:
        exits: the blocks, ascending.
        rates: for each setting the share of passes that leave at each exit; the others run all blocks. None: each
            exit and the full depth are equally likely.
        seed: of the draws. A draw belongs to an example and a place in its answer. So it does not depend on the batch,
            and it is the same for all settings: with higher rates of early exits no token leaves later.
    """

    entry = entries.Random

    def __init__(self, exits: Sequence[int], rates: Mapping[float, Sequence[float]] | None, seed: int):
        super().__init__(exits)
        self.rates, self.seed = rates, seed

    @classmethod
    def from_entry(cls, entry, backbone, given):
        return cls(given.exits, given.rates, given.seed)

    def thresholds(self, rows):
        even = [1 / (len(self.exits) + 1)] * len(self.exits)
        drawn = [self._draw(row, even if self.rates is None else self.rates[row.setting]) for row in rows]
        return torch.tensor(drawn)[:, None].expand(-1, len(self.exits))

    def _draw(self, row, rates: Sequence[float]) -> float:
        key = f"{self.seed}:{row.example_id}:{len(row.token_ids)}".encode()
        place = int.from_bytes(blake2b(key, digest_size=8).digest()) / 2**64  # uniform in [0, 1)
        reached = zip(self.exits, accumulate(rates), strict=True)
        return next((exit_block for exit_block, share in reached if place < share), float("inf"))


def exit_rates(run: pd.DataFrame, exits: Sequence[int]) -> dict[float, list[float]]:
    """For each setting of a run (records.GENERATIONS) the share of its decode passes that left at each exit.

    InputError if a pass left elsewhere: then the run had other exits.
    """
    rates = {}
    for setting, rows in run.groupby("setting"):
        blocks = [block for exit_blocks in rows["exit_blocks"] for block in exit_blocks[1:]]
        depth = max((block for exit_blocks in run["exit_blocks"] for block in exit_blocks), default=0)
        strange = set(blocks) - {*exits, depth}
        if strange:
            raise InputError(f"a run to match left after block {min(strange)}, which is no exit; generate it again")
        rates[float(setting)] = [blocks.count(exit_block) / max(len(blocks), 1) for exit_block in exits]
    return rates
