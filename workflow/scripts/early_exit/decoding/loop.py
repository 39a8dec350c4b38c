"""The decoding loop: one prefill for each prompt, then a token a step for all running rows, leaving early where told.

A row is one prompt at one setting. All settings of a prompt share its prefill. A row that leaves is computed no further
in that step; a row that ends frees its slot for the next prompt. Prompts run at full depth, and so does the first
generated token, which the prompt's pass gives; where a decoder leaves blocks out, its prompts may run through them all.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from early_exit.decoding.batch import Batch, Decoder, open_batch
from early_exit.decoding.finite import naming_example
from early_exit.decoding.prefill import prefill
from early_exit.decoding.prompt_passes import PromptPasses
from early_exit.decoding.requests import Generation, Request
from early_exit.decoding.stopping import StopRule

ADMIT_AT = 0.25  # share of the slots that must be free before prompts are run: prefill is cheaper for many at once


@torch.inference_mode()
def generate(
    decoder: Decoder, requests: Sequence[Request], rule: StopRule, *,
    slots: int, repetition_penalty: float = 1.0, prompts: PromptPasses | None = None,
) -> Iterator[Generation]:  # fmt: skip
    """Answer all requests by greedy decoding, at most `slots` rows at a time; answers come in the order they end.

    `prompts` are the passes of the decoder's prompts, if other decoders share them.
    """
    if not requests:
        return
    requests = [part for request in requests for part in _parts(request, slots)]
    slots = min(slots, sum(len(request.settings) for request in requests))
    capacity = max(len(request.token_ids) for request in requests) + rule.max_new_tokens
    prompts = prompts or PromptPasses(decoder.largest_backbone, decoder.exits_read)
    batch = open_batch(decoder, rule, prompts, (slots, capacity), repetition_penalty)
    waiting = deque(sorted(requests, key=prompts.order))
    step = decoder.step or decode_one_token
    while waiting or batch.running:
        free = slots - len(batch.running)
        admitted = _next_requests(waiting, free) if free >= ADMIT_AT * slots else []
        if admitted:
            with naming_example(decoder.largest_backbone, ((one.example_id, one.token_ids) for one in admitted)):
                prefill(batch, admitted)
        else:
            with naming_example(decoder.backbone, (row.so_far for row in batch.running)):
                step(batch)
        yield from batch.release_finished()


def decode_one_token(batch: Batch) -> None:
    """Give every running row its next token, from the block after which the policy lets it leave."""
    backbone, fill, policy = batch.decoder.backbone, batch.decoder.fill, batch.decoder.policy
    step = Step(batch)
    hidden = backbone.embed(step.tokens[:, None])  # (queries, 1, hidden)
    for n in range(1, backbone.depth + 1):
        hidden = backbone.run_block(n, hidden, batch.state)
        if n in policy.exits:
            hidden = step.leave(n, hidden)
            if not len(step.live):
                break
            hidden = fill.rejoin(batch.state, n, hidden)
    fill.finish(backbone, batch.state)
    logits = step.logits(hidden)
    chosen = batch.greedy_decoding.choose(logits, torch.arange(len(batch.running), device=backbone.device))
    for row, token, exit_block in zip(batch.running, chosen, step.exit_blocks.tolist(), strict=True):
        row.add(token, exit_block, batch.rule)


class Step:
    """One token of every running row: which rows are live, that is, have not left, and what the others left with.

    The state's queries are a token of each live row, then earlier tokens of these rows that travel with it (fill
    `deferred`).
    """

    def __init__(self, batch: Batch):
        decoder, running = batch.decoder, batch.running
        self.batch, device = batch, decoder.backbone.device
        self.tokens = torch.tensor([row.token_ids[-1] for row in running], device=device)
        self.thresholds = decoder.policy.thresholds(running).to(device)  # (rows, exits)
        self.live = torch.arange(len(running), device=device)
        self.exit_blocks = torch.full((len(running),), decoder.backbone.depth, device=device)
        self._left: list[tuple[Tensor, Tensor]] = []  # rows, and the hidden states (n, hidden) they left with
        self._checked: list[tuple[Tensor, Tensor]] = []  # rows, and their check's logits (n, vocabulary)
        batch.state.begin(len(running))
        decoder.policy.begin(len(running))

    def leave(self, n: int, hidden: Tensor) -> Tensor:
        """Ask the policy after block n, and let rows leave; returns the hidden states of the queries that go on.

        The policy knows of its own decision. Everything else learns it here: fill, state and rows.
        """
        backbone, fill, policy = self.batch.decoder.backbone, self.batch.decoder.fill, self.batch.decoder.policy
        state, current = self.batch.state, hidden[: len(self.live)]
        decision = policy.leave(n, current, self.thresholds[self.live, policy.exits.index(n)])
        if not decision.leaves.any():
            return hidden
        rows = self.live[decision.leaves]
        if decision.logits is None:
            self._left.append((rows, current[decision.leaves, 0]))
        else:
            self._checked.append((rows, decision.logits))
        self.exit_blocks[rows] = n
        self.live = self.live[~decision.leaves]
        leaves = torch.isin(state.slots, rows)  # (queries,)
        fill.leave(backbone, state, n, hidden[leaves], leaves.nonzero()[:, 0])
        state.narrow(~leaves)
        return hidden[~leaves]

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (rows, vocabulary) of all rows: those that a check computed, and the LM head's of the others.

        `hidden` has the queries that went through all blocks.
        """
        left = [*self._left, (self.live, hidden[: len(self.live), 0])]
        rows, last = map(torch.cat, zip(*left, strict=True))
        known = self._checked
        if len(rows):
            order = rows.argsort()
            known = [*known, (rows[order], self.batch.decoder.backbone.logits(last[order]))]
        if len(known) == 1:
            return known[0][1]
        rows, logits = map(torch.cat, zip(*known, strict=True))
        return logits[rows.argsort()]


def _parts(request: Request, slots: int) -> Iterator[Request]:
    """The request in parts of at most `slots` settings."""
    for begin in range(0, len(request.settings), slots):
        yield replace(request, settings=request.settings[begin : begin + slots])


def _next_requests(waiting: deque[Request], free: int) -> list[Request]:
    """Takes as many requests, in order, as have room for all their settings in `free` slots."""
    taken = []
    while waiting and len(waiting[0].settings) <= free:
        taken.append(waiting.popleft())
        free -= len(taken[-1].settings)
    return taken
