"""How sure a policy is that the remaining blocks may be skipped: a trained head's confidence, or one without training.

Without training, after an exit's block, for each token (CALM, arXiv 2207.07061, the first and the third; PABEE, arXiv
2006.04152, the last):

========== ===========================================================================================
softmax    the probability of the most probable token, through the final norm and the LM head
margin     that, minus the probability of the second
saturation the cosine of the hidden state with that at the exit before; never above at the first exit
patience   at how many exits in a row, this one included, the most probable token has been the same
========== ===========================================================================================

A token leaves where its confidence exceeds its threshold; with patience, where it reaches it. Where a check computes
logits, a token that leaves is chosen from them: they are not computed again.

What the state of a head gets from a token that left below its exit (`head_state`):

- `skip` (default): nothing, as if the token had not been generated. It costs nothing.
- `propagate`: the hidden state with which the token left, as the backbone's blocks may get it. Every token pays all
  heads.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from early_exit.base.errors import InputError
from early_exit.experiment.config import policies as entries
from early_exit.heads import store
from early_exit.heads.store import confidence
from early_exit.models.caches import RecurrentState
from early_exit.models.recurrent_steps import use_plain_steps
from early_exit.policies import budget
from early_exit.policies.base import Decision, Given, Policy
from early_exit.policies.thresholds import Decay, PerExit, Same


class Confidence(Policy):
    """Leave at the first exit with a confidence above the threshold; `adapt` computes a row's thresholds."""

    def __init__(self, exits: Sequence[int], adapt: Same | None = None):
        self.exits, self.adapt = list(exits), adapt or Same()

    @classmethod
    def from_entry(cls, entry, backbone, given, **options: Any):
        """The policy of an entry; `options` are the keys of its own that a class in a user's file has."""
        return cls(given.exits, adapt=_adapting(entry, given), **options)

    def thresholds(self, rows):
        return self.adapt(rows, len(self.exits))

    def leave(self, exit_block, hidden, thresholds):
        sure = self.confidence(exit_block, hidden)
        if bool(sure.isnan().any()):  # which no threshold is below: tokens would never leave
            dtype = str(hidden.dtype).removeprefix("torch.")
            raise InputError(f"the check after block {exit_block} is not a number in {dtype}; take another dtype")
        leaves = self.is_enough(sure, thresholds)
        self.stay(~leaves)
        return Decision(leaves)

    def confidence(self, exit_block: int, hidden: Tensor) -> Tensor:
        """Confidences of the live rows, (rows, 1, hidden) to (rows,), in float32; called at every exit in order."""
        raise NotImplementedError

    def is_enough(self, confidence: Tensor, thresholds: Tensor) -> Tensor:
        """Which rows leave with these confidences, (rows,)."""
        return confidence > thresholds

    def stay(self, rows: Tensor) -> None:
        """Forget all rows of this exit but these (a mask), which go on to the next exit."""

    def of_answer(self, hidden: Mapping[int, Tensor], prompt_tokens: int) -> Tensor:
        """Confidences on an answer at full depth, (answer's tokens, exits).

        `hidden` has the states (1, T, hidden) after each exit, of the prompt's tokens and the answer's behind them.
        """
        return torch.stack([self.confidence(n, hidden[n][0, prompt_tokens:, None]) for n in self.exits], dim=1)


class HeadConfidence(Confidence):
    """A trained head's confidence (paper, sec. III); heads that read the prompt keep a state for each row."""

    entry = entries.TrainedHead

    def __init__(self, heads: nn.ModuleDict, head_state: str = "skip", adapt: Same | None = None):
        super().__init__([int(n) for n in heads], adapt)
        self.heads, self.head_state = heads, head_state
        self.reads_prompt = next(iter(heads.values())).stateful
        self.state: RecurrentState | None = None  # from `open` on, if the heads read the prompt

    @classmethod
    def from_entry(cls, entry, backbone, given):
        trained = store.load(given.head_folder, entry.head, given.manifest)
        trained = trained.to(backbone.device, backbone.model.dtype)
        return cls(trained, entry.head_state, _adapting(entry, given))

    def open(self, slots):
        if self.reads_prompt:
            use_plain_steps(self.heads)
            device = next(self.heads.parameters()).device
            self.state = RecurrentState(range(len(self.exits)), slots, device)

    def admit(self, slots, hidden, source):
        if self.reads_prompt:
            cache = self.heads[str(self.exits[0])].new_cache()
            for exit_block in self.exits:
                self.heads[str(exit_block)](hidden[exit_block], cache)
            self.state.insert(slots, cache, source, hidden[self.exits[0]].shape[1])

    def move(self, source, target):
        if self.reads_prompt:
            self.state.move(source, target)

    def begin(self, count):
        if self.reads_prompt:
            self.state.begin(count)

    def leave(self, exit_block, hidden, thresholds):
        decision = super().leave(exit_block, hidden, thresholds)
        if self.reads_prompt and decision.leaves.any():
            if self.head_state == "propagate":
                rows = decision.leaves.nonzero()[:, 0]
                for above in self.exits[self.exits.index(exit_block) + 1 :]:
                    self._logits(above, hidden[decision.leaves], rows)
            self.state.narrow(~decision.leaves)
        return decision

    def confidence(self, exit_block, hidden):
        return confidence(self._logits(exit_block, hidden, None))

    def of_answer(self, hidden, prompt_tokens):
        if not self.reads_prompt:
            return super().of_answer(hidden, prompt_tokens)
        cache = self.heads[str(self.exits[0])].new_cache()
        logits = [self.heads[str(n)](hidden[n], cache)[0, prompt_tokens:] for n in self.exits]
        return confidence(torch.stack(logits, dim=1))

    def _logits(self, exit_block: int, hidden: Tensor, rows: Tensor | None) -> Tensor:
        """One check, (rows, 1, hidden) to (rows, 2); advances the state of these live rows (None: all) by a token."""
        if not self.reads_prompt:
            return self.heads[str(exit_block)](hidden)[:, 0]
        self.state.select(rows)
        logits = self.heads[str(exit_block)](hidden, self.state)[:, 0]
        self.state.write_back(self.exits.index(exit_block))
        return logits


class LogitConfidence(Confidence):
    """A confidence from the LM head; `lm_head` gives hidden states (rows, hidden) their logits (rows, vocabulary)."""

    asks_lm_head = True

    def __init__(self, exits: Sequence[int], lm_head: Callable[[Tensor], Tensor], adapt: Same | None = None):
        super().__init__(exits, adapt)
        self.lm_head = lm_head

    @classmethod
    def from_entry(cls, entry, backbone, given, **options):
        return cls(given.exits, backbone.logits, _adapting(entry, given), **options)

    def confidence(self, exit_block, hidden):
        self.checked = self.lm_head(hidden[:, 0])
        return self.of(exit_block, self.checked)

    def of(self, exit_block: int, logits: Tensor) -> Tensor:
        """The confidence in the most probable token: (rows, vocabulary) to (rows,)."""
        raise NotImplementedError

    def leave(self, exit_block, hidden, thresholds):
        decision = super().leave(exit_block, hidden, thresholds)
        return replace(decision, logits=self.checked[decision.leaves])


class Softmax(LogitConfidence):
    """The probability of the most probable token."""

    entry = entries.Softmax

    def of(self, exit_block, logits):
        return logits.softmax(-1).amax(-1)


class Margin(LogitConfidence):
    """The probability of the most probable token, minus that of the second."""

    entry = entries.Margin

    def of(self, exit_block, logits):
        first, second = logits.softmax(-1).topk(2).values.unbind(-1)
        return first - second


class Patience(LogitConfidence):
    """At how many exits in a row, this one included, the most probable token has been the same."""

    entry = entries.Patience

    def is_enough(self, confidence, thresholds):
        return confidence >= thresholds

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
    """The cosine of the hidden state with that at the exit before; at the first exit -1, which exceeds no threshold.

    Its cost is that of a dot product: lengths are left out, as norms are everywhere (see `costs`).
    """

    entry = entries.Saturation

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


def _adapting(entry: entries.Policy, given: Given) -> Same:
    """How its thresholds follow from its setting. Without a plan, as while one is measured, they are the setting."""
    rule, plan = getattr(entry, "rule", None), given.plan
    if isinstance(rule, entries.DecayingThreshold):
        return Decay(rule.temperature, given.max_new_tokens)
    if isinstance(rule, entries.ThresholdPerExit) and plan:
        return PerExit({made["setting"]: made["thresholds"] for made in plan["settings"]})
    if isinstance(rule, entries.BudgetedThreshold) and plan:
        return budget.rule(plan["curve"], plan["costs"], entry.price(given.exits), rule.horizon, plan["aims"])
    return Same()
