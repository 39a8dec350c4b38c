"""Prompts that begin alike: the same answers as one by one, with the common beginning computed once."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from early_exit.decoding import prefix_cache
from early_exit.models import loading
from early_exit.models.backbone import causal_mask
from engine import prompts, requests_for, run


def few_shot(count, seed=0):
    """Prompts of a common beginning, with branches: three conversations of growing turns."""
    rng = random.Random(seed)
    draw = lambda n: [rng.randrange(3, 61) for _ in range(n)]  # noqa: E731
    shots, found = draw(12), []
    for _ in range(count):
        turns = shots + draw(6)
        for _ in range(3):
            found.append(turns + draw(3))
            turns = turns + draw(5)
    return found


def tokens_run(backbone, some, slots):
    """Answers by row, and how many prompt tokens the first block computed, padding included."""
    counted = []
    hook = backbone.blocks[0].register_forward_hook(lambda *args: counted.append(args[-1].shape[:2].numel()))
    rows = run(backbone, requests_for(some), slots=slots)
    hook.remove()
    steps = sum(len(row.token_ids) - 1 for row in rows.values())
    return {key: row.token_ids for key, row in rows.items()}, sum(counted) - steps


@pytest.mark.parametrize("slots", [1, 4])
def test_answers_are_those_of_prompts_run_alone(random_model, slots):
    backbone, some = loading.adapt(random_model), few_shot(3)
    alone = {}
    for k, prompt in enumerate(some):
        (row,) = run(backbone, requests_for([prompt]), slots=1).values()
        alone[f"{k:02d}", 1.0] = row.token_ids
    together, computed = tokens_run(backbone, some, slots)
    assert together == alone
    whole = sum(map(len, some))
    if backbone.family == "transformer":
        assert computed < 0.6 * whole
    else:  # a recurrent state cannot be cut back
        assert computed == whole


def test_a_prompt_twice_still_gives_its_own_first_token(random_model):
    backbone = loading.adapt(random_model)
    prompt = prompts(1, seed=4, longest=20)[0]
    answers, _ = tokens_run(backbone, [prompt, prompt, prompt[:-1] or prompt], slots=1)
    assert answers["00", 1.0] == answers["01", 1.0]


class Counted(prefix_cache.PrefixCache):
    def __init__(self, shares):
        super().__init__(None, shares)


sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=12)


@settings(derandomize=True)
@given(sequences, st.booleans(), st.lists(st.integers(0, 2), max_size=6))
def test_groups_cover_all_in_order_and_share_what_they_say(some, shares, before):
    some = sorted(some, key=None if shares else len)
    beginning = Counted(shares)
    beginning.prompt = before if not some or before <= some[0] else ()
    seen = []
    for group in beginning.groups(some, 1.25 if shares else 1.0):
        members = [some[k] for k in group]
        common = beginning.common(members)
        assert all(len(prompt) > common for prompt in members)
        assert all(prompt[:common] == list(beginning.prompt)[:common] for prompt in members)
        if not shares:
            assert common == 0 and len({len(prompt) for prompt in members}) == 1
        seen += group
        beginning.prompt = members[-1]
    assert seen == list(range(len(some)))


def test_groups_stay_within_a_pass(monkeypatch):
    monkeypatch.setattr(prefix_cache, "PROMPT_TOKENS", 40)
    some = sorted([token] * 10 for token in range(9))
    beginning = Counted(shares=True)
    assert [len(group) for group in beginning.groups(some, 1.25)] == [4, 4, 1]


def test_attention_sees_the_beginning_and_itself():
    mask = causal_mask(torch.arange(3, 6))
    assert mask.shape == (1, 1, 3, 6)
    assert mask[0, 0].sum(-1).tolist() == [4, 5, 6]
