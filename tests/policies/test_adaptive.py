"""Thresholds that adapt: in runs against their definitions written out, and budgets against simulated answers."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import Float64, make_random_model
from early_exit.costs import passes as costs
from early_exit.costs.passes import flops
from early_exit.decoding import fills
from early_exit.experiment.config.policies import CHECKS, BudgetedThreshold, parse
from early_exit.models import loading
from early_exit.policies import budget as budgets
from early_exit.policies import build, forced
from early_exit.policies import plan as plans
from early_exit.policies.base import Given
from early_exit.policies.measured import MeasuredConfidences
from early_exit.policies.thresholds import Budget, Decay, PerExit, Same
from engine import Length, prompts, requests_for, run
from made_confidences import PRICE, TABLE, measured, surer_with_depth
from policy_checks import DEPTH, EXITS, PAIRS, TOKENS, compare_with_definition, in_batches, make
from priced import generation_flops

VECTORS = {0.5: [0.125, 0.5, 0.25, 1.0], 0.75: [0.5, 0.125, 0.875, 0.375], 0.9375: [1.0, 0.9375, 0.25, 0.5]}
SETTINGS = {"decay": [0.25, 0.5, 0.875], "per-exit": list(VECTORS), "budget": [0.5, 0.75, 0.9375]}
CURVE = {"thresholds": [0.0, 0.25, 0.5, 0.75, 1.0], "shares": [0.4, 0.6, 0.7, 0.9, 1.3]}
TEMPERATURE, HORIZON = 3.0, 2.0


def make_rule(adapt, table, fill):
    if adapt == "decay":
        return Decay(TEMPERATURE, TOKENS)
    if adapt == "per-exit":
        return PerExit(VECTORS)
    price = costs.ExitPrice(EXITS, state_fill=fill, check="softmax")
    return Budget(**CURVE, spend=budgets.spending(table, price), horizon=HORIZON)


def defined(adapt, table, fill):
    """The thresholds that token i of a row is asked with, by the definitions."""

    def thresholds(row, i):
        if adapt == "decay":
            return [min(max(0.9 * row.setting + 0.1 * math.exp(-TEMPERATURE * i / TOKENS), 0.0), 1.0)] * len(EXITS)
        if adapt == "per-exit":
            return VECTORS[row.setting]
        spent = full = 0.0
        lm_head = flops(table["lm_head"])
        for j in range(1, i):
            blocks, block = row.exit_blocks[j], flops(table["block"], row.prompt_tokens + j)
            ran = max(row.exit_blocks[j:i]) if fill == "deferred" else blocks
            checks = sum(n <= blocks for n in EXITS) + (blocks == DEPTH)  # what leaves is answered by its last check
            spent += ran * block + (DEPTH - blocks) * flops(table["state_fill"][fill]) + checks * lm_head
            full += DEPTH * block + lm_head
        coming = DEPTH * flops(table["block"], row.prompt_tokens + i) + lm_head
        wanted = row.setting + (row.setting * full - spent) / (HORIZON * coming)
        xs, ys = CURVE["shares"], CURVE["thresholds"]
        pairs = list(zip(zip(xs, ys, strict=True), zip(xs[1:], ys[1:], strict=True), strict=False))
        inside = [y + (wanted - x) * (y1 - y) / (x1 - x) for (x, y), (x1, y1) in pairs if x <= wanted <= x1]
        return [inside[0] if inside else ys[0] if wanted < xs[0] else ys[-1]] * len(EXITS)

    return thresholds


@pytest.mark.parametrize(
    ("name", "fill", "adapt"),
    [(*PAIRS[1], "decay"), (*PAIRS[2], "per-exit"), *((*pair, "budget") for pair in PAIRS)],  # a budget counts fills
)
def test_exits_are_the_definition_s_and_tokens_the_reference_s(name, fill, adapt):
    model = make_random_model(name, torch.float64)
    backbone, table = loading.adapt(model), costs.cost_table(model.config.to_dict(), {}, CHECKS)
    requests = requests_for(prompts(2, seed=6, longest=7), SETTINGS[adapt])
    with Float64():
        policy = make("softmax", backbone, adapt=make_rule(adapt, table, fill))
        done = run(backbone, requests, policy, fills.FILLS[backbone.family][fill](), slots=4, rule=Length(TOKENS))
        left = compare_with_definition(model, fill, requests, done, "softmax", defined(adapt, table, fill))
    assert len(left) > 1, left


@pytest.mark.parametrize("adapt", SETTINGS)
@pytest.mark.parametrize(("name", "fill"), [PAIRS[2]])
def test_rows_are_what_they_are_alone(name, fill, adapt):
    model = make_random_model(name, torch.float64)
    backbone, table = loading.adapt(model), costs.cost_table(model.config.to_dict(), {}, CHECKS)

    def policy():
        return make("softmax", backbone, adapt=make_rule(adapt, table, fill))

    with Float64():
        requests = requests_for(prompts(3, seed=4, longest=5), SETTINGS[adapt])
        alone, *others = in_batches(backbone, policy, fill, requests)
    assert all(other == alone for other in others)


@pytest.mark.parametrize("adapt", ["decay", "per-exit"])
def test_above_all_settings_nobody_leaves(adapt, random_model):
    backbone = loading.adapt(random_model)
    policy = make("softmax", backbone, adapt=make_rule(adapt, None, None))
    done = run(backbone, requests_for(prompts(3), [2.0]), policy, fills.Fill())
    full = run(backbone, requests_for(prompts(3)))
    for (example_id, _), row in done.items():
        assert row.exit_blocks == [DEPTH] * len(row.token_ids)
        assert row.token_ids == full[example_id, 1.0].token_ids


# --- budgets -----------------------------------------------------------------------------------------------------


def simulated(budget, lengths, horizon, *, unsure=1.0, seed=5):
    """FLOPs over the full model's, of answers of these lengths whose thresholds a budget sets."""
    generator = np.random.default_rng(seed)
    points = plans.curve(measured(generator, generator.integers(1, 9, size=60)))
    spend = budgets.spending(TABLE, PRICE)
    shares, thresholds = ([point[name] for point in points] for name in ("share", "threshold"))
    rule = Budget(thresholds, shares, spend, horizon)
    rows = [SimpleNamespace(setting=budget, prompt_tokens=20, token_ids=[0], exit_blocks=[8]) for _ in lengths]
    running = list(zip(rows, lengths, strict=True))
    while running:
        levels = rule([row for row, _ in running], 4).numpy()
        above = surer_with_depth(generator, len(running), unsure) > levels
        for (row, _), exits in zip(running, above, strict=True):
            row.exit_blocks.append(PRICE.exits[exits.argmax()] if exits.any() else 8)
            row.token_ids.append(0)
        running = [(row, length) for row, length in running if len(row.token_ids) <= length]
    spent, full, _ = spend(rows)
    return spent.sum() / full.sum()


@pytest.mark.parametrize("budget", [0.65, 0.75, 0.85, 0.95])
@pytest.mark.parametrize("most", [4, 30])
def test_a_budget_is_met_within_two_percent_over_a_dataset(budget, most):
    lengths = np.random.default_rng(1).integers(1, most + 1, size=200)
    assert simulated(budget, lengths, horizon=4) == pytest.approx(budget, abs=0.02)


def test_a_budget_is_met_where_the_calibration_misleads():
    """Answers whose confidences are lower than those it was measured on: what is not steered spends far more."""
    lengths = [40] * 50
    assert simulated(0.75, lengths, horizon=4, unsure=2.0) == pytest.approx(0.75, abs=0.02)
    assert simulated(0.75, lengths, horizon=1e9, unsure=2.0) > 0.8


def answers(generator, count=200):
    """Measured answers whose tokens are the surer the nearer they are to their end, as those that end an answer are."""
    lengths = generator.integers(3, 9, size=count)
    unsure = np.concatenate([np.linspace(3.0, -2.0, length) for length in lengths])
    sure = surer_with_depth(generator, len(unsure), unsure[:, None])
    prompt_tokens = generator.integers(10, 60, size=count)
    which = np.repeat(np.arange(count), lengths)
    return MeasuredConfidences(sure, np.ones_like(sure, dtype=bool), which, prompt_tokens, TABLE, PRICE)


def spent_at(found, budget, rule):
    """FLOPs over the full model's of measured answers, one after another."""
    rows = []
    for answer, prompt_tokens in enumerate(found.prompt_tokens):
        row = SimpleNamespace(setting=budget, prompt_tokens=prompt_tokens, token_ids=[0], exit_blocks=[8])
        for sure in found.confidence[found.answer == answer]:
            levels = rule([row], 4).numpy()[0]
            left = [exit_block for exit_block, c, level in zip(PRICE.exits, sure, levels, strict=True) if c > level]
            row.exit_blocks.append(left[0] if left else 8)
            row.token_ids.append(0)
        rows.append(row)
    spent, full, _ = rule.spend(rows)
    return spent.sum() / full.sum()


@pytest.mark.slow
def test_answers_that_end_surely_miss_a_budget_and_what_is_aimed_at_mends_that():
    """Aims are found on some answers, and tried on others of the kind, by a loop of their own."""
    generator = np.random.default_rng(3)
    known, fresh = answers(generator), answers(generator)
    policy = BudgetedThreshold(adapt="budget", budgets=[0.7, 0.8, 0.9])
    points = plans.curve(known)
    aims = budgets.aims(known, policy, points)
    assert [entry["budget"] for entry in aims] == policy.budgets
    naive, aimed = (budgets.rule(points, TABLE, PRICE, 4, found) for found in ((), aims))
    for entry in aims:
        budget = entry["budget"]
        assert spent_at(known, budget, aimed) == pytest.approx(entry["share"])  # the same account
        assert entry["share"] == pytest.approx(budget, abs=0.002)
        assert spent_at(fresh, budget, aimed) == pytest.approx(budget, abs=0.01)
    assert max(abs(spent_at(fresh, budget, naive) - budget) for budget in policy.budgets) > 0.02


def test_the_spending_of_rows_is_what_costs_count():
    rows = [
        SimpleNamespace(prompt_tokens=7, token_ids=[0] * 3, exit_blocks=[8, 4, 8]),
        SimpleNamespace(prompt_tokens=3, token_ids=[0], exit_blocks=[8]),
    ]
    spent, full, coming = budgets.spending(TABLE, PRICE)(rows)
    longer = generation_flops(TABLE, prompt_tokens=[7, 3], exit_blocks=[[8, 4, 8, 8], [8, 8]], price=PRICE)
    assert full + coming == pytest.approx(longer["flops_full"])
    checks = 4 * flops(TABLE["heads"]["calm"])
    assert spent + coming + checks == pytest.approx(longer["flops"])
    assert spent[1] == full[1] == 0


# --- from the config's entry to the policy -----------------------------------------------------------------------

PLAN = {
    "adapt": "budget", "costs": TABLE, "aims": [], "settings": [{"setting": 0.9, "thresholds": [0.1, 0.2, 0.3, 0.4]}],
    "curve": [{"threshold": 0.0, "share": 0.5}, {"threshold": 1.0, "share": 1.1}],
}  # fmt: skip


def entry(**options):
    return parse({"state_fill": "propagate", **options})


def given(plan=PLAN, **options):
    return Given({}, EXITS, 16, 1, plan=plan, **options)


@pytest.mark.parametrize(
    ("policy", "rule"),
    [
        (entry(kind="softmax", adapt="none"), Same),
        (entry(kind="margin", adapt="decay", temperature=2.0), Decay),
        (entry(kind="saturation", adapt="per-exit"), PerExit),
        (entry(kind="softmax", adapt="budget", horizon=4), Budget),
        (entry(kind="patience"), Same),
    ],
)
def test_an_entry_becomes_its_policy(policy, rule, random_model):
    made = build.build(policy, loading.adapt(random_model), given())
    assert type(made).__name__.lower() == policy.kind and type(made.adapt) is rule
    rows = [SimpleNamespace(setting=0.9, prompt_tokens=3, token_ids=[0], exit_blocks=[DEPTH])]
    assert made.thresholds(rows).shape == (1, len(EXITS))
    if rule is Decay:
        assert made.thresholds(rows)[0, 0] == pytest.approx(0.81 + 0.1 * math.exp(-2 / 16))
    unplanned = build.build(policy, loading.adapt(random_model), given(plan=None))
    assert rule is Decay or type(unplanned.adapt) is Same


def test_entries_that_ask_nobody(random_model):
    backbone = loading.adapt(random_model)
    assert type(build.build(entry(kind="fixed"), backbone, given())) is forced.FixedExit
    made = build.build(entry(kind="random", match="x"), backbone, given(rates={0.9: [1.0, 0, 0, 0]}))
    assert made.thresholds([SimpleNamespace(setting=0.9, example_id="a", token_ids=[0])]).tolist() == [[1] * 4]
    assert build.build(parse({"kind": "full"}), backbone, given()).exits == ()
