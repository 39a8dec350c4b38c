"""Greedy decoding: the most probable token, with a repetition penalty if the config sets one."""

from collections.abc import Sequence

import torch
from torch import Tensor


class GreedyDecoding:
    """Chooses tokens for rows by slot; with a penalty, it remembers which tokens a row has seen, its prompt's too.

    The repetition penalty p is CTRL's (arXiv 1909.05858, sec. 4.1) as it became standard: the logit of a token seen
    before is divided by p if it is positive, else multiplied by it. 1 changes nothing.
    """

    def __init__(self, repetition_penalty: float = 1.0):
        self.repetition_penalty = repetition_penalty
        self.seen: Tensor | None = None  # (slots, vocabulary)

    def open(self, slots: int, vocabulary: int, device: torch.device) -> None:
        """Make room for `slots` rows."""
        if self.repetition_penalty != 1.0:
            self.seen = torch.zeros(slots, vocabulary, dtype=torch.bool, device=device)

    def admit(self, slots: Tensor, token_ids: Sequence[Tensor]) -> None:
        """Start new rows in `slots`, with their prompts' token ids."""
        if self.seen is not None:
            self.seen[slots] = False
            for slot, prompt in zip(slots.tolist(), token_ids, strict=True):
                self.seen[slot, prompt] = True

    def move(self, source: int, target: int) -> None:
        """Copy slot `source` to slot `target`."""
        if self.seen is not None:
            self.seen[target] = self.seen[source]

    def choose(self, logits: Tensor, slots: Tensor) -> list[int]:
        """One token for each of `slots` from its logits (rows, vocabulary), remembered as seen."""
        chosen = self.most_probable(logits, slots)
        if self.seen is not None:
            self.seen[slots, chosen] = True
        return chosen.tolist()

    def most_probable(self, logits: Tensor, slots: Tensor) -> Tensor:
        """The token that `choose` would give to each of `slots`, (rows,); nothing is remembered."""
        if self.seen is not None:
            lowered = torch.where(logits > 0, logits / self.repetition_penalty, logits * self.repetition_penalty)
            logits = torch.where(self.seen[slots], lowered, logits)
        return logits.argmax(-1)
