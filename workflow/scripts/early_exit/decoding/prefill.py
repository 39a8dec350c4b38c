"""Prefill: prompts run at full depth, and each row gets its slot and its first token."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from early_exit.decoding.batch import Batch
from early_exit.decoding.requests import Generation, Request

PADDING = 1.25  # where padding does no harm, prompts run together up to this many times their own tokens


def prefill(batch: Batch, requests: Sequence[Request]) -> None:
    """Run prompts at full depth, give each of their settings a slot, and choose the first tokens.

    Padding stands behind a prompt, and nothing that is stored has seen it: where a state runs over the whole sequence
    (Mamba blocks, heads that read the prompt), only prompts of one length share a pass.
    """
    padding = PADDING if batch.prefixes.shares else 1.0
    for group in batch.prefixes.groups([request.token_ids for request in requests], padding):
        _run_together(batch, [requests[k] for k in group])


def _run_together(batch: Batch, requests: Sequence[Request]) -> None:
    """Run prompts in one pass, behind the prefix that they share with the prompts before them."""
    policy, prefixes = batch.decoder.policy, batch.prefixes
    backbone, device = prefixes.backbone, prefixes.backbone.device
    prompts = [torch.tensor(request.token_ids, device=device) for request in requests]
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    common = prefixes.common([request.token_ids for request in requests])
    cache = prefixes.take(len(requests), common)
    new = pad_sequence([prompt[common:] for prompt in prompts], batch_first=True)  # (prompts, T)
    hidden, at_exits = backbone.run_prompt(new, policy.exits if policy.reads_prompt else (), cache, common)
    logits = backbone.logits(hidden[torch.arange(len(requests), device=device), lengths - common - 1])

    rows = [(k, setting) for k, request in enumerate(requests) for setting in request.settings]
    source = torch.tensor([k for k, _ in rows], device=device)
    slots = torch.arange(len(rows), device=device) + len(batch.running)
    batch.state.insert(slots, cache, source, lengths[source])
    policy.admit(slots, at_exits, source)
    batch.decoder.fill.admit(slots)
    batch.greedy_decoding.admit(slots, [prompts[k] for k, _ in rows])
    for (k, setting), token in zip(rows, batch.greedy_decoding.choose(logits[source], slots), strict=True):
        row = Generation(requests[k], setting)
        row.add(token, backbone.depth, batch.rule)
        batch.running.append(row)
    prefixes.store(requests[-1].token_ids, cache, source.new_tensor([len(requests) - 1]))
