"""What a backbone shares with the model that it was made of, and what it does not."""

import pytest
import torch
from torch import nn
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from conftest import RANDOM_MODELS, make_random_model
from early_exit.models import attention, loading, packed_linear
from early_exit.models.packed_linear import PackedLinear
from early_exit.models.recurrent_steps import PlainStepMixer


@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_adapting_leaves_the_model_unchanged_and_shares_its_weights(name, monkeypatch):
    """`generate` of an adapted model runs no code of ours, so that comparing with it proves something."""
    monkeypatch.setattr(packed_linear, "LARGE", 1)
    model, inputs = make_random_model(name), torch.arange(3, 20)[None]
    classes, expected = [type(module) for module in model.modules()], model(inputs).logits
    backbone = loading.adapt(model)
    assert [type(module) for module in model.modules()] == classes
    assert torch.equal(backbone.model(inputs).logits, expected)
    ours, theirs = (
        nn.ModuleList([*backbone.blocks, backbone.lm_head]),
        nn.ModuleList([*model.base_model.layers, model.lm_head]),
    )
    for (key, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert one.data_ptr() == other.data_ptr(), key
    assert {type(module) for module in ours.modules() if isinstance(module, nn.Linear)} == {PackedLinear}
    if name == "mamba2":
        assert {type(block.mixer) for block in backbone.blocks} == {PlainStepMixer}
        assert {type(block.mixer) for block in model.base_model.layers} == {Mamba2Mixer}
    if "mamba" not in name:
        assert model.config._attn_implementation == "sdpa"
        assert {block.self_attn.config._attn_implementation for block in backbone.blocks} == {attention.NAME}


def test_another_attention_is_refused():
    model = make_random_model("llama")
    model.set_attn_implementation("eager")
    with pytest.raises(loading.InputError, match="uses attention 'eager'; load it with 'sdpa'"):
        loading.adapt(model)
