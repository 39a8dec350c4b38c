"""The generate loop: prefill once a prompt, then one token a step for all running rows, leaving early where told.

A row is one prompt at one threshold. All thresholds of a prompt share its prefill. Rows that leave a step early are
computed no further in it; rows that end give up their slot to the next prompt. The prompt always runs at full depth,
so the first generated token, which it yields, does too.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch

from early_exit.backbones import Backbone
from early_exit.fills import Fill
from early_exit.policies import Policy
from early_exit.state import AttentionState, RecurrentState
from early_exit.stopping import StopRule


@dataclass(frozen=True)
class Request:
    """A tokenised prompt, to be answered once for each threshold."""

    example_id: str
    token_ids: Sequence[int]
    thresholds: Sequence[float]


@dataclass
class Generation:
    """An answer as it grows. `exit_blocks[i]` is the number of blocks run for the pass that gave token i."""

    example_id: str
    threshold: float
    prompt_tokens: int
    token_ids: list[int] = field(default_factory=list)
    exit_blocks: list[int] = field(default_factory=list)
    stop_reason: str | None = None

    def add(self, token_id: int, exit_block: int, rule: StopRule) -> None:
        self.token_ids.append(token_id)
        self.exit_blocks.append(exit_block)
        self.stop_reason = rule.reason(self.token_ids)


@torch.inference_mode()
def generate(
    backbone: Backbone, policy: Policy, fill: Fill, requests: Sequence[Request], rule: StopRule, *, slots: int
) -> Iterator[Generation]:
    """Answer all requests greedily, at most `slots` rows at a time; finished answers come in no set order."""
    if not requests:
        return
    slots = max(slots, *(len(request.thresholds) for request in requests), 1)
    capacity = max(len(request.token_ids) for request in requests) + rule.max_new_tokens
    state = backbone.new_state(slots, capacity)
    policy.open(slots)
    fill.open()
    waiting = deque(sorted(requests, key=lambda request: (len(request.token_ids), request.example_id)))
    running: list[Generation] = []
    while waiting or running:
        # Prompts come in groups, once half of the slots are free: prefill is cheaper for many at once.
        admitted = _next_requests(waiting, slots - len(running)) if len(running) <= slots // 2 else []
        if admitted:
            running += prefill(backbone, policy, fill, state, admitted, rule, first_slot=len(running))
        else:
            decode_one_token(backbone, policy, fill, state, running, rule)
        yield from _release_finished(running, [state, fill, *policy.states])


def prefill(
    backbone: Backbone, policy: Policy, fill: Fill, state: AttentionState | RecurrentState,
    requests: Sequence[Request], rule: StopRule, *, first_slot: int,
) -> list[Generation]:  # fmt: skip
    """Run prompts at full depth, give each of their thresholds a slot, and take the first token.

    Prompts of one length run together, so padding never enters a cache or a state.
    """
    started: list[Generation] = []
    for length, group in groupby(requests, key=lambda request: len(request.token_ids)):
        same = list(group)
        token_ids = torch.tensor([request.token_ids for request in same], device=backbone.device)
        cache = backbone.new_prompt_cache()
        last, kept = backbone.run_prompt(token_ids, policy.exits if policy.reads_prompt else (), cache)
        first = backbone.logits(last[:, -1]).argmax(-1).tolist()

        source = [k for k, request in enumerate(same) for _ in request.thresholds]
        slots = torch.arange(len(source), device=backbone.device) + first_slot + len(started)
        rows = torch.tensor(source, device=backbone.device)
        state.insert(slots, cache, rows, length)
        fill.admit(slots)
        policy.admit(slots, kept, rows)
        for k, request in enumerate(same):
            for threshold in request.thresholds:
                row = Generation(request.example_id, threshold, length)
                row.add(first[k], backbone.depth, rule)
                started.append(row)
    return started


def decode_one_token(
    backbone: Backbone, policy: Policy, fill: Fill, state: AttentionState | RecurrentState,
    running: Sequence[Generation], rule: StopRule,
) -> None:  # fmt: skip
    """One step: every running row goes as deep as the policy says and gets its next token."""
    device, count = backbone.device, len(running)
    tokens = torch.tensor([row.token_ids[-1] for row in running], device=device)
    thresholds = torch.tensor([row.threshold for row in running], device=device)
    for each in (state, *policy.states):
        each.begin(count)

    # Queries: a token of each live row, then earlier tokens of these rows that travel with it (fill `deferred`).
    hidden = backbone.embed(tokens[:, None])  # (queries, 1, hidden)
    live = torch.arange(count, device=device)
    last = torch.empty_like(hidden[:, 0])  # (rows, hidden): what each row leaves with
    exit_blocks = torch.full((count,), backbone.depth, device=device)
    for n in range(1, backbone.depth + 1):
        hidden = backbone.run_block(n, hidden, state)
        if n not in policy.exits:
            continue
        leaving = policy.leave(n, hidden[: len(live)], thresholds[live])
        if leaving.any():
            last[live[leaving]], exit_blocks[live[leaving]] = hidden[: len(live)][leaving, 0], n
            gone = torch.isin(state.slots, live[leaving])
            fill.leave(backbone, state, n, hidden[gone], gone.nonzero()[:, 0])
            live, hidden = live[~leaving], hidden[~gone]
            state.narrow(~gone)
            for each in policy.states:
                each.narrow(~leaving)
            if not len(live):
                break
        hidden = fill.rejoin(state, n, hidden)
    last[live] = hidden[: len(live), 0]

    chosen = backbone.logits(last).argmax(-1)
    for row, token, block in zip(running, chosen.tolist(), exit_blocks.tolist(), strict=True):
        row.add(token, block, rule)


def _next_requests(waiting: deque[Request], free: int) -> list[Request]:
    """As many requests, in order, as have room for all their thresholds."""
    taken = []
    while waiting and len(waiting[0].thresholds) <= free:
        taken.append(waiting.popleft())
        free -= len(taken[-1].thresholds)
    return taken


def _release_finished(
    running: list[Generation], followers: Sequence[AttentionState | RecurrentState | Fill]
) -> list[Generation]:  # fmt: skip
    """Take finished rows out; the last running row moves into each freed slot, so rows stay a prefix."""
    finished = []
    for slot in reversed(range(len(running))):
        if running[slot].stop_reason is None:
            continue
        finished.append(running[slot])
        mover = running.pop()
        if slot < len(running):
            running[slot] = mover
            for follower in followers:
                follower.move(len(running), slot)
    return finished
