"""The decoding loop against independent references: the library's generate, and a slow reference of our own."""

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import decode as slow_decode

from early_exit import backbones, decode, fills, policies

NEW_TOKENS = 10


class Length:
    """Stop after a number of tokens: schedules and references run to the end."""

    max_new_tokens = NEW_TOKENS

    def reason(self, token_ids):
        return "length" if len(token_ids) >= self.max_new_tokens else None


class Forced:
    """Leave by a schedule: `schedules[row][step]` is the exit block; a row's number is its threshold."""

    reads_prompt, states = False, ()

    def __init__(self, schedules, depth):
        self.schedules, self.exits = schedules, list(range(1, depth))

    def open(self, slots):
        self.steps = [0] * len(self.schedules)

    def admit(self, slots, hidden, source):
        pass

    def leave(self, exit_block, hidden, thresholds):
        rows = thresholds.int().tolist()
        leaving = [self.schedules[row][self.steps[row]] == exit_block for row in rows]
        for row, leaves in zip(rows, leaving, strict=True):
            self.steps[row] += leaves or exit_block == self.exits[-1]  # rows that stay now run to the end
        return torch.tensor(leaving)


def run(backbone, requests, policy=None, fill=None, slots=4, rule=None):
    done = decode.generate(
        backbone, policy or policies.FullDepth(), fill or fills.Fill(), requests, rule or Length(), slots=slots
    )
    return {(g.example_id, g.threshold): g for g in done}


def prompts(count, seed=0, vocab=61):
    rng = random.Random(seed)
    return [[rng.randrange(3, vocab) for _ in range(rng.randrange(2, 30))] for _ in range(count)]


def requests_for(prompt_list, thresholds=(1.0,)):
    return [decode.Request(f"{k:02d}", prompt, list(thresholds)) for k, prompt in enumerate(prompt_list)]


def test_never_exit_equals_the_librarys_generate(random_model):
    backbone, some = backbones.adapt(random_model), prompts(12)
    ours = run(backbone, requests_for(some), slots=5)
    for k, prompt in enumerate(some):
        expected = random_model.generate(
            torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False
        )
        # min_new_tokens bans EOS in the library's loop, so compare up to the first one
        tokens = expected[0, len(prompt) :].tolist()
        mine = ours[f"{k:02d}", 1.0].token_ids
        stop = mine.index(2) if 2 in mine else NEW_TOKENS
        assert mine[:stop] == tokens[:stop]


@pytest.mark.parametrize("cheap", [True, False])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_forced_schedules_equal_the_slow_reference(random_model, cheap, data):
    """Any schedule of exits, rows of different lengths in one batch: same tokens, hence same caches."""
    backbone = backbones.adapt(random_model)
    depth = backbone.depth
    fill = ("copy" if backbone.family == "transformer" else "skip") if cheap else "propagate"
    blocks = st.lists(st.integers(1, depth), min_size=NEW_TOKENS - 1, max_size=NEW_TOKENS - 1)
    schedules = data.draw(st.lists(blocks, min_size=1, max_size=3))
    some = prompts(len(schedules), seed=data.draw(st.integers(0, 99)))
    requests = [decode.Request(f"{k}", prompt, [float(k)]) for k, prompt in enumerate(some)]
    policy = Forced(schedules, depth)
    ours = run(backbone, requests, policy, fills.FILLS[backbone.family][fill](), slots=4)
    for k, (prompt, schedule) in enumerate(zip(some, schedules, strict=True)):
        with torch.inference_mode():
            tokens, logits, _ = slow_decode(random_model, backbone.family, prompt, schedule, fill)
        got = ours[f"{k}", float(k)]
        assert got.exit_blocks == [depth, *schedule]
        first = next((i for i, (a, b) in enumerate(zip(got.token_ids, tokens, strict=True)) if a != b), None)
        if first is not None:  # only a tie of float32 may differ
            pair = logits[first][[got.token_ids[first], tokens[first]]]
            assert abs(float(pair[0] - pair[1])) < 1e-4, (fill, schedule)


@pytest.mark.parametrize("cheap", [True, False])
def test_caches_after_exits_equal_the_slow_references(random_model, cheap):
    """Exits on the first step, at every depth, all the way, none: the caches of every block, skipped ones included."""
    backbone = backbones.adapt(random_model)
    depth = backbone.depth
    fill = ("copy" if backbone.family == "transformer" else "skip") if cheap else "propagate"
    for schedule in ([1, 3, depth, 2, 5], [2] * 5, [depth] * 5, [depth, 1] * 2 + [depth]):
        prompt = prompts(1, seed=sum(schedule))[0]
        policy = Forced([schedule], depth)
        with torch.inference_mode():
            caches, rule = backbone.new_state(2, 64), Length()
            policy.open(2)
            filling = fills.FILLS[backbone.family][fill]()
            filling.open()
            rows = decode.prefill(
                backbone, policy, filling, caches, [decode.Request("0", prompt, [0.0])], rule, first_slot=0
            )
            for _ in schedule:
                decode.decode_one_token(backbone, policy, filling, caches, rows, rule)
            tokens, _, slow = slow_decode(random_model, backbone.family, prompt, schedule, fill)
        assert rows[0].token_ids == tokens
        close = {"rtol": 1e-3, "atol": 1e-4}
        for n in range(depth):
            if backbone.family == "transformer":
                length = len(prompt) + len(schedule)
                for ours, theirs in ((caches.keys, slow.keys), (caches.values, slow.values)):
                    torch.testing.assert_close(ours[n][0, :, :length], torch.stack(theirs[n], 1), **close)
            else:
                torch.testing.assert_close(caches.recurrent[n][0], slow.states[n], **close)
                window = torch.stack(slow.inputs[n][-caches.conv[n].shape[-1] :], -1)
                torch.testing.assert_close(caches.conv[n][0], window, **close)


def test_batches_do_not_change_rows(random_model):
    backbone, some = backbones.adapt(random_model), prompts(9, seed=3)
    expected = {key: row.token_ids for key, row in run(backbone, requests_for(some), slots=1).items()}
    shuffled = requests_for(some)
    random.Random(1).shuffle(shuffled)
    for slots, requests in ((3, requests_for(some)), (16, requests_for(some)), (4, shuffled)):
        got = {key: row.token_ids for key, row in run(backbone, requests, slots=slots).items()}
        assert got == expected


def test_skipped_blocks_are_not_computed(random_model):
    """Every token leaves after block 2: blocks 3.. run for prompts only."""
    backbone = backbones.adapt(random_model)
    fill = fills.FILLS[backbone.family]["propagate"]()
    schedules = [[2] * NEW_TOKENS] * 3
    requests = [decode.Request(f"{k}", prompt, [float(k)]) for k, prompt in enumerate(prompts(3, seed=5))]
    calls = {}
    hooks = [
        block.register_forward_hook(lambda *_, n=n: calls.__setitem__(n, calls.get(n, 0) + 1))
        for n, block in enumerate(backbone.blocks, 1)
    ]
    run(backbone, requests, Forced(schedules, backbone.depth), fill)
    for hook in hooks:
        hook.remove()
    assert calls[1] == calls[2] == 3 + NEW_TOKENS - 1
    assert {calls[n] for n in range(3, backbone.depth + 1)} == {3}


def test_pruned_backbone_drops_the_blocks_before_the_last(random_model):
    backbone = backbones.adapt(random_model)
    pruned = backbone.without_last_before_final(2)
    assert pruned.layer_indices == (0, 1, 2, 5)
    rows = run(pruned, requests_for(prompts(2)))
    assert all(row.exit_blocks == [4] * NEW_TOKENS for row in rows.values())
