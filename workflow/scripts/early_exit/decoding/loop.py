"""The generate loop: prefill once a prompt, then one token a step for all running rows, leaving early where told.

A row is one prompt at one setting. All settings of a prompt share its prefill. Rows that leave a step early are
computed no further in it; rows that end give up their slot to the next prompt. The prompt always runs at full depth,
so the first generated token, which it yields, does too; where blocks are left out, it may run through all of them.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.utils.rnn import pad_sequence

from early_exit.decoding.fills import Fill
from early_exit.decoding.next_token import Greedy
from early_exit.decoding.prefix_cache import Beginning
from early_exit.decoding.stopping import StopRule
from early_exit.models.backbone import Backbone
from early_exit.models.caches import AttentionState, RecurrentState
from early_exit.policies.base import Policy

ADMIT_AT = 0.25  # share of the slots that must be free before prompts are run
PADDING = 1.25  # where padding does no harm, prompts run together up to this many times their own tokens


@dataclass(frozen=True)
class Request:
    """A tokenised prompt, to be answered once for each setting."""

    example_id: str
    token_ids: Sequence[int]
    settings: Sequence[float]


@dataclass
class Generation:
    """An answer as it grows. `exit_blocks[i]` is the number of blocks run for the pass that gave token i.

    `drafted` and `accepted` are of each round of self-speculation (see `speculate`): tokens drafted, and those kept.
    """

    example_id: str
    setting: float
    prompt_tokens: int
    token_ids: list[int] = field(default_factory=list)
    exit_blocks: list[int] = field(default_factory=list)
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    stop_reason: str | None = None

    def add(self, token_id: int, exit_block: int, rule: StopRule) -> None:
        self.token_ids.append(token_id)
        self.exit_blocks.append(exit_block)
        self.stop_reason = rule.reason(self.token_ids)


@dataclass
class Batch:
    """The running rows, row k in slot k, and everything that keeps something for each slot."""

    backbone: Backbone
    policy: Policy
    fill: Fill
    greedy: Greedy
    rule: StopRule
    state: AttentionState | RecurrentState
    beginning: Beginning
    running: list[Generation] = field(default_factory=list)

    def release_finished(self) -> list[Generation]:
        """Take finished rows out; the last running row moves into each freed slot, so rows stay a prefix."""
        finished = []
        for slot in reversed(range(len(self.running))):
            if self.running[slot].stop_reason is None:
                continue
            finished.append(self.running[slot])
            mover = self.running.pop()
            if slot < len(self.running):
                self.running[slot] = mover
                for follower in (self.state, self.fill, self.greedy, *self.policy.states):
                    follower.move(len(self.running), slot)
        return finished


@torch.inference_mode()
def generate(
    backbone: Backbone, policy: Policy, fill: Fill, requests: Sequence[Request], rule: StopRule, *, slots: int,
    repetition_penalty: float = 1.0, prompt_backbone: Backbone | None = None,
    step: Callable[[Batch], None] | None = None,
) -> Iterator[Generation]:  # fmt: skip
    """Answer all requests greedily, at most `slots` rows at a time; finished answers come in no set order.

    `prompt_backbone` runs the prompts, if not `backbone`: the same model with at least its blocks. `step` takes the
    running rows further, if not `decode_one_token`.
    """
    if not requests:
        return
    step = step or decode_one_token
    requests = [part for request in requests for part in _parts(request, slots)]
    slots = min(slots, sum(len(request.settings) for request in requests))
    capacity = max(len(request.token_ids) for request in requests) + rule.max_new_tokens
    batch = Batch(backbone, policy, fill, Greedy(repetition_penalty), rule, backbone.new_state(slots, capacity),
                  Beginning(prompt_backbone or backbone, attends_only(backbone, policy)))  # fmt: skip
    for part in (policy, fill):
        part.open(slots)
    batch.greedy.open(slots, backbone.vocabulary, backbone.device)
    # Neighbours shall begin alike, or at least have one length.
    by = (lambda one: one.token_ids) if batch.beginning.shares else (lambda one: len(one.token_ids))
    waiting = deque(sorted(requests, key=lambda request: (by(request), request.example_id)))
    while waiting or batch.running:
        # Prompts come in groups, once some slots are free: prefill is cheaper for many at once.
        free = slots - len(batch.running)
        admitted = _next_requests(waiting, free) if free >= ADMIT_AT * slots else []
        if admitted:
            prefill(batch, admitted)
        else:
            step(batch)
        yield from batch.release_finished()


def prefill(batch: Batch, requests: Sequence[Request]) -> None:
    """Run prompts at full depth, give each of their settings a slot, and take the first token.

    Padding stands behind a prompt, and nothing that is kept has seen it: where a state goes over the whole sequence
    (Mamba blocks, heads that read the prompt), only prompts of one length share a pass.
    """
    policy, beginning, backbone = batch.policy, batch.beginning, batch.beginning.backbone
    padding = PADDING if beginning.shares else 1.0
    for indices in beginning.groups([request.token_ids for request in requests], padding):
        group = [requests[k] for k in indices]
        common = beginning.common([request.token_ids for request in group])
        prompts = [torch.tensor(request.token_ids, device=backbone.device) for request in group]
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=backbone.device)
        cache = beginning.take(len(group), common)
        new = pad_sequence([prompt[common:] for prompt in prompts], batch_first=True)
        hidden, kept = backbone.run_prompt(new, policy.exits if policy.reads_prompt else (), cache, common)
        logits = backbone.logits(hidden[torch.arange(len(group), device=backbone.device), lengths - common - 1])

        rows = [(k, setting) for k, request in enumerate(group) for setting in request.settings]
        source = torch.tensor([k for k, _ in rows], device=backbone.device)
        slots = torch.arange(len(rows), device=backbone.device) + len(batch.running)
        batch.state.insert(slots, cache, source, lengths[source])
        policy.admit(slots, kept, source)
        batch.fill.admit(slots)
        batch.greedy.admit(slots, [prompts[k] for k, _ in rows])
        for (k, setting), token in zip(rows, batch.greedy.choose(logits[source], slots), strict=True):
            row = Generation(group[k].example_id, setting, len(prompts[k]))
            row.add(token, backbone.depth, batch.rule)
            batch.running.append(row)
        beginning.keep(group[-1].token_ids, cache, source.new_tensor([len(group) - 1]))


def attends_only(backbone: Backbone, policy: Policy) -> bool:
    """Whether prompts leave nothing but keys and values, each position its own."""
    return backbone.family == "transformer" and not policy.reads_prompt


def decode_one_token(batch: Batch) -> None:
    """One step: every running row goes as deep as the policy says and gets its next token."""
    backbone, policy, fill, state, running = batch.backbone, batch.policy, batch.fill, batch.state, batch.running
    device, count = backbone.device, len(running)
    tokens = torch.tensor([row.token_ids[-1] for row in running], device=device)
    thresholds = policy.thresholds(running).to(device)  # (rows, exits)
    for each in (state, *policy.states):
        each.begin(count)

    # Queries: a token of each live row, then earlier tokens of these rows that travel with it (fill `deferred`).
    hidden = backbone.embed(tokens[:, None])  # (queries, 1, hidden)
    live = torch.arange(count, device=device)
    left: list[tuple[torch.Tensor, torch.Tensor]] = []  # rows, and the hidden states (n, hidden) they leave with
    known: list[tuple[torch.Tensor, torch.Tensor]] = []  # rows, and their logits, where a check has computed them
    exit_blocks = torch.full((count,), backbone.depth, device=device)
    for n in range(1, backbone.depth + 1):
        hidden = backbone.run_block(n, hidden, state)
        if n not in policy.exits:
            continue
        current = hidden[: len(live)]
        leaving = policy.leave(n, current, thresholds[live, policy.exits.index(n)])
        if leaving.any():
            logits = policy.logits(leaving.nonzero()[:, 0])
            if logits is None:
                left.append((live[leaving], current[leaving, 0]))
            else:
                known.append((live[leaving], logits))
            exit_blocks[live[leaving]] = n
            gone = torch.isin(state.slots, live[leaving])
            fill.leave(backbone, state, n, hidden[gone], gone.nonzero()[:, 0])
            policy.left(n, current[leaving], leaving.nonzero()[:, 0])
            live, hidden = live[~leaving], hidden[~gone]
            state.narrow(~gone)
            for each in policy.states:
                each.narrow(~leaving)
            if not len(live):
                break
        hidden = fill.rejoin(state, n, hidden)
    left.append((live, hidden[: len(live), 0]))
    fill.finish(backbone, state)

    rows, last = map(torch.cat, zip(*left, strict=True))
    if len(rows):
        order = rows.argsort()
        known.append((rows[order], backbone.logits(last[order])))
    chosen = batch.greedy.choose(_by_row(known), torch.arange(count, device=device))
    for row, token, block in zip(running, chosen, exit_blocks.tolist(), strict=True):
        row.add(token, block, batch.rule)


def _by_row(known: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Logits of all rows in their order, from parts of rows (each in order) and their logits."""
    if len(known) == 1:
        return known[0][1]
    rows, logits = map(torch.cat, zip(*known, strict=True))
    return logits[rows.argsort()]


def _parts(request: Request, slots: int) -> Iterator[Request]:
    """A request with more settings than there are slots, in parts that fit."""
    for begin in range(0, len(request.settings), slots):
        yield Request(request.example_id, request.token_ids, request.settings[begin : begin + slots])


def _next_requests(waiting: deque[Request], free: int) -> list[Request]:
    """As many requests, in order, as have room for all their settings."""
    taken = []
    while waiting and len(waiting[0].settings) <= free:
        taken.append(waiting.popleft())
        free -= len(taken[-1].settings)
    return taken
