"""Prefill: each row gets its slot, what its prompt left at full depth, and its first token."""

from collections.abc import Sequence

import torch

from early_exit.decoding.batch import Batch
from early_exit.decoding.prompt_passes import ReadPrompts
from early_exit.decoding.requests import Generation, Request


def prefill(batch: Batch, requests: Sequence[Request]) -> None:
    """Read the prompts of sorted requests, give each of their settings a slot, and choose the first tokens."""
    for prompts in batch.prompts.read(requests):
        # Heads that read the prompt run a state over it, which no padding may change.
        for part in prompts.of_equal_length() if batch.decoder.policy.reads_prompt else (prompts,):
            _admit(batch, part)


def _admit(batch: Batch, prompts: ReadPrompts) -> None:
    policy, backbone, done = batch.decoder.policy, batch.decoder.largest_backbone, prompts.done
    device = backbone.device
    rows = [(k, setting) for k, request in enumerate(prompts.requests) for setting in request.settings]
    place = torch.tensor([k for k, _ in rows], device=device)
    in_pass = torch.tensor(list(prompts.rows), device=device)
    source = in_pass[place]
    slots = torch.arange(len(rows), device=device) + len(batch.running)
    batch.state.insert(slots, done.cache, source, done.lengths[source])
    length = len(prompts.requests[0].token_ids)
    exits_read = policy.exits if policy.reads_prompt else ()
    policy.admit(slots, {n: done.at_exits[n][in_pass, :length] for n in exits_read}, place)
    batch.decoder.fill.admit(slots)
    batch.greedy_decoding.admit(slots, [prompts.requests[k].token_ids for k, _ in rows])
    for (k, setting), token in zip(rows, batch.greedy_decoding.choose(done.logits[source], slots), strict=True):
        row = Generation(prompts.requests[k], setting)
        row.add(token, backbone.depth, batch.rule)
        batch.running.append(row)
