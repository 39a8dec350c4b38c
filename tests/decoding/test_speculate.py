"""Self-speculation against the engine without it, token by token, and what its rounds run and keep."""

from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import ONE_OF_EACH, Float64, make_random_model
from early_exit.base.errors import InputError
from early_exit.costs.passes import cost_table, flops
from early_exit.costs.speculation import round_flops
from early_exit.decoding import answer, loop, memory, run_parts, speculate
from early_exit.decoding.requests import Generation, Request
from early_exit.experiment.config.policies import parse
from early_exit.models import loading
from engine import LIMITS, Length, prompts, requests_for, rules, run, watch
from peak_memory import SHAPES, PeakMemory
from priced import generation_flops
from reference import Schedule
from reference import decode as slow_decode

DEPTH = 6
NEW_TOKENS = 12


def early(model):
    """The model with blocks that change little, so that early exits often say what the full model says."""
    by = 0.6 if model.config.model_type in ("mamba", "falcon_mamba") else 0.1  # these change less of themselves
    with torch.no_grad():
        for layer in model.base_model.layers[1:]:
            for name, parameter in layer.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight")):
                    parameter.mul_(by)
    return model


class Ends(Length):
    """Also stop at some tokens, as an end-of-sequence id would."""

    def __init__(self, max_new_tokens, ends):
        super().__init__(max_new_tokens)
        self.ends = ends

    def reason(self, token_ids):
        return "eos" if token_ids[-1] in self.ends else super().reason(token_ids)


@pytest.fixture(scope="module", params=ONE_OF_EACH)
def settled_model(request):
    return early(make_random_model(request.param, torch.float64))


@pytest.mark.slow
@given(seed=st.integers(0, 999), exit_block=st.integers(1, DEPTH - 1), draft_tokens=st.integers(1, 6),
       slots=st.sampled_from([1, 3, 8]), ends=st.booleans(), penalty=st.sampled_from([1.0, 1.3]))  # fmt: skip
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_answers_are_those_of_the_full_model(settled_model, seed, exit_block, draft_tokens, slots, ends, penalty):
    """In float64 every token, whatever is drafted, in every batch, wherever answers end."""
    backbone, some = loading.adapt(settled_model), prompts(2, seed=seed, longest=8)
    rule = Ends(NEW_TOKENS, set(range(3, 13)) if ends else ())
    with Float64():
        requests = requests_for(some, [2.0, 4.0])
        plain = run(backbone, requests, slots=slots, rule=rule, repetition_penalty=penalty)
        step = speculate.step(exit_block, draft_tokens)
        ours = run(backbone, requests, slots=slots, rule=rule, repetition_penalty=penalty, step=step)
    assert ours.keys() == plain.keys()
    for key, row in ours.items():
        assert row.token_ids == plain[key].token_ids
        assert (row.exit_blocks, row.stop_reason) == (plain[key].exit_blocks, plain[key].stop_reason)
        check_rounds(row, draft_tokens)


def check_rounds(row, draft_tokens):
    """Rounds account for every token but the prompt's: the drafts that were kept and one more, but for an end."""
    assert len(row.drafted) == len(row.accepted)
    assert all(0 <= kept <= drafted <= draft_tokens for kept, drafted in zip(row.accepted, row.drafted, strict=True))
    made = sum(row.accepted) + len(row.accepted)
    assert made - (len(row.token_ids) - 1) in (0, 1 if row.stop_reason == "eos" else 0)


def test_random_models_accept_some_drafts_and_throw_some_away(settled_model):
    """Else the test above would prove little."""
    backbone = loading.adapt(settled_model)
    with Float64():
        rows = run(backbone, requests_for(prompts(6)), rule=Length(NEW_TOKENS), step=speculate.step(3, 3)).values()
    drafted, accepted = (sum(sum(getattr(row, name)) for row in rows) for name in ("drafted", "accepted"))
    assert 0.05 < accepted / drafted < 0.95


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_float32_differs_only_where_two_tokens_tie(name):
    model = early(make_random_model(name))
    backbone, some = loading.adapt(model), prompts(8, seed=3, longest=20)
    plain, ours = (run(backbone, requests_for(some), slots=4, rule=Length(NEW_TOKENS), step=step)
                   for step in (None, speculate.step(2, 4)))  # fmt: skip
    for key, row in ours.items():
        pairs = enumerate(zip(row.token_ids, plain[key].token_ids, strict=True))
        first = next(((i, pair) for i, pair in pairs if pair[0] != pair[1]), None)
        if first is not None:
            i, pair = first
            schedule = Schedule([DEPTH] * (NEW_TOKENS - 1))
            logits = slow_decode(model, some[int(key[0])], schedule, "deferred").logits[i]
            assert abs(float(logits[pair[0]] - logits[pair[1]])) < 1e-4, (key, first)


def state_of(state, slot):
    """Everything that a slot's later tokens may see, by block."""
    length = int(state.lengths[slot])
    if hasattr(state, "keys"):
        pairs = ((state.keys[k][slot, :, :length], state.values[k][slot, :, :length]) for k in state.layer_indices)
    else:
        pairs = ((state.conv[k][slot], state.recurrent[k][slot]) for k in state.layer_indices)
    return [tuple(part.clone() for part in pair) for pair in pairs]


def test_caches_after_each_round_are_those_of_plain_decoding(double_model):
    """Whatever was thrown away has left no trace: block by block, the states of a row that never drafted."""
    backbone, some = loading.adapt(double_model), prompts(4, seed=5, longest=8)

    def noting(step, found):
        def noted(batch):
            step(batch)
            for slot, row in enumerate(batch.running):
                found[row.example_id, len(row.token_ids)] = state_of(batch.state, slot)

        return noted

    plain, ours = {}, {}
    with Float64():
        for found, step in ((plain, loop.decode_one_token), (ours, speculate.step(2, 3))):
            run(backbone, requests_for(some), rule=Length(NEW_TOKENS), step=noting(step, found))
        checked = 0
        for key, states in ours.items():
            if key in plain:  # a row that ended was looked at before it left
                checked += 1
                for mine, other in zip(states, plain[key], strict=True):
                    for a, b in zip(mine, other, strict=True):
                        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert checked > 10


def test_each_token_of_a_round_runs_once_through_each_block(random_model):
    """Drafts and the last token through all blocks; the LM head for each draft, and once for each token verified."""
    backbone, rounds = watch(loading.adapt(random_model)), []
    costs = cost_table(random_model.config.to_dict(), {})

    def step(batch):
        backbone.forget()
        speculate.draft_and_verify(batch, exit_block=2, draft_tokens=3)
        rounds.append((list(backbone.ran), list(backbone.left), [row.drafted[-1] for row in batch.running]))

    rows = run(backbone, requests_for(prompts(3, seed=1)), rule=Length(NEW_TOKENS), step=step).values()
    assert len(rounds) > 3
    for ran, left, drafted in rounds:
        tokens = sum(drafted) + len(drafted)
        for n in range(1, DEPTH + 1):
            places = [place for block, slots, positions, _ in ran if block == n
                      for place in zip(slots, positions, strict=True)]  # fmt: skip
            assert len(places) == len(set(places)) == tokens
        assert sum(len(logits) for _, logits in left) == sum(drafted) + tokens

    # What was seen to run is what is counted: each token at its own context, and every call of the LM head.
    contexts = [position + 1 for ran, _, _ in rounds for _, _, positions, _ in ran for position in positions]
    heads = sum(len(logits) for _, left, _ in rounds for _, logits in left)
    counted = flops_of(costs, rows)
    assert counted["blocks"].sum() == len(contexts)
    assert counted["flops_blocks"].sum() == sum(flops(costs["block"], context) for context in contexts)
    assert counted["flops"].sum() - counted["flops_blocks"].sum() == heads * flops(costs["lm_head"])
    assert (counted["flops"] > counted["flops_full"]).all()  # nothing is saved but time


def flops_of(costs, rows):
    shape = {name: [getattr(row, name) for row in rows] for name in ("prompt_tokens", "exit_blocks")}
    rounds = {name: [getattr(row, name) for row in rows] for name in ("drafted", "accepted")}
    counted = generation_flops(costs, **shape)
    return counted | round_flops(costs, counted, prompt_tokens=shape["prompt_tokens"], **rounds)


def test_rounds_that_do_not_give_a_rows_tokens_are_refused():
    costs = cost_table(make_random_model("llama").config.to_dict(), {})
    request = Request("a", [7] * 5, [2.0])
    rows = [Generation(request, 2.0, [1, 2, 3, 4], [6] * 4, [2, 2], [1, 0]),  # 1 + 2 + 1 tokens
            Generation(request, 2.0, [1, 2, 3], [6] * 3, [2], [2]),  # its last draft ended the answer
            Generation(request, 2.0, [1], [6])]  # fmt: skip
    assert flops_of(costs, rows)["blocks"].tolist() == [36, 18, 0]
    for accepted in ([1, 2], [0, 0], []):
        wrong = [Generation(request, 2.0, [1, 2, 3, 4], [6] * 4, [2] * len(accepted), accepted)]
        with pytest.raises(InputError, match="row 0: 3 tokens are not what its rounds gave"):
            flops_of(costs, wrong)


def test_nothing_is_drafted_beyond_the_room_or_behind_an_end(random_model):
    backbone = loading.adapt(random_model)
    row = Generation(Request("a", [7] * 5, [1.0]), 1.0, token_ids=[9, 9])
    may = partial(speculate.may_help, rule=Ends(6, {4}), draft_tokens=3)
    assert may(row, []) and may(row, [7]) and may(row, [7, 7])
    assert not may(row, [7, 7, 7])  # six tokens are the most: one is left, which the full model gives itself
    assert not may(row, [4]) and not may(row, [7, 4])
    assert not speculate.may_help(row, [7], rule=Ends(60, ()), draft_tokens=1)
    done = run(backbone, requests_for([[5, 6, 7]]), rule=Length(2), step=speculate.step(1, 4))
    assert [(row.drafted, row.accepted) for row in done.values()] == [([0], [0])]


def test_a_run_notes_its_rounds_for_each_number_of_drafts(random_model):
    """Through the parts of a run: the exit is the backbone's first unless the policy names one."""
    backbone = loading.adapt(random_model)
    policy, second = (parse({"kind": "self-speculative", "exit": block}) for block in (None, 2))
    parts = run_parts.self_speculative(policy, backbone, [2.0, 4.0], [3, 5])
    assert [part.decoder.step.keywords for part in parts] == [
        {"exit_block": 3, "draft_tokens": 2}, {"exit_block": 3, "draft_tokens": 4},
    ]  # fmt: skip
    (named,) = run_parts.self_speculative(second, backbone, [1.0], [3, 5])
    assert named.decoder.step.keywords == {"exit_block": 2, "draft_tokens": 1}
    for part in parts:
        requests = requests_for(prompts(3), part.settings)
        rows = list(answer.answer_part(part, requests, rules(Length(6)), LIMITS))
        assert {row.setting for row in rows} == {part.decoder.drafted} and len(rows) == 3
        for row in rows:
            check_rounds(row, part.decoder.drafted)
            assert row.drafted


@pytest.mark.parametrize("name", SHAPES)
def test_predicted_memory_bounds_what_rounds_take(name):
    """Logits of every token read, and of a Mamba the states after each, beside what plain decoding takes."""
    torch.manual_seed(0)
    backbone = loading.adapt(SHAPES[name]().eval())
    requests = [Request(f"{k}", torch.randint(3, 900, (20,)).tolist(), [4.0]) for k in range(16)]
    with PeakMemory() as measured:
        run(backbone, requests, slots=16, rule=Length(8), step=speculate.step(1, 4))
    predicted = memory.peak(backbone, 16, memory.Shape(20, 8, drafted=4))
    assert predicted / 3 < measured.peak <= predicted
