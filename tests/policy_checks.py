"""Policies written out from their definitions, and runs compared with them and the slow reference by token."""

import random
from collections import Counter
from typing import get_args

import torch

from early_exit.decoding import fills
from early_exit.experiment.config import policies as entries
from early_exit.experiment.config.entry import derived
from early_exit.policies.build import policy_class
from engine import Length, run
from reference import Schedule
from reference import decode as slow_decode

DEPTH, EXITS, TOKENS = 6, [1, 2, 3, 5], 7
UNTRAINED = {
    get_args(entry.model_fields["kind"].annotation)[0]: policy_class(entry)
    for entry in derived(entries.Untrained, "kind")
    if entry is not entries.FilePolicy
}
PAIRS = [("llama", "copy"), ("qwen3", "propagate"), ("mamba2", "skip"), ("mamba2", "deferred")]


def make(kind, backbone, exits=EXITS, adapt=None):
    """A policy of a kind that needs no training; `adapt` changes its threshold from token to token."""
    lm_head = [] if kind == "saturation" else [backbone.logits]
    return UNTRAINED[kind](exits, *lm_head, adapt)


def defined_exit(kind, states, reference, thresholds, exits=EXITS):
    """Where a token with hidden states `states` (by blocks run) leaves, by the definitions of `confidences`."""
    run_length, before = 0, None
    for k, n in enumerate(exits):
        logits = reference.logits(states[n])
        weights = torch.exp(logits - logits.max())
        first, second = sorted((weights / weights.sum()).tolist(), reverse=True)[:2]
        best = int(logits.argmax())
        run_length, before = (run_length + 1 if best == before else 1), best
        if kind == "saturation":
            x, y = states[n], states[exits[max(k - 1, 0)]]
            sure = float((x * y).sum() / (x * x).sum().sqrt() / (y * y).sum().sqrt()) if k else -1.0
        else:
            sure = {"softmax": first, "margin": first - second, "patience": run_length}[kind]
        if (sure >= thresholds[k]) if kind == "patience" else (sure > thresholds[k]):
            return n
    return DEPTH


def traced(model, fill, request, row):
    """The slow reference's answer with the row's exits; its tokens must be the row's."""
    trace = slow_decode(model, request.token_ids, Schedule(row.exit_blocks[1:]), fill)
    assert trace.token_ids == row.token_ids
    return trace


def compare_with_definition(model, fill, requests, done, kind, thresholds):
    """Compares each row of a run with the reference and the definition; `thresholds(row, i)` are those of token i."""
    left = Counter()
    for request in requests:
        for setting in request.settings:
            row = done[request.example_id, setting]
            trace = traced(model, fill, request, row)
            for i in range(1, len(row.token_ids)):
                states = trace.reference.hidden[row.prompt_tokens + i - 1]
                expected = defined_exit(kind, states, trace.reference, thresholds(row, i))
                assert row.exit_blocks[i] == expected, (setting, i)
                left[expected] += 1
    return left


def in_batches(backbone, policy, fill, requests):
    """Rows of a run one at a time, sixteen, and four in another order: tokens and exits by row."""
    shuffled = list(requests)
    random.Random(1).shuffle(shuffled)
    for slots, these in [(1, requests), (16, requests), (4, shuffled)]:
        done = run(backbone, these, policy(), fills.FILLS[backbone.family][fill](), slots, Length(TOKENS))
        yield {key: (row.token_ids, row.exit_blocks) for key, row in done.items()}
