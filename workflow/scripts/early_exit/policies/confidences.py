"""How sure a policy is that the rest of the blocks may be skipped: a trained head's answer, or one without training.

Without training, after an exit's block, for each token (CALM, arXiv 2207.07061, the first and the third; PABEE, arXiv
2006.04152, the last):

========== ===========================================================================================
softmax    the probability of the most probable token, through the final norm and the LM head
margin     that, minus the probability of the second
saturation the cosine of the hidden state with that at the exit before; never above at the first exit
patience   at how many exits in a row, this one included, the most probable token has been the same
========== ===========================================================================================

A token leaves where its confidence is above its threshold; with patience, where it reaches it. What the LM head gave
in a check is what a leaving token is chosen from: it is not computed again.

What the state of a head gets from a token that left below its exit (`head_state`):

- `skip` (default): nothing, the token never happened there. It costs nothing.
- `propagate`: the hidden state the token left with, as the backbone's blocks may get it. Every token pays all heads.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from early_exit.heads.store import confidence
from early_exit.models.caches import RecurrentState
from early_exit.models.recurrent_steps import use_plain_steps
from early_exit.policies.base import Policy
from early_exit.policies.thresholds import Same


class Confidence(Policy):
    """Leave at the first exit with a confidence above the threshold; `adapt` says what a row's thresholds are."""

    def __init__(self, exits: Sequence[int], adapt: Same | None = None):
        self.exits, self.adapt = list(exits), adapt or Same()

    def thresholds(self, rows):
        return self.adapt(rows, len(self.exits))

    def leave(self, exit_block, hidden, thresholds):
        leaving = self.confidence(exit_block, hidden) > thresholds
        self.stay(~leaving)
        return leaving

    def confidence(self, exit_block: int, hidden: Tensor) -> Tensor:
        """Of the live rows, (rows, 1, hidden) to (rows,), in float32; called at every exit in order."""
        raise NotImplementedError

    def stay(self, rows: Tensor) -> None:
        """Of the rows just asked, these (a mask) are asked at the next exit."""

    def of_answer(self, hidden: Mapping[int, Tensor], prompt_tokens: int) -> Tensor:
        """Confidences on an answer that did not leave, (answer's tokens, exits).

        `hidden` has the states (1, T, hidden) after each exit, of the prompt's tokens and the answer's behind them.
        """
        return torch.stack([self.confidence(n, hidden[n][0, prompt_tokens:, None]) for n in self.exits], dim=1)


class HeadConfidence(Confidence):
    """A trained head's confidence (paper, sec. III)."""

    def __init__(self, heads: nn.ModuleDict, head_state: str = "skip", adapt: Same | None = None):
        super().__init__([int(n) for n in heads], adapt)
        self.heads, self.head_state = heads, head_state
        self.reads_prompt = next(iter(heads.values())).stateful
        self.states: list[RecurrentState] = []

    def open(self, slots):
        if self.reads_prompt:
            use_plain_steps(self.heads)
            device = next(self.heads.parameters()).device
            self.states = [RecurrentState(range(len(self.exits)), slots, device)]

    def admit(self, slots, hidden, source):
        if self.reads_prompt:
            cache = self.heads[str(self.exits[0])].new_cache()
            for exit_block in self.exits:
                self.heads[str(exit_block)](hidden[exit_block], cache)
            self.states[0].insert(slots, cache, source, hidden[self.exits[0]].shape[1])

    def confidence(self, exit_block, hidden):
        return confidence(self._logits(exit_block, hidden, None))

    def of_answer(self, hidden, prompt_tokens):
        if not self.reads_prompt:
            return super().of_answer(hidden, prompt_tokens)
        cache = self.heads[str(self.exits[0])].new_cache()
        logits = [self.heads[str(n)](hidden[n], cache)[0, prompt_tokens:] for n in self.exits]
        return confidence(torch.stack(logits, dim=1))

    def left(self, exit_block, hidden, rows):
        if self.reads_prompt and self.head_state == "propagate":
            for above in self.exits[self.exits.index(exit_block) + 1 :]:
                self._logits(above, hidden, rows)

    def _logits(self, exit_block: int, hidden: Tensor, rows: Tensor | None) -> Tensor:
        """One check, (rows, 1, hidden) to (rows, 2); the state of these live rows (None: all) goes on by a token."""
        if not self.reads_prompt:
            return self.heads[str(exit_block)](hidden)[:, 0]
        state = self.states[0]
        state.select(rows)
        logits = self.heads[str(exit_block)](hidden, state)[:, 0]
        state.write_back(self.exits.index(exit_block))
        return logits


class LogitConfidence(Confidence):
    """What asks the LM head; `lm_head` gives hidden states (rows, hidden) their logits (rows, vocabulary)."""

    asks_lm_head = True

    def __init__(self, exits: Sequence[int], lm_head: Callable[[Tensor], Tensor], adapt: Same | None = None):
        super().__init__(exits, adapt)
        self.lm_head = lm_head

    def confidence(self, exit_block, hidden):
        self.checked = self.lm_head(hidden[:, 0])
        return self.of(exit_block, self.checked)

    def of(self, exit_block: int, logits: Tensor) -> Tensor:
        """The confidence in the most probable token: (rows, vocabulary) to (rows,)."""
        raise NotImplementedError

    def logits(self, rows):
        return self.checked[rows]


class Softmax(LogitConfidence):
    """The probability of the most probable token."""

    def of(self, exit_block, logits):
        return logits.softmax(-1).amax(-1)


class Margin(LogitConfidence):
    """The probability of the most probable token, minus that of the second."""

    def of(self, exit_block, logits):
        first, second = logits.softmax(-1).topk(2).values.unbind(-1)
        return first - second


class Patience(LogitConfidence):
    """At how many exits in a row, this one included, the most probable token has been the same."""

    def leave(self, exit_block, hidden, thresholds):
        leaving = self.confidence(exit_block, hidden) >= thresholds
        self.stay(~leaving)
        return leaving

    def of(self, exit_block, logits):
        best = logits.argmax(-1)
        if exit_block == self.exits[0]:
            self.run = torch.ones_like(best)
        else:
            self.run = torch.where(best == self.best, self.run + 1, 1)
        self.best = best
        return self.run

    def stay(self, rows):
        self.best, self.run = self.best[rows], self.run[rows]


class Saturation(Confidence):
    """The cosine of the hidden state with that at the exit before; at the first exit -1, which no threshold is below.

    Lengths are left out of what it costs, as norms are everywhere (see `costs`): it is a dot product.
    """

    def confidence(self, exit_block, hidden):
        unit = F.normalize(hidden[:, 0].float(), dim=-1)
        if exit_block == self.exits[0]:
            cosine = torch.full_like(unit[:, 0], -1.0)
        else:
            cosine = torch.bmm(self.before[:, None], unit[:, :, None])[:, 0, 0].clamp(max=1.0)
        self.before = unit
        return cosine

    def stay(self, rows):
        self.before = self.before[rows]


UNTRAINED: dict[str, type[Confidence]] = {
    "softmax": Softmax, "margin": Margin, "saturation": Saturation, "patience": Patience,
}  # fmt: skip
