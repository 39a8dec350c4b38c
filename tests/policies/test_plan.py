"""What adaptive thresholds are chosen by: measured confidences against a run, choices against all there are."""

import itertools
from dataclasses import replace

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT, Float64, make_random_model
from early_exit.base.errors import InputError
from early_exit.costs import passes
from early_exit.decoding import fills, teacher_forced
from early_exit.decoding.teacher_forced import FullAnswer
from early_exit.experiment.config.policies import BudgetedThreshold, ThresholdPerExit
from early_exit.heads import store
from early_exit.models import loading
from early_exit.policies import confidences, plan
from early_exit.policies.measured import MeasuredConfidences
from engine import prompts, requests_for, run
from made_confidences import PRICE, TABLE, measured
from policy_checks import DEPTH, EXITS, make
from priced import generation_flops

HEAD = {"kind": "mamba", "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 8}


@pytest.mark.parametrize("kind", ["softmax", "margin", "saturation", "head"])
@pytest.mark.parametrize("name", ["llama", "mamba2"])
def test_measured_confidences_are_those_of_a_run_that_never_leaves(name, kind):
    backbone = loading.adapt(make_random_model(name, torch.float64))
    noted = []

    def noting(policy):
        ask = policy.confidence

        def confidence(exit_block, hidden):
            noted.append(ask(exit_block, hidden))
            return noted[-1]

        policy.confidence = confidence
        return policy

    def policy():
        if kind == "head":
            made = store.build(HEAD, backbone.hidden_size, EXITS)
            return confidences.HeadConfidence(made.double().eval().requires_grad_(False))
        return make(kind, backbone)

    some, answers = prompts(2, seed=3, longest=6), []
    with Float64():
        for prompt in some:
            torch.manual_seed(3)
            (row,) = run(backbone, requests_for([prompt], [1.0]), noting(policy()), fills.Fill()).values()
            answers.append(FullAnswer(prompt, row.token_ids))
        torch.manual_seed(3)
        one = teacher_forced.Measure(policy(), {}, np.ones(2, bool))
        (found,) = teacher_forced.measure(backbone, {"mine": one}, answers, {}).values()
    np.testing.assert_allclose(found.confidence, torch.stack(noted).view(-1, len(EXITS)).numpy(), rtol=1e-9)
    assert found.answer.tolist() == [0] * 9 + [1] * 9 and found.prompt_tokens.tolist() == list(map(len, some))


def some_measured(seed, answers=12, most=6):
    generator = np.random.default_rng(seed)
    return measured(generator, generator.integers(1, most, size=answers))


def test_shares_are_the_flops_of_the_exits_and_prices_add_up_to_them():
    found = some_measured(1)
    vector = np.array([0.7, 0.6, 0.5, 0.4])
    left, runs = found.leaves(vector), []
    for k, prompt in enumerate(found.prompt_tokens):
        blocks = [8]
        for sure in found.confidence[found.answer == k]:
            blocks.append(next((n for n, c, t in zip(PRICE.exits, sure, vector, strict=True) if c > t), 8))
        runs.append((prompt, blocks))
    counted = generation_flops(TABLE, prompt_tokens=[p for p, _ in runs], exit_blocks=[b for _, b in runs], price=PRICE)
    assert found.flops_share(left) == pytest.approx(counted["flops"].sum() / counted["flops_full"].sum())
    assert [b for _, blocks in runs for b in blocks[1:]] == [[*PRICE.exits, 8][k] for k in left]
    full = np.concatenate([
        generation_flops(TABLE, prompt_tokens=[p + j], exit_blocks=[[8, 8]])["flops_full"]
        for p, blocks in runs for j in range(len(blocks) - 1)
    ])  # fmt: skip
    prices = found.prices()[np.arange(len(left)), left]
    assert (prices * full).sum() / full.sum() == pytest.approx(found.flops_share(left))


def test_agreement_counts_passes_that_leave_with_the_full_model_s_token():
    found = some_measured(2)
    left = found.leaves(np.full(4, 0.6))
    right = [k == 4 or bool(found.agreement[i, k]) for i, k in enumerate(left)]
    assert found.agreement_share(left) == pytest.approx(np.mean(right))
    assert found.agreement_share(found.leaves(np.ones(4))) == 1.0


def test_the_curve_goes_up_from_all_leaving_to_none():
    points = plan.curve(some_measured(3))
    shares, thresholds = ([point[name] for point in points] for name in ("share", "threshold"))
    assert thresholds == sorted(set(thresholds)) and shares == sorted(shares)
    assert thresholds[0] == 0.0 and thresholds[-1] == 1.0 and points[-1]["agreement"] == 1.0
    checks = 4 * 128 / (8 * passes.flops(TABLE["block"], 40))
    assert shares[-1] == pytest.approx(1 + checks, rel=0.02) and shares[0] < 0.62


@given(st.integers(0, 10**6), st.integers(0, 3), st.floats(0.05, 5.0))
@settings(max_examples=60, deadline=None)
def test_the_best_threshold_of_one_exit_is_the_best_of_all(seed, k, trade):
    found = some_measured(seed, answers=5)
    generator = np.random.default_rng(seed)
    found.confidence[:] = np.round(found.confidence, 1)  # ties
    losses = found.prices() + trade * np.hstack([~found.agreement, np.zeros((len(found.answer), 1))])
    vector = generator.random(4)

    def loss(threshold):
        left = found.leaves(np.where(np.arange(4) == k, threshold, vector))
        return losses[np.arange(len(left)), left].sum()

    best = plan._best_threshold(found.confidence, losses, vector, k)
    assert loss(best) == pytest.approx(min(loss(t) for t in np.arange(-0.05, 1.1, 0.1)))


def test_vectors_keep_to_their_level_and_beat_one_threshold_for_all_exits():
    levels, better = [0.7, 0.8, 0.9, 0.95, 1.0], 0
    for seed in range(3):
        found = some_measured(seed, answers=30)
        for setting, level in zip(plan.per_exit(found, levels), levels, strict=True):
            left = found.leaves(np.array(setting["thresholds"]))
            assert setting["setting"] == level and setting["agreement"] == found.agreement_share(left) >= level
            one = min(point["share"] for point in plan.curve(found) if point["agreement"] >= level)
            assert setting["share"] == found.flops_share(left) <= one
            better += setting["share"] < one - 0.005
    assert better > 5, "one threshold for each exit should gain something somewhere"


def test_vectors_come_close_to_the_best_there_is():
    """Two exits, all vectors tried."""
    generator = np.random.default_rng(8)
    full = measured(generator, generator.integers(1, 6, size=14))
    two = replace(PRICE, exits=(4, 6))
    found = MeasuredConfidences(full.confidence[:, [0, 2]], full.agreement[:, [0, 2]], full.answer, full.prompt_tokens,
                              TABLE, two)  # fmt: skip
    grids = [[*(np.sort(column) - 1e-9), 1.0] for column in found.confidence.T]
    tried = []
    for vector in itertools.product(*grids):
        left = found.leaves(np.array(vector))
        tried.append((found.agreement_share(left), found.flops_share(left)))
    for setting in plan.per_exit(found, [0.8, 0.9, 1.0]):
        best = min(share for kept, share in tried if kept >= setting["setting"])
        assert best <= setting["share"] <= best + 0.03


def test_a_plan_has_its_schema_and_a_budget_that_cannot_be_met_is_refused():
    schema = yaml.safe_load((ROOT / "workflow/schemas/adaptive.schema.yaml").read_text())
    found = some_measured(5)
    for rule in (
        ThresholdPerExit(adapt="per-exit", levels=[0.9]),
        BudgetedThreshold(adapt="budget", budgets=[0.7, 0.9]),
    ):
        made = plan.plan("mine", rule, found)
        jsonschema.validate({"mine": made}, schema)
        assert (made["answers"], made["passes"]) == (12, len(found.answer))
        assert bool(made["settings"]) == (rule.adapt == "per-exit")
    with pytest.raises(InputError, match=r"policies\.mine\.budgets': 0\.4 cannot be met, leaving as early .* takes "):
        plan.plan("mine", BudgetedThreshold(adapt="budget", budgets=[0.4, 0.9]), found)
    none = MeasuredConfidences(np.zeros((0, 4)), np.zeros((0, 4), bool), np.zeros(0, int), np.array([3]), TABLE, PRICE)
    with pytest.raises(InputError, match=r"policy mine: .* one token long"):
        plan.plan("mine", BudgetedThreshold(adapt="budget", budgets=[0.9]), none)


def test_thresholds_are_chosen_on_half_of_the_groups_whole_and_by_seed():
    examples = pd.DataFrame({"example_id": [f"e{k}" for k in range(60)], "group_id": [f"g{k // 3}" for k in range(60)]})
    chosen = plan.chosen_on(examples, seed=1)
    assert chosen.sum() == 30
    assert chosen.groupby(examples["group_id"]).nunique().eq(1).all()
    assert chosen.equals(plan.chosen_on(examples.iloc[::-1], seed=1).sort_index())
    assert not chosen.equals(plan.chosen_on(examples, seed=2))


def test_an_answer_of_one_token_has_nothing_to_measure(random_model):
    backbone = loading.adapt(random_model)
    some = [FullAnswer([3, 4, 5], [7]), FullAnswer([3, 4], [7, 8, 9])]
    measures = {
        "all": teacher_forced.Measure(make("softmax", backbone), {}, np.ones(2, bool)),
        "first": teacher_forced.Measure(make("margin", backbone), {}, np.array([True, False])),
    }
    found = teacher_forced.measure(backbone, measures, some, {})
    assert found["all"].answer.tolist() == [1, 1] and found["all"].confidence.shape == (2, len(EXITS))
    assert found["first"].answer.tolist() == [] and found["first"].prompt_tokens.tolist() == [3]
    assert len(backbone.blocks) == DEPTH
