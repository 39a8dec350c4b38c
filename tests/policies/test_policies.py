"""Every policy against the slow reference: the same tokens at the same exits, and exits as the definitions say.

The slow reference decodes with a run's exits as a forced schedule: the tokens must be the same. On the
reference's hidden states the definition of the policy, written out here, must say the same exits. And rows must be what
they are alone, whatever runs beside them. Confidences, in float64; thresholds that adapt are in test_adaptive.py.
"""

from collections import Counter

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ONE_OF_EACH, Float64, make_random_model
from early_exit.base.errors import InputError
from early_exit.decoding import fills, memory
from early_exit.decoding.requests import Generation, Request
from early_exit.models import loading
from early_exit.models.backbone import Backbone
from early_exit.policies import confidences, forced
from engine import Length, prompts, requests_for, run
from policy_checks import DEPTH, EXITS, PAIRS, TOKENS, UNTRAINED, compare_with_definition, in_batches, make

# Float32 holds them; of the random models some tokens leave at each.
SETTINGS = {
    "softmax": [0.25, 0.375, 0.5], "margin": [0.0625, 0.125, 0.25], "saturation": [0.625, 0.75, 0.875],
    "patience": [2.0, 3.0, 4.0],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fill", "kind"),
    [(*pair, kind) for pair in (PAIRS[0], PAIRS[3]) for kind in UNTRAINED]
    + [(*pair, "softmax") for pair in PAIRS[1:3]],
)
def test_exits_are_the_definition_s_and_tokens_the_reference_s(name, fill, kind):
    model = make_random_model(name, torch.float64)
    backbone = loading.adapt(model)
    requests = requests_for(prompts(2, seed=6, longest=7), SETTINGS[kind])
    with Float64():
        done = run(backbone, requests, make(kind, backbone), fills.FILLS[backbone.family][fill](), slots=4,
                   rule=Length(TOKENS))  # fmt: skip
        left = compare_with_definition(model, fill, requests, done, kind, lambda row, i: [row.setting] * len(EXITS))
    assert len(left) > 2, left  # else it shows little
    assert kind != "saturation" or 1 not in left  # nothing to compare at the first exit


@pytest.mark.parametrize(("kind", "never"), [("softmax", 1.0), ("margin", 1.0), ("saturation", 1.0), ("patience", 5.0)])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_at_the_setting_that_never_leaves_it_is_the_full_model(name, kind, never):
    backbone, some = loading.adapt(make_random_model(name)), prompts(3, seed=2)
    full = run(backbone, requests_for(some))
    got = run(backbone, requests_for(some, [never]), make(kind, backbone), fills.Fill())
    for (example_id, _), row in got.items():
        assert row.token_ids == full[example_id, 1.0].token_ids
        assert row.exit_blocks == [DEPTH] * len(row.token_ids)


@pytest.mark.parametrize(
    ("name", "fill", "kind"),
    [(*PAIRS[0], kind) for kind in (*UNTRAINED, "fixed", "random")] + [(*PAIRS[3], "softmax")],
)
def test_rows_are_what_they_are_alone(name, fill, kind):
    backbone = loading.adapt(make_random_model(name, torch.float64))
    levels = {"fixed": [1.0, 3.0, 6.0], "random": [0.5, 0.9]} | SETTINGS
    rates = {0.5: [0.25] * 4, 0.9: [0.125] * 4}

    def policy():
        if kind == "fixed":
            return forced.FixedExit(EXITS)
        return forced.RandomExit(EXITS, rates, seed=3) if kind == "random" else make(kind, backbone)

    with Float64():
        alone, *others = in_batches(backbone, policy, fill, requests_for(prompts(3, seed=4, longest=5), levels[kind]))
    assert all(other == alone for other in others)


@pytest.mark.parametrize("kind", ["softmax", "margin", "patience"])
def test_what_a_check_has_computed_is_not_computed_again(kind, random_model):
    """Rows that the LM head is asked about: those at each exit, and at the end those that have not left."""
    backbone = loading.adapt(random_model)
    asked, some = [], requests_for(prompts(4, seed=1), SETTINGS[kind])
    counted = backbone.logits

    class Counting(Backbone):
        def logits(self, hidden):
            asked.append(len(hidden))
            return counted(hidden)

    counting = Counting(**vars(backbone))
    done = run(counting, some, make(kind, counting), fills.FILLS[backbone.family]["propagate"](), rule=Length(TOKENS))
    blocks = [block for row in done.values() for block in row.exit_blocks[1:]]
    checks = sum(sum(n <= block for n in EXITS) for block in blocks)
    assert len(set(blocks)) > 2
    assert sum(asked) == len(some) + checks + blocks.count(DEPTH)  # a prompt's last position is asked once


def test_a_repetition_penalty_acts_on_the_logits_of_a_check():
    """The token is penalised as it is at full depth; with the setting that always leaves at the last exit."""
    model = make_random_model("llama", torch.float64)
    backbone, some = loading.adapt(model), prompts(3, seed=2)
    with Float64():
        left = run(backbone, requests_for(some, [0.0]), make("softmax", backbone, [5]), fills.Deferred(),
                   repetition_penalty=1.5)  # fmt: skip
        told = run(backbone, requests_for(some, [5.0]), forced.FixedExit([5]), fills.Deferred(), repetition_penalty=1.5)
        plain = run(backbone, requests_for(some, [5.0]), forced.FixedExit([5]), fills.Deferred())
    tokens = [[row.token_ids for _, row in sorted(done.items())] for done in (left, told, plain)]
    assert tokens[0] == tokens[1] != tokens[2]


def test_a_row_that_fits_its_memory_with_checks_has_room_for_their_logits(random_model):
    backbone = loading.adapt(random_model)
    plain, asking = (memory.peak(backbone, 8, memory.Shape(20, 4, asks_lm_head=asks)) for asks in (False, True))
    assert asking - plain == 8 * backbone.vocabulary * 3 * 4
    assert confidences.Softmax.asks_lm_head and not confidences.Saturation.asks_lm_head


def test_fixed_leaves_at_the_setting_s_exit_and_beyond_the_last_never(random_model):
    backbone = loading.adapt(random_model)
    fill = fills.FILLS[backbone.family]["propagate"]()
    done = run(backbone, requests_for(prompts(2), [1.0, 2.5, 5.0, 6.0]), forced.FixedExit(EXITS), fill)
    for (_, setting), row in done.items():
        assert row.exit_blocks[0] == DEPTH
        assert set(row.exit_blocks[1:]) == {{1.0: 1, 2.5: 3, 5.0: 5, 6.0: DEPTH}[setting]}


# --- random exits ------------------------------------------------------------------------------------------------


def answer(example_id="a", setting=0.5, tokens=1):
    return Generation(Request(example_id, [7] * 3, [setting]), setting, [0] * tokens, [DEPTH] * tokens)


def drawn(policy, rows):
    """The exits that rows would leave at, the full depth as infinity."""
    places = policy.thresholds(rows)
    assert places.shape == (len(rows), len(policy.exits))
    return places[:, 0].tolist()


def test_random_exits_have_the_rates_that_are_asked_for():
    rates = {0.5: [0.1, 0.0, 0.3, 0.2]}
    left = drawn(forced.RandomExit(EXITS, rates, seed=1), [answer(f"{k}") for k in range(20000)])
    counts = Counter(left)
    for n, rate in zip(EXITS, rates[0.5], strict=True):
        assert counts[n] / 20000 == pytest.approx(rate, abs=0.012)  # three standard errors
    assert counts[2] == 0 and counts[float("inf")] / 20000 == pytest.approx(0.4, abs=0.012)
    even = Counter(drawn(forced.RandomExit(EXITS, None, seed=1), [answer(f"{k}") for k in range(20000)]))
    assert all(even[n] / 20000 == pytest.approx(0.2, abs=0.012) for n in (*EXITS, float("inf")))


def test_draws_belong_to_seed_example_and_place():
    rows = [answer(f"{k}", tokens=t) for k in range(20) for t in (1, 2, 3)]
    one = drawn(forced.RandomExit(EXITS, None, seed=1), rows)
    assert one == drawn(forced.RandomExit(EXITS, None, seed=1), rows[::-1])[::-1]
    assert one != drawn(forced.RandomExit(EXITS, None, seed=2), rows)
    assert len({tuple(one[k::3]) for k in range(3)}) == 3


@given(st.lists(st.floats(0, 0.25), min_size=4, max_size=4), st.lists(st.floats(0, 0.24), min_size=4, max_size=4))
@settings(max_examples=40, deadline=None)
def test_a_setting_with_more_early_exits_lets_no_token_leave_later(late, less):
    early = [rate + more for rate, more in zip(late, [less[0], 0, 0, 0], strict=True)]
    policy = forced.RandomExit(EXITS, {0.5: early, 0.9: late}, seed=1)
    rows = [answer(f"{k}") for k in range(50)]
    sooner = drawn(policy, rows)
    for row in rows:
        row.setting = 0.9
    assert all(a <= b for a, b in zip(sooner, drawn(policy, rows), strict=True))


def test_rates_are_the_shares_of_decode_passes_by_setting():
    rows = pd.DataFrame({"setting": [0.5, 0.5, 0.9, 0.7], "exit_blocks": [[6, 1, 1], [6, 5, 6], [6, 2, 6, 6, 6], [6]]})
    assert forced.exit_rates(rows, EXITS) == {
        0.5: [0.5, 0.0, 0.0, 0.25], 0.7: [0.0] * 4, 0.9: [0.0, 0.25, 0.0, 0.0],
    }  # fmt: skip
    with pytest.raises(InputError, match="left after block 2, which is no exit"):
        forced.exit_rates(rows, [1, 5])
