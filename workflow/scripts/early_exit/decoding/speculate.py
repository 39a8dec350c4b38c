"""Self-speculative decoding: the first blocks draft tokens, the other blocks verify them, and no token changes.

A round takes the place of a step of `loop` (LayerSkip, arXiv 2404.16710; the idea is that of arXiv 2309.08168):

1. Draft. The last token runs through blocks 1..e; final norm and LM head give the next one, which runs through them in
   turn. Drafting ends after `draft_tokens`, behind a token that would end the answer, and before one that there is no
   room for. The last draft runs, too: if it is right, it needs no pass of its own.
2. Verify. The hidden states of all these tokens run through blocks e + 1.. together: the caches of the first blocks
   hold them already. Each gives the full model's next token.
3. Accept. Drafts are accepted up to the first that is not the full model's token, which replaces it; behind the last
   accepted draft comes one more token at no further cost. Caches go back to the last accepted token.

All tokens are the full model's, so they are those of `loop.decode_one_token`, but for ties in rounding. What is saved
is time where a pass over many tokens takes as long as over one, not work: rejected drafts have cost all blocks (see
`costs.speculation`).

A Transformer's caches go back by their lengths. A Mamba state holds only its last token, so the state after each token
is kept for the round. Mamba blocks take the tokens of a row one by one, in one pass over the blocks: the library takes
many at once from a given state only in Mamba-2, and cannot give the states in between, so that a rejected draft would
need a second run of the accepted ones.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from early_exit.decoding.batch import Batch
from early_exit.decoding.requests import Generation
from early_exit.decoding.stopping import StopRule


def step(exit_block: int, draft_tokens: int) -> Callable[[Batch], None]:
    """`draft_and_verify` with this exit block and this many drafts, for a `Decoder`."""
    return partial(draft_and_verify, exit_block=exit_block, draft_tokens=draft_tokens)


def draft_and_verify(batch: Batch, *, exit_block: int, draft_tokens: int) -> None:
    """One round: each running row gets 1 to `draft_tokens` + 1 tokens.

    Rows note how many tokens were drafted for them, and how many of those were accepted.
    """
    backbone, state, running = batch.decoder.backbone, batch.state, batch.running
    state.begin(len(running))
    state.record()
    starts = state.positions
    drafts, hidden = draft(batch, exit_block, draft_tokens)
    for n in range(exit_block + 1, backbone.depth + 1):
        hidden = backbone.run_block(n, hidden, state)
    logits = backbone.logits(hidden[:, 0])  # (queries, vocabulary)
    queries = zip(state.slots.tolist(), (state.positions - starts[state.slots]).tolist(), strict=True)
    place = {query: k for k, query in enumerate(queries)}  # of a slot and the number of its drafts read so far

    added, accepting = [0] * len(running), list(range(len(running)))  # accepting: slots whose drafts so far were right
    for read in range(draft_tokens + 1):
        if not accepting:
            break
        at = [place[slot, read] for slot in accepting]
        chosen = batch.greedy_decoding.choose(logits[at], starts.new_tensor(accepting))
        verified, accepting = dict(zip(accepting, chosen, strict=True)), []
        for slot, token in verified.items():
            row = running[slot]
            row.add(token, backbone.depth, batch.rule)
            added[slot] += 1
            if drafts[slot][read : read + 1] == [token]:
                row.accepted[-1] += 1
                if row.stop_reason is None:
                    accepting.append(slot)
    state.rewind(starts + starts.new_tensor(added))


def draft(batch: Batch, exit_block: int, draft_tokens: int) -> tuple[list[list[int]], Tensor]:
    """Drafts of each running row, and the hidden states (queries, 1, hidden) after `exit_block` of all tokens read.

    The state's queries are then all tokens read: a row's last one, and its drafts.
    """
    backbone, state, running = batch.decoder.backbone, batch.state, batch.running
    drafts: list[list[int]] = [[] for _ in running]
    tokens = torch.tensor([row.token_ids[-1] for row in running], device=backbone.device)
    before: list[tuple[Tensor, Tensor, Tensor]] = []  # slots, positions, hidden states
    while True:
        hidden = backbone.embed(tokens[:, None])
        for n in range(1, exit_block + 1):
            hidden = backbone.run_block(n, hidden, state)
        useful = [may_help(running[slot], drafts[slot], batch.rule, draft_tokens) for slot in state.slots.tolist()]
        if not any(useful):
            break
        before.append((state.slots, state.positions, hidden))
        keep = torch.tensor(useful, device=backbone.device)
        state.advance(keep)
        tokens = batch.greedy_decoding.most_probable(backbone.logits(hidden[keep, 0]), state.slots)
        for slot, token in zip(state.slots.tolist(), tokens.tolist(), strict=True):
            drafts[slot].append(token)
    for row, drafted in zip(running, drafts, strict=True):
        row.drafted.append(len(drafted))
        row.accepted.append(0)
    if before:
        slots, positions, earlier = map(torch.cat, zip(*before, strict=True))
        state.join(slots, positions)
        hidden = torch.cat([hidden, earlier])
    return drafts, hidden


def may_help(row: Generation, drafts: Sequence[int], rule: StopRule, draft_tokens: int) -> bool:
    """Whether one more draft may be part of the answer: there is room, and the drafts so far do not end it."""
    room = rule.max_new_tokens - len(row.token_ids) - 1  # the last token is the full model's in any case
    if len(drafts) >= min(draft_tokens, room):
        return False
    return not drafts or rule.reason([*row.token_ids, *drafts]) is None
