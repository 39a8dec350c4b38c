"""Confidences measured on the full model's answers to calibration questions, and what follows from them.

There is a row for each decode pass of these answers: the confidence at each exit, and whether the exit's most probable
token is the full model's. For any thresholds this says where each pass would leave, what that costs, and how many
tokens would differ. Hidden states are the full model's: what earlier exits leave behind in caches, and the other tokens
that follow a first different one, are not in it. So it does not predict quality; it is what thresholds are chosen by
before they are tried.
"""

from dataclasses import dataclass

import numpy as np

from early_exit.costs.passes import CostTable, ExitPrice, generation_flops


@dataclass(frozen=True)
class MeasuredConfidences:
    """Confidences of a policy on answers of the full model.

    `confidence` and `agreement` are (passes, exits), `answer` (passes,) is the row of each pass in `prompt_tokens`
    (answers,), ascending; `price` is this policy's, `table` the backbone's cost table.
    """

    confidence: np.ndarray
    agreement: np.ndarray
    answer: np.ndarray
    prompt_tokens: np.ndarray
    table: CostTable
    price: ExitPrice

    def leaves(self, thresholds: np.ndarray) -> np.ndarray:
        """The exit (0-based) at which each pass leaves with these thresholds (exits,); the number of exits: none."""
        above = np.hstack([self.confidence > thresholds, np.ones((len(self.confidence), 1), bool)])
        return above.argmax(axis=1)

    def agreements(self) -> np.ndarray:
        """Whether each pass gives the full model's token, by the exit it leaves at, the last column at none."""
        return np.hstack([self.agreement, np.ones((len(self.agreement), 1), bool)])

    def agreement_share(self, left: np.ndarray) -> float:
        """Share of passes that give the full model's token if they leave at the exits `left` (passes,)."""
        return float(self.agreements()[np.arange(len(left)), left].mean())

    def flops_share(self, left: np.ndarray) -> float:
        """FLOPs of the decode passes over the full model's, if they leave at the exits `left` (passes,)."""
        blocks = np.append(self.price.exits, self.table["depth"])[left]
        answers = np.split(blocks, np.searchsorted(self.answer, np.arange(1, len(self.prompt_tokens))))
        runs = [[self.table["depth"], *answer] for answer in answers]
        counted = generation_flops(self.table, prompt_tokens=self.prompt_tokens, exit_blocks=runs, price=self.price)
        return float(counted["flops"].sum() / counted["flops_full"].sum())

    def prices(self) -> np.ndarray:
        """FLOPs of each pass by the exit it leaves at, the last column at none: (passes, exits + 1), in full passes.

        Each pass is counted alone: later blocks that a later token makes a deferred one run are not in it.
        """
        first = np.searchsorted(self.answer, self.answer)  # of the passes of the same answer
        context = self.prompt_tokens[self.answer] + np.arange(len(self.answer)) - first
        columns = []
        for block in (*self.price.exits, self.table["depth"]):
            runs = [[self.table["depth"], block]] * len(context)
            counted = generation_flops(self.table, prompt_tokens=context, exit_blocks=runs, price=self.price)
            columns.append(counted["flops"] / counted["flops_full"])
        return np.stack(columns, axis=1)
