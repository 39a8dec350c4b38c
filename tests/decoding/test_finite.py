"""Numbers that are not finite end a run in one line: example, block and dtype; they never become an answer."""

import copy

import pytest
import torch

from early_exit.base.errors import InputError
from early_exit.decoding import fills, speculate
from early_exit.models import loading
from early_exit.policies.confidences import Softmax
from engine import prompts, requests_for, run


def with_numbers(model, edit):
    """The backbone of a copy of the model whose weights `edit` has changed."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        edit(changed)
    return loading.adapt(changed)


def block(model, n):
    return model.base_model.layers[n - 1]


def out_projection(layer):
    return layer.mlp.down_proj if hasattr(layer, "mlp") else layer.mixer.out_proj


def untie(model):
    model.get_output_embeddings().weight = torch.nn.Parameter(model.get_output_embeddings().weight.clone())


def test_a_weight_that_is_no_number_is_found_in_its_block(random_model):
    backbone = with_numbers(random_model, lambda model: out_projection(block(model, 3)).weight[0].fill_(float("nan")))
    with pytest.raises(InputError, match=r"^example 0\d, block 3 of \d+: logits are not finite in float32; .*dtype"):
        run(backbone, requests_for(prompts(3)))


def test_one_row_of_the_lm_head_that_is_no_number_is_no_token(random_model):
    def edit(model):
        untie(model)
        model.get_output_embeddings().weight[5].fill_(float("nan"))

    with pytest.raises(InputError, match=r"examples 00.*behind the last block: logits are not finite"):
        run(with_numbers(random_model, edit), requests_for(prompts(1)))


def test_an_overflow_of_float16_says_so(random_model):
    model = copy.deepcopy(random_model).to(torch.float16)
    backbone = with_numbers(model, lambda model: out_projection(block(model, 2)).weight.fill_(6e4))
    with pytest.raises(InputError, match=r"block 2 of \d+: logits are not finite in float16"):
        run(backbone, requests_for(prompts(2)))


def test_a_token_that_overflows_later_is_found_in_its_step(random_model):
    """The weights of one token's embedding: the prompt lacks it, the answer contains it."""
    backbone = loading.adapt(random_model)
    prompt = prompts(1, seed=3)
    (whole,) = run(backbone, requests_for(prompt)).values()
    new = next((token for token in whole.token_ids[:-1] if token not in prompt[0]), None)
    assert new is not None

    def edit(model):
        untie(model)
        model.get_input_embeddings().weight[new].fill_(float("inf"))

    with pytest.raises(InputError, match="example 00, block 1 of"):
        run(with_numbers(random_model, edit), requests_for(prompt))


@pytest.mark.parametrize("steps", ["checks", "drafts"])
def test_checks_and_drafts_are_watched_as_well(random_model, steps):
    backbone = with_numbers(random_model, lambda model: out_projection(block(model, 3)).weight[0].fill_(float("nan")))
    with pytest.raises(InputError, match="not finite"):
        if steps == "checks":
            run(backbone, requests_for(prompts(1)), Softmax([2, 4], backbone.logits), fills.Fill())
        else:
            run(backbone, requests_for(prompts(1)), step=speculate.step(2, 2))
