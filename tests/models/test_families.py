"""Families by structure: which models are taken, which are refused with what sentence, and Mamba-1's state fill."""

import random
import re

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from conftest import ROOT, Float64
from early_exit.base.errors import InputError
from early_exit.decoding import fills, loop
from early_exit.decoding.batch import Decoder
from early_exit.experiment.config.load import load as load_config
from early_exit.models import cache_updates, conformance, loading
from early_exit.sources import families, manifests
from early_exit.sources.families import SUPPORTED, TESTED

COMMON = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 4, "bos_token_id": 1, "eos_token_id": 2,
          "pad_token_id": 0, "initializer_range": 0.3}  # fmt: skip
ATTENTION = COMMON | {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
                      "max_position_embeddings": 64}  # fmt: skip
MIXER = COMMON | {"state_size": 4, "time_step_rank": 3}
# Not run by the other tests, but built like a Llama: by name, and what its config says beside the common keys.
ALIKE = {
    "helium": {},  # rotates neighbouring pairs
    "olmo": {},  # norms without weights
    "ernie4_5": {"use_bias": True},
    "seed_oss": {"attention_bias": True, "attention_out_bias": True},
    "granite": {},  # all multipliers 1
    "ministral": {"sliding_window": 24},
    "smollm3": {"no_rope_layers": [1, 1, 1, 1]},
}
MAMBA1 = {
    "mamba": {},
    "mamba-biases": {"use_bias": True, "use_conv_bias": False, "conv_kernel": 3, "expand": 3},
    "falcon_mamba": {"mixer_rms_eps": 1e-3},
}
MAMBA2 = {"mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2, "expand": 2, "time_step_rank": 2}}
# Refused: by a key of the config, by the modules, or by what they compute; the reason given.
UNLIKE = {
    "gemma": ({}, "its embeddings are GemmaTextScaledWordEmbedding"),
    "gemma2": ({}, "final_logit_softcapping: 30.0, attn_logit_softcapping: 50.0"),
    "granite": (
        {"embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.2},
        "embedding_multiplier: 12.0, logits_scaling: 8.0, residual_multiplier: 0.2",
    ),
    "phi3": ({}, "it has no mlp.gate_proj"),
    "mixtral": ({}, "num_experts_per_tok: 2, num_local_experts: 8"),
    "gpt2": ({}, "its config has no hidden_size"),
    "cohere": ({"logit_scale": 1.0}, "it has no post_attention_layernorm"),
    "olmo2": ({}, "it has no input_layernorm"),
    "diffllama": ({}, "it has weights in self_attn"),
    "stablelm": ({}, "its parts do not run one by one: "),
    "smollm3": ({}, "no_rope_layers: layers without rotations"),
    "ministral3": ({}, "llama_4_scaling_beta: 0.1"),
}
NEW_TOKENS = 8


def make(name, dtype=torch.float32, **keys):
    """A random model whose blocks all differ, in their norms and biases, too."""
    torch.manual_seed(0)
    base = MIXER if "mamba" in name else ATTENTION
    made = AutoConfig.for_model(name.removesuffix("-biases"), **base | keys)
    model = AutoModelForCausalLM.from_config(made).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim < 2 or key.endswith("A_log"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.to(dtype)


def refusal(run) -> str:
    with pytest.raises(InputError) as caught:
        run()
    message = str(caught.value)
    assert "\n" not in message and message.endswith(SUPPORTED)
    return message.removesuffix(f"; {SUPPORTED}")


class Length:
    max_new_tokens = NEW_TOKENS

    def reason(self, token_ids):
        return "length" if len(token_ids) >= NEW_TOKENS else None


def check_never_exit(model, longest):
    """Compare our loop with the library's generate, for prompts of different lengths in one batch."""
    rng = random.Random(1)
    lengths = [1, 2, 5, 5, longest]
    prompts = [[rng.randrange(3, 61) for _ in range(length)] for length in lengths]
    requests = [loop.Request(f"{k}", prompt, [1.0]) for k, prompt in enumerate(prompts)]
    backbone = loading.adapt(model)
    rows = loop.generate(Decoder(backbone), requests, Length(), slots=4)
    tokens = {row.example_id: row.token_ids for row in rows}
    for k, prompt in enumerate(prompts):
        expected = model.generate(
            torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False
        )
        stop = tokens[f"{k}"].index(2) if 2 in tokens[f"{k}"] else NEW_TOKENS  # the library's loop bans EOS here
        assert tokens[f"{k}"][:stop] == expected[0, len(prompt) :].tolist()[:stop]
    assert len({tuple(row) for row in tokens.values()}) > 1


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNLIKE)
def test_an_unsupported_structure_is_refused_in_one_sentence_that_lists_what_is_supported(name):
    keys, why = UNLIKE[name]
    message = refusal(lambda: loading.adapt(make(name, **keys)))
    assert message.startswith(f"backbone: {name} is not supported ({why}")


@pytest.mark.parametrize(
    ("name", "why"),
    [("mixtral", "num_experts_per_tok"), ("gpt2", "its config has no hidden_size"), ("smollm3", "no_rope_layers")],
)
def test_an_unsupported_config_is_refused_before_weights_are_loaded(name, why, tmp_path, monkeypatch):
    AutoConfig.for_model(name).save_pretrained(tmp_path)
    source = {"source": str(tmp_path)}
    assert refusal(lambda: manifests.describe("m", source, tmp_path, None)).startswith(f"backbones.m: {name} is not")
    user = {"backbones": {"m": source}}
    message = refusal(lambda: load_config(user, ROOT))
    assert message.startswith(f"backbones.m.source: {name} is not supported (") and why in message

    asked = []

    def download(repo_id, revision, allow_patterns, **options):
        asked.append(list(allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    hub = {"source": "owner/name", "revision": "0" * 40}
    assert refusal(lambda: manifests.locate("m", hub, tmp_path, local=False)).startswith(f"backbones.m: {name} is not")
    assert asked == [["config.json"]]


LLAMA_KEYS = {"model_type": "mine"} | ATTENTION
MAMBA_KEYS = {"model_type": "mine", "conv_kernel": 4} | MIXER


@pytest.mark.parametrize(
    "keys",
    [
        {"num_experts": 8}, {"moe_layers": [1]}, {"attn_logit_softcapping": 30.0}, {"embedding_multiplier": 2.0},
        {"logit_scale": 0.5}, {"parallel_attn": True}, {"use_parallel_residual": True}, {"kv_lora_rank": 64},
        {"clip_qkv": 8.0}, {"is_encoder_decoder": True}, {"use_bidirectional_attention": True},
        {"layer_types": ["full_attention", "linear_attention"]}, {"no_rope_layers": [1, 0]}, {"mamba_d_state": 16},
        {"rope_scaling": {"type": "longrope"}}, {"rope_parameters": {"rope_type": "longrope"}},
        {"rope_parameters": {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 1e4}}},
    ],
    ids=lambda keys: next(iter(keys)),
)  # fmt: skip
def test_the_error_names_the_key_that_changes_the_structure(keys):
    assert families.family(LLAMA_KEYS, "x") == "transformer"
    message = refusal(lambda: families.family(LLAMA_KEYS | keys, "x"))
    assert re.fullmatch(r"x: mine is not supported \((\w+): .*\)", message)
    if "rope" not in message:
        assert next(iter(keys)) in message


NEEDED = ["hidden_size", "num_hidden_layers", "vocab_size"]


@pytest.mark.parametrize(
    ("keys", "key"),
    [(LLAMA_KEYS, key) for key in [*NEEDED, "num_attention_heads", "num_key_value_heads", "intermediate_size"]]
    + [(MAMBA_KEYS, key) for key in [*NEEDED, "conv_kernel"]],
)
def test_the_error_names_a_missing_key(keys, key):
    less = {name: value for name, value in keys.items() if name != key}
    assert refusal(lambda: families.family(less, "x")) == f"x: mine is not supported (its config has no {key})"


def test_a_hybrid_is_neither_family():
    assert families.family(MAMBA_KEYS, "x") == "mamba"
    assert "num_attention_heads: 4" in refusal(lambda: families.family(MAMBA_KEYS | LLAMA_KEYS, "x"))


@pytest.mark.parametrize("name", TESTED)
def test_the_tested_architectures_are_known_by_their_keys(name):
    """A new key in the library's config that looks like another structure would fail here."""
    made = AutoConfig.for_model(name).to_dict()
    family = "mamba" if "mamba" in name else "transformer"
    assert families.family(made, "x") == family
    assert families.family(made | {"model_type": "mine"}, "x") == family


# --- what no key and no name shows -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def granite():
    return make("granite")


def test_scaled_embeddings_are_detected_by_a_pass(granite, monkeypatch):
    backbone = loading.adapt(granite)
    monkeypatch.setattr(granite.model, "embedding_multiplier", 6.0)
    assert "its logits are not what" in refusal(lambda: conformance.check_outputs(backbone))


def test_scaled_logits_are_detected_by_a_pass(granite, monkeypatch):
    backbone = loading.adapt(granite)
    monkeypatch.setattr(granite.config, "logits_scaling", 1.1)
    assert "its logits are not what" in refusal(lambda: conformance.check_outputs(backbone))


def test_a_layer_that_stores_other_keys_is_detected_by_a_pass():
    model = make("smollm3", no_rope_layers=[1, 1, 1, 1])
    backbone = loading.adapt(model)
    for layer in (model.model.layers[2], backbone.blocks[2]):
        layer.self_attn.use_rope = False
    assert "layer 3 stores other keys and values" in refusal(lambda: conformance.check_outputs(backbone))


@pytest.mark.parametrize("name", ["mamba", "falcon_mamba", "mamba2"])
def test_a_mixer_that_leaves_other_states_is_detected_by_a_pass(name):
    model = make(name, **MAMBA2.get(name, {}))
    backbone = loading.adapt(model)
    for layer in (model.backbone.layers[1], backbone.blocks[1]):
        layer.mixer.in_proj.register_forward_hook(lambda layer, inputs, output: 1.1 * output)
    assert "layer 2 leaves other states" in refusal(lambda: conformance.check_outputs(backbone))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["granite", "mamba", "falcon_mamba", "mamba2"])
def test_rounding_passes_the_check_at_load(name, dtype):
    conformance.check_outputs(loading.adapt(make(name, dtype, **MAMBA2.get(name, {}))))


# --- what is taken -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALIKE)
def test_an_unknown_name_with_a_supported_structure_equals_the_librarys_generate(name):
    assert name not in TESTED
    model = make(name, **ALIKE[name])
    backbone = loading.adapt(model)
    assert backbone.context == ALIKE[name].get("sliding_window", 64)
    check_never_exit(model, longest=min(40, backbone.context - NEW_TOKENS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MAMBA1)
def test_mamba_1_without_exits_equals_the_librarys_generate(name, dtype):
    check_never_exit(make(name, dtype, **MAMBA1[name]), longest=40)


@pytest.mark.parametrize("name", [*ALIKE, *MAMBA1, "mamba2"])
def test_propagate_stores_what_the_block_itself_stores(name):
    """Each block gets a token after a prompt, by the fill and by the block itself, from the same input."""
    backbone = loading.adapt(make(name, **(ALIKE | MAMBA1 | MAMBA2)[name]))
    fill = fills.FILLS[backbone.family]["propagate"]()
    with torch.inference_mode():
        prompt, cache = torch.tensor([[5, 9, 31, 7], [8, 8, 3, 40]]), backbone.new_prompt_cache()
        backbone.run_prompt(prompt, (), cache)
        state = backbone.new_state(2, 8)
        state.insert(torch.arange(2), cache, torch.arange(2), torch.tensor([4, 4]))
        state.begin(2)
        fill.open(2)
        hidden = backbone.embed(torch.tensor([[11], [12]]))
        pair = (state.keys, state.values) if backbone.family == "transformer" else (state.conv, state.recurrent)
        for n in range(1, backbone.depth + 1):
            before = [[caches[k].clone() for k in backbone.layer_indices] for caches in pair]
            fill.leave(backbone, state, n - 1, hidden, torch.arange(2))
            fill.finish(backbone, state)
            filled = [caches[n - 1].clone() for caches in pair]
            for caches, saved in zip(pair, before, strict=True):
                caches |= {k: saved[k].clone() for k in backbone.layer_indices}
            hidden = backbone.run_block(n, hidden, state)
            for caches, ours, saved in zip(pair, filled, before, strict=True):
                torch.testing.assert_close(ours, caches[n - 1], rtol=1e-5, atol=1e-6)
                assert not torch.equal(ours, saved[n - 1])


# --- Mamba-1's state fill ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 2, 9])
@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("name", MAMBA1)
def test_mamba1_states_are_those_that_the_mixer_leaves(name, double, tokens):
    """After a prompt, one token goes through the mixer and through our update; rows differ."""
    dtype = torch.float64 if double else torch.float32
    model = make(name, dtype, **MAMBA1[name])
    mixer, cache = model.backbone.layers[2].mixer, DynamicCache(config=model.config)
    inputs = torch.randn(3, tokens + 1, COMMON["hidden_size"], dtype=dtype)

    def states():
        layer = cache.layers[2]
        return layer.conv_states[0].clone(), layer.recurrent_states[0].clone()

    with torch.inference_mode(), Float64():
        mixer(inputs[:, :-1], cache_params=cache)
        ours = cache_updates.mamba1_states(mixer, inputs[:, -1], *states())
        mixer(inputs[:, -1:], cache_params=cache)
    close = {"rtol": 1e-12, "atol": 1e-14} if double else {"rtol": 2e-6, "atol": 2e-7}
    for got, expected in zip(ours, states(), strict=True):
        assert got.dtype == expected.dtype == dtype
        torch.testing.assert_close(got, expected, **close)


def test_falcon_mambas_norms_change_the_states():
    """The same weights without the norms leave other states, so the test above would notice."""
    falcon = make("falcon_mamba").backbone.layers[0].mixer
    plain = transformers.MambaForCausalLM(transformers.MambaConfig(**MIXER)).backbone.layers[0].mixer
    plain.load_state_dict(falcon.state_dict())
    inputs = torch.randn(2, 32), torch.randn(2, 64, 4), torch.randn(2, 64, 4)
    with torch.inference_mode():
        ours, others = (cache_updates.mamba1_states(mixer, *inputs) for mixer in (falcon, plain))
    assert torch.equal(ours[0], others[0]) and not torch.allclose(ours[1], others[1], rtol=0.1)
