"""The decoding loop against the library's generate, and against itself in other batches; what exits do not compute.

What the state fills put into the caches is proved in test_fills.py.
"""

import random
import statistics

import pytest
import torch

from conftest import RANDOM_MODELS, Float64, make_random_model
from early_exit.costs import passes as costs
from early_exit.decoding import fills, loop
from early_exit.heads import store
from early_exit.models import loading
from early_exit.policies import confidences
from engine import Forced, Length, one_row_each, prompts, requests_for, run, run_watched
from reference import Heads, Schedule
from reference import decode as slow_decode

NEW_TOKENS = 10
FLOAT32_TIE = 1e-4  # of logits of about 4; those of one row were seen to differ by 1.4e-5 between batch sizes


def fill_names(backbone):
    return list(fills.FILLS[backbone.family])


def schedules_for(count, depth, seed=0, tokens=NEW_TOKENS):
    rng = random.Random(seed)
    return [[rng.randint(1, depth) for _ in range(tokens - 1)] for _ in range(count)]


def test_never_exit_equals_the_librarys_generate(model_of_any_family):
    plain = make_random_model(model_of_any_family.config.model_type)  # with the library's own attention
    backbone, some = loading.adapt(model_of_any_family), prompts(5)
    ours = run(backbone, requests_for(some), slots=2)
    for k, prompt in enumerate(some):
        expected = plain.generate(
            torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=[-1]
        )  # fmt: skip
        assert ours[f"{k:02d}", 1.0].token_ids == expected[0, len(prompt) :].tolist()
        assert ours[f"{k:02d}", 1.0].exit_blocks == [backbone.depth] * NEW_TOKENS


@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_bfloat16_runs_with_every_fill_and_equals_the_librarys_generate(name):
    """Mamba's hidden states are float32 behind the first block (residual_in_fp32), and its weights are not."""
    plain, some = make_random_model(name, torch.bfloat16), prompts(3)
    backbone = loading.adapt(make_random_model(name, torch.bfloat16))
    ours = run(backbone, requests_for(some), slots=1)
    for k, prompt in enumerate(some):
        expected = plain.generate(
            torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=[-1]
        )  # fmt: skip
        assert ours[f"{k:02d}", 1.0].token_ids == expected[0, len(prompt) :].tolist()
    schedules = schedules_for(3, backbone.depth)
    for fill in fill_names(backbone):
        policy = Forced(schedules, range(1, backbone.depth))
        for (_, row), got in run(backbone, one_row_each(some), policy, fills.FILLS[backbone.family][fill]()).items():
            assert got.exit_blocks[1:] == schedules[int(row)]


def in_batches(backbone, fill, some, schedules):
    """Tokens by row: one row at a time, then four, sixteen, and four in another order."""
    shuffled = one_row_each(some)
    random.Random(1).shuffle(shuffled)
    for slots, requests in [(1, one_row_each(some)), (4, one_row_each(some)), (16, one_row_each(some)), (4, shuffled)]:
        policy, length = Forced(schedules, range(1, backbone.depth)), Length(len(schedules[0]) + 1)
        done = run(backbone, requests, policy, fills.FILLS[backbone.family][fill](), slots, length)
        yield {int(setting): row.token_ids for (_, setting), row in done.items()}


@pytest.mark.parametrize("which", [0, 1, 2])
def test_batches_do_not_change_rows(random_model, which):
    """In float32, tokens may differ where two logits tie: where a row first differs, its logits are looked at."""
    backbone, some = loading.adapt(random_model), prompts(8, seed=3, longest=20)
    fill, schedules = fill_names(backbone)[which], schedules_for(8, backbone.depth, tokens=7)
    one_by_one, *others = in_batches(backbone, fill, some, schedules)
    for got in others:
        for row, tokens in got.items():
            pairs = enumerate(zip(tokens, one_by_one[row], strict=True))
            first = next(((i, pair) for i, pair in pairs if pair[0] != pair[1]), None)
            if first is not None:
                i, pair = first
                logits = slow_decode(random_model, some[row], Schedule(schedules[row]), fill).logits[i]
                assert abs(float(logits[pair[0]] - logits[pair[1]])) < FLOAT32_TIE, (row, first)


@pytest.mark.parametrize("which", [1, 2])
def test_batches_change_nothing_in_float64(double_model, which):
    backbone, some = loading.adapt(double_model), prompts(6, seed=4, longest=5)
    with Float64():
        schedules = schedules_for(6, backbone.depth, tokens=5)
        one_by_one, *others = in_batches(backbone, fill_names(backbone)[which], some, schedules)
    assert all(got == one_by_one for got in others)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_skipped_blocks_are_not_computed(random_model, which):
    """Rows through each block's module: those that went so deep; with `deferred`, or a later one of their row did."""
    backbone = loading.adapt(random_model)
    fill, depth, passes = fill_names(backbone)[which], backbone.depth, {}

    def count(n):
        def hook(_, inputs, output):
            if inputs[0].shape[1] == 1:  # not a prompt
                passes[n] = passes.get(n, 0) + len(inputs[0])

        return hook

    some = [[*prompt, 5] for prompt in prompts(3, seed=5)]
    for schedules in ([[2] * (NEW_TOKENS - 1)] * 3, schedules_for(3, depth, seed=2), [[5, 1, 1, 3, 1, 2, 1, 1, 1]] * 3):
        passes.clear()
        hooks = [block.register_forward_hook(count(n)) for n, block in enumerate(backbone.blocks, 1)]
        run(backbone, one_row_each(some), Forced(schedules, range(1, depth)), fills.FILLS[backbone.family][fill]())
        for hook in hooks:
            hook.remove()
        reached = [
            max(schedule[i:]) if fill == "deferred" else schedule[i]
            for schedule in schedules
            for i in range(len(schedule))
        ]
        assert passes == {n: sum(deep >= n for deep in reached) for n in range(1, max(reached) + 1)}


HEADS = {
    "mamba2": {"kind": "mamba", "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 8},
    "mamba1": {"kind": "mamba", "mixer": "mamba1", "state_size": 4},
    "slim": {"kind": "mamba-slim", "rank": 16, "head_dim": 8, "state_size": 8, "chunk_size": 8},
    "hybrid": {"kind": "hybrid", "rank": 16, "head_dim": 8, "state_size": 8, "chunk_size": 8},
}


class WatchedHeads(confidences.HeadConfidence):
    """Notes every answer by the threshold of the row that asked: (exit block, confidence)."""

    def open(self, slots):
        super().open(slots)
        self.answers = {}

    def leave(self, exit_block, hidden, thresholds):
        logits = []
        hook = self.heads[str(exit_block)].register_forward_hook(lambda _, inputs, output: logits.append(output[:, 0]))
        decision = super().leave(exit_block, hidden, thresholds)
        hook.remove()
        assert len(logits) == 1 and len(logits[0]) == len(thresholds)
        for threshold, confidence in zip(thresholds.tolist(), logits[0].softmax(-1)[:, 1].tolist(), strict=True):
            self.answers.setdefault(threshold, []).append((exit_block, confidence))
        return decision


@pytest.mark.parametrize("head_state", costs.HEAD_STATES)
@pytest.mark.parametrize(
    "name, fill, head",
    [("llama", "propagate", "mamba2"), ("llama", "copy", "hybrid"), ("mamba2", "skip", "mamba1"),
     ("mamba2", "deferred", "slim"), ("mamba2", "propagate", "mamba2")],
)  # fmt: skip
def test_heads_with_a_state_equal_one_token_at_a_time(name, fill, head, head_state):
    """Each row's heads keep a state of their own through exits, batches and freed slots: same answers, same exits."""
    model = make_random_model(name, torch.float64)
    backbone = loading.adapt(model)
    torch.manual_seed(3)
    some = store.build(HEADS[head], backbone.hidden_size, (2, 3, 5)).double().eval().requires_grad_(False)
    policy, questions = WatchedHeads(some, head_state), prompts(2, seed=6, longest=7)
    with Float64():
        never = Heads(some, 1.0, head_state, steps=10)
        slow_decode(model, questions[0], never, fill)
        levels = statistics.quantiles((confidence for _, confidence in never.confidences), n=20)
        # Two rows a prompt; rows are known by their thresholds, which float32 can hold. Each has a length of its own.
        thresholds = [round(levels[k] * 2**16) / 2**16 for k in (18, 8, 16, 12)]
        requests = [loop.Request(f"{k}", prompt, thresholds[2 * k : 2 * k + 2]) for k, prompt in enumerate(questions)]
        steps = {threshold: 9 - 2 * (k % 4) for k, threshold in enumerate(thresholds)}
        done = run_watched(backbone, requests, policy, fills.FILLS[backbone.family][fill](), slots=4,
                           lengths={threshold: count + 1 for threshold, count in steps.items()})  # fmt: skip
        for request in requests:
            for threshold in request.settings:
                slow = Heads(some, threshold, head_state, steps[threshold])
                trace = slow_decode(model, request.token_ids, slow, fill)
                row = done[request.example_id, threshold]
                assert (row.token_ids, row.exit_blocks[1:]) == (trace.token_ids, trace.exits[row.prompt_tokens :])
                assert policy.answers[threshold] == [(n, pytest.approx(c, rel=1e-9)) for n, c in slow.confidences]
    left = [block for row in done.values() for block in row.exit_blocks[1:]]
    assert len(set(left)) > 2, left  # else the thresholds prove little
