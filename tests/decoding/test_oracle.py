"""The oracle's exits against the library's hidden states, and against the engine when it leaves there."""

import pytest
import torch

from early_exit.base.errors import InputError
from early_exit.decoding import fills, oracle
from early_exit.decoding.teacher_forced import FullAnswer
from early_exit.models import loading
from engine import Forced, Length, prompts, requests_for, run


def full_answers(backbone, some):
    return {key: row.token_ids for key, row in run(backbone, requests_for(some)).items()}


def test_exits_are_the_first_whose_token_is_the_full_models(model_of_any_family, request):
    backbone, some, exits = loading.adapt(model_of_any_family), prompts(4, seed=8), [1, 3, 4]
    answers, states = full_answers(backbone, some), {}
    for n, layer in enumerate(model_of_any_family.base_model.layers, 1):
        hook = layer.register_forward_hook(lambda *args, n=n: states.__setitem__(n, args[-1]))
        request.addfinalizer(hook.remove)
    for (example_id, _), tokens in answers.items():
        prompt = some[int(example_id)]
        with torch.inference_mode():
            model_of_any_family(torch.tensor([prompt + tokens[:-1]]))
            of_the_library = dict(states)
        expected = [backbone.depth]
        for j in range(1, len(tokens)):
            at = len(prompt) + j - 1
            right = [n for n in exits if int(backbone.logits(of_the_library[n][0, at]).argmax()) == tokens[j]]
            expected.append(min(right, default=backbone.depth))
        assert oracle.oracle_exits(backbone, exits, FullAnswer(prompt, tokens)) == expected


def test_leaving_where_the_oracle_leaves_keeps_the_answer(random_model):
    """With the exact state fill, tokens that leave at the oracle's exits are the full model's: the bound is real."""
    backbone, some, exits = loading.adapt(random_model), prompts(6, seed=9), [1, 2, 3, 4, 5]
    answers = full_answers(backbone, some)
    left = 0
    for k, prompt in enumerate(some):
        tokens = answers[f"{k:02d}", 1.0]
        blocks = oracle.oracle_exits(backbone, exits, FullAnswer(prompt, tokens))
        left += sum(block < backbone.depth for block in blocks)
        requests = requests_for([prompt], [0.0])
        policy = Forced([blocks[1:]], exits)
        (row,) = run(backbone, requests, policy, fills.Deferred(), rule=Length(len(tokens))).values()
        assert row.token_ids == tokens and row.exit_blocks == blocks
    assert left


def test_a_repetition_penalty_is_refused():
    with pytest.raises(InputError, match=r"oracle: has no meaning under generation\.repetition_penalty"):
        oracle.check(1.2)
