"""What tests run the decoding engine with, and how they look at what it does."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from unittest import mock

import torch

from early_exit.decoding import answer, fills, loop, memory
from early_exit.decoding.batch import Decoder
from early_exit.models.backbone import Backbone
from early_exit.policies import base

LIMITS = memory.Limits(4, 2**40)


@dataclass
class Length:
    """Stop after a number of tokens: schedules and references run to the end."""

    max_new_tokens: int = 10

    def reason(self, token_ids):
        return "length" if len(token_ids) >= self.max_new_tokens else None


class Forced(base.Policy):
    """Leave by a schedule: `schedules[row][step]` is the exit block; a row's number is its setting."""

    def __init__(self, schedules: Sequence[Sequence[int]], exits: Sequence[int]):
        self.schedules, self.exits = schedules, sorted(exits)

    def open(self, slots):
        self.steps = [0] * len(self.schedules)

    def leave(self, exit_block, hidden, thresholds):
        assert len(hidden) == len(thresholds)
        rows = thresholds.int().tolist()
        leaving = [self.schedules[row][self.steps[row]] == exit_block for row in rows]
        for row, leaves in zip(rows, leaving, strict=True):
            self.steps[row] += leaves or exit_block == self.exits[-1]  # rows that stay now run to the end
        return base.Decision(torch.tensor(leaving))


def rules(stop):
    """The rules of a run that ends its answers by `stop`; prompts that are too long are refused."""
    return answer.Rules(stop, "refuse", 1.0)


@dataclass(frozen=True)
class Watched(Backbone):
    """A backbone that notes what its blocks and its LM head are given and give, since the last `forget`."""

    ran: list = field(default_factory=list)  # (block, slots, positions, hidden states (queries, 1, hidden))
    left: list = field(default_factory=list)  # (hidden states (rows, hidden), logits (rows, vocabulary))

    def run_block(self, n, hidden, state):
        out = super().run_block(n, hidden, state)
        self.ran.append((n, state.slots.tolist(), state.positions.tolist(), out.clone()))
        return out

    def logits(self, hidden):
        logits = super().logits(hidden)
        self.left.append((hidden.clone(), logits.clone()))
        return logits

    def forget(self):
        self.ran.clear()
        self.left.clear()


def watch(backbone: Backbone) -> Watched:
    return Watched(**vars(backbone))


def run(backbone, requests, policy=None, fill=None, slots=4, rule=None, repetition_penalty=1.0, **further):
    """Finished rows by (example, setting); `further` are parts of the decoder."""
    decoder = Decoder(backbone, policy or base.FullDepth(), fill or fills.Fill(), **further)
    done = loop.generate(decoder, requests, rule or Length(), slots=slots, repetition_penalty=repetition_penalty)
    return {(row.example_id, row.setting): row for row in done}


def run_watched(
    backbone, requests, policy, fill, *, slots: int, lengths: Mapping[float, int],
    after_step: Callable[[Watched, loop.Batch], None] = lambda watched, batch: None,
):  # fmt: skip
    """`run`, each row stopping at `lengths[its setting]` tokens, and a look at everything after each step."""
    watched = watch(backbone)

    def prefill(batch, requests, _prefill=loop.prefill):
        _prefill(batch, requests)
        stop(batch)

    def decode_one_token(batch, _step=loop.decode_one_token):
        _step(batch)
        after_step(watched, batch)
        stop(batch)

    def stop(batch):
        watched.forget()
        for row in batch.running:
            if len(row.token_ids) >= lengths[row.setting]:
                row.stop_reason = "length"

    with mock.patch.multiple(loop, prefill=prefill, decode_one_token=decode_one_token):
        return run(watched, requests, policy, fill, slots, Length(max(lengths.values())))


def prompts(count, seed=0, longest=30):
    """Some of equal length, so that prefill has groups."""
    rng = random.Random(seed)
    return [[rng.randrange(3, 61) for _ in range(rng.randrange(1, longest))] for _ in range(count)]


def requests_for(prompt_list, settings=(1.0,)):
    return [loop.Request(f"{k:02d}", prompt, list(settings)) for k, prompt in enumerate(prompt_list)]


def one_row_each(prompt_list):
    """Requests with a row each; its number is its setting, as `Forced` wants it."""
    return [loop.Request(f"{k:02d}", prompt, [float(k)]) for k, prompt in enumerate(prompt_list)]
