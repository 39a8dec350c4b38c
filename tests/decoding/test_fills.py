"""Every family and state fill against the slow reference, in float64: hidden states, caches and logits, step by step.

The engine is looked at after each of its steps: what every block gave for every token it ran, what every slot's caches
hold, what went to the LM head. All of it must be the reference's for the row that runs in that slot.
"""

import functools
import random
from dataclasses import dataclass
from unittest import mock

import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from conftest import ONE_OF_EACH, RANDOM_MODELS, Float64, make_random_model
from early_exit.decoding import fills, loop
from early_exit.models import caches, loading
from early_exit.models.attention import ScatteredRows
from engine import Forced, run_watched
from reference import Schedule
from reference import decode as slow_decode

DEPTH = 6
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
PAIRS = [
    (name, fill)
    for name in RANDOM_MODELS
    for fill in (("skip" if "mamba" in name else "copy"), "propagate", "deferred")
]
PAIRS_OF_EACH = [(name, fill) for name, fill in PAIRS if name in ONE_OF_EACH]


@dataclass(frozen=True)
class Case:
    """Rows and the exits they are forced to; `shared` rows have one prompt (settings of one request)."""

    schedules: tuple[tuple[int, ...], ...]  # row r makes len(schedules[r]) + 1 tokens
    exits: tuple[int, ...] = (1, 2, 3, 4, 5)
    slots: int = 3
    shared: int = 1
    seed: int = 0

    def requests(self) -> list[loop.Request]:
        rng = random.Random(self.seed)
        rows = range(len(self.schedules))
        tokens = [rng.randrange(3, 61) for _ in range(6)]  # some prompts begin alike, some have one length
        prompts = [
            tokens[: rng.choice([0, 0, 4, 6])] + [rng.randrange(3, 61) for _ in range(rng.choice([1, 2, 5, 6]))]
            for _ in rows
        ]
        groups = [rows[k : k + self.shared] for k in range(0, len(rows), self.shared)]
        return [loop.Request(f"{g[0]}", prompts[g[0]], [float(row) for row in g]) for g in groups]


@st.composite
def cases(draw):
    exits = tuple(sorted(draw(st.sets(st.integers(1, DEPTH - 1), min_size=1))))
    schedule = st.lists(st.sampled_from([*exits, DEPTH]), min_size=1, max_size=6).map(tuple)
    schedules = tuple(draw(st.lists(schedule, min_size=2, max_size=5)))
    return Case(schedules, exits, draw(st.integers(1, 4)), draw(st.integers(1, 2)), draw(st.integers(0, 99)))


FIRST = Case(((1, DEPTH, 2, DEPTH), (3, 2, DEPTH, 1), (DEPTH,) * 4), slots=2, shared=3)
STOPS = Case(((3, 2), (1, 5, 2, 4, 3, DEPTH), (), (2, 2, 1, DEPTH, 1), (4, 1, 1, DEPTH), (5, 3, DEPTH)))
CASES = {
    "none leaves": Case(((DEPTH,) * 3,)),
    "all leave": Case(((1,) * 4, (2,) * 4, (5,) * 4)),
    "first": FIRST,
    "alternating": Case(((DEPTH, 1, DEPTH, 1, DEPTH), (1, DEPTH, 1, DEPTH, 1), (2, 4, 1, 5, 3))),
    "stops": STOPS,
    "sparse": Case(((4, 2, DEPTH, 2), (2, 2, 4, DEPTH), (4, 4, 2, 2)), exits=(2, 4), shared=2),
}


@functools.cache
def double_model(name):
    return make_random_model(name, torch.float64)


@pytest.mark.parametrize("name, fill", PAIRS)
def test_every_step_equals_the_slow_reference(name, fill):
    """In all cases for one family of each kind of cache, in the case with the most happening for the others."""
    model = double_model(name)
    backbone = loading.adapt(model)
    with Float64():
        for case in CASES.values() if (name, fill) in PAIRS_OF_EACH else [STOPS]:
            check(model, backbone, fill, case)


@pytest.mark.slow
@pytest.mark.parametrize("name, fill", PAIRS_OF_EACH)
def test_every_step_of_drawn_schedules_equals_the_slow_reference(name, fill):
    model = double_model(name)
    backbone = loading.adapt(model)

    @seed(PAIRS.index((name, fill)))  # each pair draws schedules of its own
    @settings(max_examples=4, deadline=None, database=None)
    @given(cases())
    def every_step_is_right(case):
        with Float64():
            check(model, backbone, fill, case)

    every_step_is_right()


@pytest.mark.parametrize("name, fill", PAIRS_OF_EACH)
def test_a_pruned_backbone_with_exits_equals_the_slow_reference(name, fill):
    model = double_model(name)
    pruned = loading.adapt(model).without((2, 5))
    with Float64():
        check(model, pruned, fill, Case(((3, 1, 4, 2), (1, 4, 3)), exits=(1, 2, 3)))


@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_the_reference_equals_the_librarys_forward(name):
    """At full depth, the reference equals the library's forward on the whole sequence."""
    model = double_model(name)
    prompt = [7, 23, 5, 11, 40, 3, 58, 31, 9]
    with Float64():
        trace = slow_decode(model, prompt, Schedule([DEPTH] * 6), "deferred")
        hidden, logits = librarys_forward(name, prompt + trace.token_ids[:-1])
        for n in range(1, DEPTH + 1):
            same(torch.stack([of_token[n] for of_token in trace.reference.hidden]), hidden[n], f"block {n}")
        same(trace.logits, logits[len(prompt) - 1 :], "logits")


@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_deferred_computes_the_hidden_states_of_the_librarys_forward(name):
    """What is computed late equals the full model's on the same tokens, which the exits chose."""
    model = double_model(name)
    backbone, case, ran = loading.adapt(model), FIRST, []

    def after_step(watched, batch):
        for n, slots, positions, hidden in watched.ran:
            rows = [batch.running[slot] for slot in slots]
            ran.extend((row, n, *rest) for row, *rest in zip(rows, positions, hidden[:, 0], strict=True))

    requests, lengths = case.requests(), {float(r): len(s) + 1 for r, s in enumerate(case.schedules)}
    with Float64():
        run_watched(
            backbone,
            requests,
            Forced(case.schedules, case.exits),
            fills.Deferred(),
            slots=case.slots,
            lengths=lengths,
            after_step=after_step,
        )
        prompts = {request.example_id: request.token_ids for request in requests}
        assert len(ran) == sum(max(schedule[i:]) for schedule in case.schedules for i in range(len(schedule)))
        for row in {id(row): row for row, *_ in ran}.values():
            hidden, _ = librarys_forward(name, [*prompts[row.example_id], *row.token_ids[:-1]])
            for n, position, one in (rest for other, *rest in ran if other is row):
                same(one, hidden[n][position], f"block {n}, position {position}")


@torch.inference_mode()
def librarys_forward(name, token_ids):
    """The library's model on a whole sequence: hidden states (T, hidden) by block, and logits (T, vocabulary).

    Its own list of hidden states begins before the first block with Transformers and behind it with Mamba, and ends
    behind the final norm; so blocks are listened to. Attention is its plainest, not the one that the engine runs on.
    """
    model = make_random_model(name, torch.float64)
    if "mamba" not in name:
        model.set_attn_implementation("eager")
    hidden = {}
    hooks = [
        layer.register_forward_hook(lambda _, inputs, output, n=n: hidden.__setitem__(n, output[0]))
        for n, layer in enumerate(model.base_model.layers, 1)
    ]
    logits = model(torch.tensor([token_ids])).logits[0]
    for hook in hooks:
        hook.remove()
    return hidden, logits


@pytest.mark.parametrize("fill", ["copy", "propagate", "deferred"])
def test_attention_over_scattered_long_rows_equals_the_slow_reference(fill):
    """Short rows, as all are in these tests, are gathered unless the limit is 0."""
    model = double_model("qwen3")
    apart = mock.patch.object(caches, "ScatteredRows", wraps=ScatteredRows)
    with Float64(), mock.patch.object(caches, "GATHERED_BYTES", 0), apart as taken:
        check(model, loading.adapt(model), fill, STOPS)
    assert taken.called


def check(model, backbone, fill, case):
    requests = case.requests()
    traces = {
        row: slow_decode(model, request.token_ids, Schedule(case.schedules[int(row)]), fill, backbone.layer_indices)
        for request in requests
        for row in request.settings
    }
    lengths = {row: len(trace.token_ids) for row, trace in traces.items()}
    ran = {row: set() for row in traces}  # (block, position) of the passes through blocks

    def after_step(watched, batch):
        now = [traces[row.setting] for row in batch.running]
        where = [row.prompt_tokens + len(row.token_ids) - 2 for row in batch.running]  # position of the token that ran
        for n, slots, positions, hidden in watched.ran:
            for slot, position, one in zip(slots, positions, hidden[:, 0], strict=True):
                same(one, now[slot].reference.hidden[position][n], f"block {n}, slot {slot}, position {position}")
                done = ran[batch.running[slot].setting]
                assert (n, position) not in done, "a token went through a block twice"
                done.add((n, position))
        ((leaving, logits),) = watched.left
        for slot, row in enumerate(batch.running):
            i = len(row.token_ids) - 1
            same(leaving[slot], now[slot].leaving[i], f"what leaves slot {slot}")
            same(logits[slot], now[slot].logits[i], f"logits of slot {slot}")
            for n in range(1, backbone.depth + 1):
                same_caches(batch.state, backbone, slot, n, now[slot], where[slot])

    done = run_watched(
        backbone,
        requests,
        Forced(case.schedules, case.exits),
        fills.FILLS[backbone.family][fill](),
        slots=case.slots,
        lengths=lengths,
        after_step=after_step,
    )
    assert {row for _, row in done} == set(traces)
    for (_, row), got in done.items():
        trace = traces[row]
        assert (got.token_ids, got.exit_blocks) == (trace.token_ids, [backbone.depth, *case.schedules[int(row)]])
        last, prompt = len(trace.exits) - 1, got.prompt_tokens
        assert ran[row] == {
            (n, p) for p in range(prompt, last + 1) for n in range(1, trace.depth(p, last) + 1)
        }  # blocks run for what needs them, and no other


def same_caches(caches, backbone, slot, n, trace, now):
    """Caches of block n in `slot` once the token at position `now` has left."""
    index, slow = backbone.layer_indices[n - 1], trace.reference
    there = [p for p in range(now + 1) if slow.fill != "deferred" or trace.depth(p, now) >= n]
    assert there == list(range(len(there)))  # what `deferred` has not computed yet is at the end
    where = f"block {n}, slot {slot}, position {now}"
    if backbone.family == "transformer":
        same(caches.keys[index][slot, :, : len(there)], torch.stack(slow.keys[n - 1][: len(there)], 1), f"K, {where}")
        same(
            caches.values[index][slot, :, : len(there)], torch.stack(slow.values[n - 1][: len(there)], 1), f"V, {where}"
        )
    else:
        same(caches.conv[index][slot], slow.windows[n - 1][there[-1]], f"window, {where}")
        same(caches.recurrent[index][slot], slow.states[n - 1][there[-1]], f"state, {where}")


def same(ours, theirs, what):
    assert ours.dtype == theirs.dtype == torch.float64, what
    if not torch.allclose(ours, theirs, **CLOSE):
        torch.testing.assert_close(ours, theirs, **CLOSE, msg=lambda message: f"{what}: {message}")
