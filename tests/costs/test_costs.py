"""Costs: known figures at 7B, equality with two independent counters and with what the engine runs, properties."""

import itertools
import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from early_exit.base.errors import InputError
from early_exit.base.records import COSTS, read_json, write_json
from early_exit.costs import passes
from early_exit.costs.passes import flops
from early_exit.decoding import fills, loop
from early_exit.decoding.batch import Decoder
from early_exit.decoding.requests import Request
from early_exit.evaluation.evaluate import Yardstick, answer_costs
from early_exit.experiment.config.policies import CHECKS, parse
from early_exit.heads import store
from early_exit.models import cache_updates, loading
from early_exit.policies import confidences, forced
from early_exit.sources.families import SUPPORTED, TESTED
from policy_checks import UNTRAINED
from priced import generation_flops
from shapes import CODESTRAL_7B, FALCON_MAMBA_7B, MAMBA_2_8B, MISTRAL_7B

SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"
HEADS = {kind: {"kind": kind} for kind in store.KINDS}
TINY_MAMBA = {"kind": "mamba", "expand": 2, "head_dim": 6, "state_size": 5, "n_groups": 2, "conv_kernel": 3}
TINY_MAMBA1 = {"kind": "mamba", "mixer": "mamba1", "expand": 3, "state_size": 5, "conv_kernel": 3}
TINY_SLIM = {"rank": 8, "head_dim": 4, "state_size": 3}
TINY_HEADS = HEADS | {
    "mamba": TINY_MAMBA,
    "mamba1": TINY_MAMBA1,
    "ffn-slim": {"kind": "ffn-slim", "rank": 8},
    "mamba-slim": {"kind": "mamba-slim", **TINY_SLIM},
    "hybrid": {"kind": "hybrid", **TINY_SLIM},
}
SLIM = ("ffn-slim", "mamba-slim", "hybrid")
STATEFUL = ("mamba", "mamba1", "mamba-slim", "hybrid")

TINY_ATTENTION = {
    "vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 6,
}  # fmt: skip
WIDE_ATTENTION = {  # heads wider together than the hidden state, one key-value head, one block
    "vocab_size": 31, "hidden_size": 16, "intermediate_size": 56, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 10,
}  # fmt: skip
TINY_MIXER = {
    "model_type": "mamba2", "vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "expand": 2, "num_heads": 6,
    "head_dim": 8, "state_size": 5, "n_groups": 2, "conv_kernel": 4, "chunk_size": 4,
}  # fmt: skip
NARROW_MIXER = TINY_MIXER | {
    "hidden_size": 16, "num_hidden_layers": 5, "num_heads": 4, "head_dim": 12, "expand": 3, "state_size": 7,
    "n_groups": 1, "conv_kernel": 2,
}  # fmt: skip
ATTENTION_CONFIGS = [
    *({"model_type": name} | TINY_ATTENTION for name in ("mistral", "llama", "qwen2", "qwen3")),
    *({"model_type": name} | WIDE_ATTENTION for name in ("mistral", "qwen3")),
]
MIXER_CONFIGS = [TINY_MIXER, NARROW_MIXER]
TINY_MIXER1 = {
    "model_type": "mamba", "vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "expand": 2, "state_size": 5,
    "conv_kernel": 4, "time_step_rank": 3,
}  # fmt: skip
MIXER1_CONFIGS = [
    TINY_MIXER1,
    TINY_MIXER1 | {"num_hidden_layers": 5, "hidden_size": 40, "expand": 3, "conv_kernel": 2, "time_step_rank": "auto"},
    TINY_MIXER1 | {"model_type": "falcon_mamba", "intermediate_size": 40, "state_size": 8},
]
PROMPTS = [1, 7, 13]

plain_pytorch = pytest.mark.skipif(
    find_spec("mamba_ssm") is not None, reason="with mamba_ssm's kernels the counters see nothing of a mixer"
)


def cost_table(config, designs):
    """The table of a backbone and of heads as the config has them."""
    return passes.cost_table(config, head_costs(designs, config.get("hidden_size", 0)), CHECKS)


def head_costs(designs, width):
    return {name: store.cost(design, width, name) for name, design in designs.items()}


def tiny_model(config, attention="eager"):
    torch.manual_seed(0)
    attention = {"attn_implementation": attention} if "num_attention_heads" in config else {}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), **attention).eval()


def counted(run):
    """FLOPs by kind of operator, as torch's counter sees them, and what `run` returned."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        result = run()
    by_operator = {str(operator): count for operator, count in counter.get_flop_counts()["Global"].items()}
    matrices = by_operator.pop("aten.mm", 0) + by_operator.pop("aten.addmm", 0)
    return {"matrices": matrices, "batched": by_operator.pop("aten.bmm", 0), **by_operator}, result


def convolution(config):
    """FLOPs of the convolutions of one token in all blocks: a part of `linear`, which the counter shows separately."""
    with_it, without = (cost_table(c, {})["block"]["linear"] for c in (config, config | {"conv_kernel": 0}))
    return (with_it - without) * config["num_hidden_layers"]


# --- known figures at 7B ------------------------------------------------------------------------------------------


def percent(part, whole):
    return round(100 * part["linear"] / whole["linear"], 1)


def speed_up(table, state_fill, cost):
    """The saving of a model whose tokens all leave at half depth, without heads and attention scores."""
    half, lm_head = table["depth"] // 2, cost(table["lm_head"])
    full = table["depth"] * cost(table["block"]) + lm_head
    return round(full / (half * (cost(table["block"]) + cost(table["state_fill"][state_fill])) + lm_head), 2)


def linear(cost):
    return cost["linear"]


def test_mistral_7b():
    table = cost_table(MISTRAL_7B, HEADS)
    assert table["block"] == {"linear": 2 * 218_103_808, "recurrence": 0, "per_context": 4 * 32 * 128}
    assert (table["family"], table["depth"], table["hidden"]) == ("transformer", 32, 4096)
    assert round((32 * flops(table["block"]) + flops(table["lm_head"])) / 1e9, 3) == 14.227
    assert round(100 * table["state_fill"]["propagate"]["linear"] / table["block"]["linear"], 2) == 3.85
    assert percent(table["heads"]["ffn"], table["block"]) == 30.8
    assert percent(table["heads"]["mamba"], table["block"]) == 34.9
    assert all(flops(table["heads"][slim]) < 0.01 * flops(table["block"]) for slim in SLIM)
    assert speed_up(table, "copy", flops) == 1.96
    assert speed_up(table, "propagate", flops) == 1.89


def test_codestral_7b():
    table = cost_table(CODESTRAL_7B, HEADS)
    assert table["block"] == {"linear": 2 * 109_617_152, "recurrence": 5_267_456, "per_context": 0}
    assert (table["family"], table["depth"], table["hidden"]) == ("mamba", 64, 4096)
    assert round((64 * table["block"]["linear"] + flops(table["lm_head"])) / 1e9, 2) == 14.30
    assert round((64 * flops(table["block"]) + flops(table["lm_head"])) / 1e9, 2) == 14.64
    assert percent(table["state_fill"]["propagate"], table["block"]) == 38.8
    assert percent(table["heads"]["ffn"], table["block"]) == 61.3
    assert percent(table["heads"]["mamba"], table["block"]) == 69.4
    assert all(flops(table["heads"][slim]) < 0.01 * flops(table["block"]) for slim in SLIM)
    assert speed_up(table, "skip", linear) == speed_up(table, "skip", flops) == 1.96
    assert speed_up(table, "propagate", linear) == 1.43
    assert speed_up(table, "propagate", flops) == 1.42  # the recurrence weighs more in a fill than in a block


def test_mamba_2_8b():
    """From its shape: 64 blocks of 2560 to 5120 channels, state 16, rank 160."""
    table, d, inner, n, rank = cost_table(MAMBA_2_8B, HEADS), 2560, 5120, 16, 160
    macs = d * 2 * inner + 4 * inner + inner * (rank + 2 * n) + rank * inner + inner * d
    assert table["block"] == {"linear": 2 * macs, "recurrence": 6 * inner * n + 3 * inner, "per_context": 0}
    assert macs == 41_144_320
    fill = d * inner + 4 * inner + inner * (rank + n) + rank * inner
    assert table["state_fill"]["propagate"]["linear"] == 2 * fill == 2 * 14_848_000
    assert percent(table["state_fill"]["propagate"], table["block"]) == 36.1
    assert round((64 * table["block"]["linear"] + flops(table["lm_head"])) / 1e9, 2) == 5.52
    assert round((64 * flops(table["block"]) + flops(table["lm_head"])) / 1e9, 2) == 5.56


def test_falcon_mamba_7b():
    table = cost_table(FALCON_MAMBA_7B, HEADS)
    assert table["block"] == {"linear": 2 * 105_152_512, "recurrence": 811_008, "per_context": 0}
    assert (table["family"], table["depth"], table["hidden"]) == ("mamba", 64, 4096)
    assert round((64 * table["block"]["linear"] + flops(table["lm_head"])) / 1e9, 2) == 13.99
    assert percent(table["state_fill"]["propagate"], table["block"]) == 36.1
    assert speed_up(table, "skip", flops) == 1.93
    assert speed_up(table, "propagate", flops) == 1.44


# --- torch's counter ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("config", ATTENTION_CONFIGS, ids=lambda c: f"{c['model_type']}-{c['num_hidden_layers']}")
def test_transformer_equals_torchs_counter(config, prompt):
    table, model, depth = cost_table(config, {}), tiny_model(config), config["num_hidden_layers"]
    ids = torch.arange(prompt)[None] % config["vocab_size"]
    head, scores = table["lm_head"]["linear"], table["block"]["per_context"]

    seen, output = counted(lambda: model(ids, use_cache=True, logits_to_keep=1))
    assert seen["matrices"] == prompt * depth * flops(table["block"]) + head
    assert seen["batched"] == depth * scores * prompt * prompt  # eager attention: the full square

    seen, _ = counted(lambda: model(ids[:, :1], past_key_values=output.past_key_values))
    assert sum(seen.values()) == depth * flops(table["block"], prompt + 1) + head


@plain_pytorch
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("config", MIXER_CONFIGS, ids=["three-blocks", "five-blocks"])
def test_mamba_equals_torchs_counter(config, prompt):
    table, model, depth = cost_table(config, {}), tiny_model(config), config["num_hidden_layers"]
    ids = torch.arange(prompt)[None] % config["vocab_size"]
    head, window, kernel = table["lm_head"]["linear"], convolution(config), config["conv_kernel"]
    projections = depth * table["block"]["linear"] - window

    seen, output = counted(lambda: model(ids, use_cache=True, logits_to_keep=1))
    assert seen["matrices"] == prompt * projections + head
    assert seen["aten.convolution"] == (max(prompt, kernel) + kernel - 1) * window  # the padding's too

    seen, _ = counted(lambda: model(ids[:, :1], cache_params=output.cache_params))
    assert seen["matrices"] == projections + head
    assert seen["aten.convolution"] == 2 * window  # kernel + 1 inputs give two outputs, one is dropped
    read_out = 2 * config["num_heads"] * config["head_dim"] * config["state_size"]
    assert seen["batched"] == depth * read_out  # all that it sees of the recurrence
    assert read_out < table["block"]["recurrence"]
    assert set(seen) == {"matrices", "batched", "aten.convolution"}


@plain_pytorch
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("config", MIXER1_CONFIGS, ids=["three-blocks", "five-blocks", "falcon"])
def test_mamba_1_equals_torchs_counter(config, prompt):
    """Which of its products are batched ones depends on shapes; the recurrence's read-out always is."""
    table, model, depth = cost_table(config, {}), tiny_model(config), config["num_hidden_layers"]
    ids = torch.arange(prompt)[None] % config["vocab_size"]
    head, window, kernel = table["lm_head"]["linear"], convolution(config), config["conv_kernel"]
    products = depth * (table["block"]["linear"] + read_out(config)) - window

    seen, output = counted(lambda: model(ids, use_cache=True, logits_to_keep=1))
    assert seen["matrices"] + seen["batched"] == prompt * products + head
    assert seen["aten.convolution"] == (max(prompt, kernel) + kernel - 1) * window

    seen, _ = counted(lambda: model(ids[:, :1], cache_params=output.cache_params))
    assert seen["matrices"] + seen["batched"] == products + head
    assert seen["aten.convolution"] == 2 * window
    assert set(seen) == {"matrices", "batched", "aten.convolution"}


def read_out(config):
    """FLOPs of a Mamba-1 block's read-out by C, the one part of its recurrence that is a matrix product."""
    return 2 * (config.get("intermediate_size") or config["expand"] * config["hidden_size"]) * config["state_size"]


def test_recurrence_is_what_the_plain_loop_does():
    """The terms of one token's recurrence, written out per head, channel and state entry."""
    h, p, n = (TINY_MIXER[key] for key in ("num_heads", "head_dim", "state_size"))
    decay, outer, added, read_out = h * p * n, h * p * n, h * p * n, 2 * h * p * n
    scaled_input, skip, skip_sum = h * p, h * p, h * p
    table = cost_table(TINY_MIXER, {})
    assert table["block"]["recurrence"] == decay + outer + added + read_out + scaled_input + skip + skip_sum
    assert table["state_fill"]["propagate"]["recurrence"] == decay + outer + added + scaled_input


def test_recurrence_of_mamba_1_is_what_the_plain_loop_does():
    inner, n = 48, TINY_MIXER1["state_size"]
    exponent, decay, outer, added = (inner * n,) * 4  # A is one number for each channel and state entry
    scaled_input, skip, skip_sum = (inner,) * 3
    table, update = cost_table(TINY_MIXER1, {}), exponent + decay + outer + added
    assert table["block"]["recurrence"] == update + read_out(TINY_MIXER1) + scaled_input + skip + skip_sum
    assert table["state_fill"]["propagate"]["recurrence"] == update + scaled_input


@plain_pytorch
@pytest.mark.parametrize("name", TINY_HEADS)
def test_heads_equal_torchs_counter(name):
    width, tokens, design = 24, 5, TINY_HEADS[name]
    cost = store.cost(design, width)
    module = store.build(design, width, [2])["2"].eval()
    seen, _ = counted(lambda: module(torch.zeros(1, tokens, width)))
    assert (cost["recurrence"] > 0) == (name in STATEFUL) == module.stateful
    if name not in STATEFUL:
        assert seen == {"matrices": tokens * cost["linear"], "batched": 0}
        return
    projections = store.cost(design | {"conv_kernel": 0}, width)["linear"]
    kernel = design.get("conv_kernel", 4)
    assert seen["aten.convolution"] == (max(tokens, kernel) + kernel - 1) * (cost["linear"] - projections)
    if design.get("mixer") == "mamba1":  # two of its projections are batched products, as is the scan's read-out
        read_out = 2 * design["expand"] * width * design["state_size"]
        assert seen["matrices"] + seen["batched"] == tokens * (projections + read_out)
    else:
        assert seen["matrices"] == tokens * projections


@pytest.mark.parametrize("config", [*MIXER_CONFIGS, *MIXER1_CONFIGS], ids=lambda c: c["model_type"])
def test_the_least_propagate_of_mamba_equals_torchs_counter(config):
    """The fill runs in_proj without the gate and one convolution window, and has no output."""
    mixer = tiny_model(config).backbone.layers[0].mixer
    channels = mixer.conv1d.in_channels
    normed, window = torch.zeros(1, config["hidden_size"]), torch.zeros(1, channels, mixer.conv_kernel_size)
    if config["model_type"] == "mamba2":
        state = torch.zeros(1, mixer.num_heads, mixer.head_dim, mixer.ssm_state_size)
        update = cache_updates.mamba2_states
    else:
        update, state = cache_updates.mamba1_states, torch.zeros(1, channels, mixer.ssm_state_size)
    seen, _ = counted(lambda: update(mixer, normed, window, state))
    table = cost_table(config, {})
    assert sum(seen.values()) == table["state_fill"]["propagate"]["linear"] < table["block"]["linear"]


# --- fvcore ------------------------------------------------------------------------------------------------------


class OneBlock(torch.nn.Module):
    def __init__(self, block, **options):
        super().__init__()
        self.block, self.options = block, options

    def forward(self, hidden):
        return self.block(hidden, **self.options)


def by_fvcore(block, tokens, **options):
    """MACs by operator (fvcore calls them flops), and the operators it ignores."""
    hidden = torch.zeros(1, tokens, 24)
    with torch.no_grad():
        analysis = FlopCountAnalysis(OneBlock(block, **options), hidden).unsupported_ops_warnings(False)
        return dict(analysis.by_operator()), set(analysis.unsupported_ops())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_fvcore_on_a_transformer_block(attention):
    tokens, config = 7, {"model_type": "mistral"} | TINY_ATTENTION
    model, cost = tiny_model(config, attention), cost_table(config, {})["block"]
    rotation = model.model.rotary_emb(torch.zeros(1, tokens, 24), torch.arange(tokens)[None])
    macs, ignored = by_fvcore(model.model.layers[0], tokens, position_embeddings=rotation)
    element_wise = {"aten::pow", "aten::mean", "aten::add", "aten::rsqrt", "aten::mul", "aten::neg", "aten::silu"}
    assert 2 * macs["linear"] == tokens * cost["linear"]
    if attention == "eager":
        assert 2 * macs["matmul"] == tokens * tokens * cost["per_context"]
        assert set(macs) == {"linear", "matmul"}
        assert ignored == element_wise | {"aten::softmax"}
    else:  # attention scores vanish without a word in the total: why costs are not taken from a tracer
        assert set(macs) == {"linear"}
        assert ignored == element_wise | {"aten::scaled_dot_product_attention"}


@plain_pytorch
def test_fvcore_on_a_mamba_block():
    model, cost = tiny_model(TINY_MIXER), cost_table(TINY_MIXER, {})["block"]
    with torch.no_grad():
        cache = model(torch.tensor([[1, 2, 3]]), use_cache=True).cache_params
    macs, ignored = by_fvcore(model.backbone.layers[0], 1, cache_params=cache)
    window = convolution(TINY_MIXER) // TINY_MIXER["num_hidden_layers"]
    assert 2 * macs["linear"] == cost["linear"] - window
    assert 2 * macs["conv"] == 2 * window  # two windows again
    assert macs["bmm"] == TINY_MIXER["num_heads"] * TINY_MIXER["head_dim"] * TINY_MIXER["state_size"]
    assert set(macs) == {"linear", "conv", "bmm"}
    assert ignored == {
        "aten::pow",
        "aten::mean",
        "aten::add",
        "aten::rsqrt",
        "aten::mul",
        "aten::exp",
        "aten::neg",
        "aten::silu",
        "aten::softplus",
    }


# --- the pipeline's own modules ----------------------------------------------------------------------------------


def linear_part(table, **generations):
    """`generation_flops` without recurrence and attention, summed over prompt and decode passes of all rows."""
    without = json.loads(json.dumps(table), object_hook=lambda d: d | {"linear": 0} if "linear" in d else d)
    totals = (generation_flops(t, **generations) for t in (table, without))
    whole, rest = (sum((t["flops"] + t["prompt_flops"]).tolist()) for t in totals)
    return whole - rest


LOOP_CASES = [  # each head on one backbone, each backbone with one head; mamba1 heads have batched products
    *((ATTENTION_CONFIGS[0], kind, "skip") for kind in TINY_HEADS if kind != "mamba1"),
    (ATTENTION_CONFIGS[3], "mamba", "propagate"),
    (TINY_MIXER, "calm", "propagate"),  # a head without a state has none to propagate
    (TINY_MIXER, "mamba", "propagate"),
    (MIXER1_CONFIGS[0], "calm", "skip"),
    (MIXER1_CONFIGS[2], "calm", "skip"),
]


@plain_pytorch
@pytest.mark.parametrize(
    ("config", "kind", "head_state"), LOOP_CASES, ids=lambda v: v if type(v) is str else v["model_type"]
)
def test_table_counts_what_the_generate_loop_computes(config, kind, head_state):
    """All matrix products of a run with exits: blocks, checks, state fills, LM head, prompts."""
    config, exits = config | {"num_hidden_layers": 6}, [2, 3, 5]
    backbone = loading.adapt(tiny_model(config, "sdpa"))
    torch.manual_seed(1)
    policy = confidences.HeadConfidence(store.build(TINY_HEADS[kind], 24, exits).eval(), head_state)
    # Of one length, and no two begin alike: what a batch pads or shares is not in the cost of one sequence.
    prompts = {f"{k}": [(7 * k + j) % 50 for j in range(5)] for k in range(4)}
    requests = [Request(name, ids, [0.4 + 0.06 * k]) for k, (name, ids) in enumerate(prompts.items())]
    no_window = {kind: TINY_HEADS[kind] | ({"conv_kernel": 0} if kind in STATEFUL else {})}  # it is no matrix product
    table, products = cost_table(config | {"conv_kernel": 0}, no_window), ["matrices"]
    if config["model_type"] in ("mamba", "falcon_mamba"):
        # Some of its products are batched ones, and so is its read-out, which the table has under recurrence.
        table["block"]["linear"] += read_out(config)
        products = ["matrices", "batched"]
    for name, fill in fills.FILLS[backbone.family].items():
        rule = NeverStop(4)
        seen, answers = counted(lambda: list(loop.generate(Decoder(backbone, policy, fill()), requests, rule, slots=4)))  # noqa: B023
        left = {block for answer in answers for block in answer.exit_blocks[1:]}
        assert len(left) > 1, "every token left at the same depth: this shows little"
        assert sum(seen[product] for product in products) == linear_part(
            table,
            head=kind,
            state_fill=name,
            head_state=head_state,
            exits=exits,
            prompt_tokens=[answer.prompt_tokens for answer in answers],
            exit_blocks=[answer.exit_blocks for answer in answers],
        )


CHECKED = {  # settings at which some tokens leave, of the two models
    "softmax": (0.0248, 0.05), "margin": (0.0009, 0.006), "saturation": (0.95, 0.83), "patience": (2.0, 2.0),
    "fixed": (3.0, 3.0), "random": (0.5, 0.5),
}  # fmt: skip


CHECKS_OF_MODELS = [(ATTENTION_CONFIGS[0], kind) for kind in CHECKED] + [
    (TINY_MIXER, kind) for kind in ("softmax", "saturation")
]


@plain_pytorch
@pytest.mark.parametrize(("config", "kind"), CHECKS_OF_MODELS, ids=lambda v: v if type(v) is str else v["model_type"])
def test_table_counts_what_checks_without_training_compute(config, kind):
    """All products of a run: the LM head at each exit reached, but not again for the answer; or dot products."""
    config, exits = config | {"num_hidden_layers": 6}, [2, 3, 5]
    backbone = loading.adapt(tiny_model(config, "sdpa"))
    policy = {
        "fixed": lambda: forced.FixedExit(exits),
        "random": lambda: forced.RandomExit(exits, None, seed=1),
        "saturation": lambda: confidences.Saturation(exits),
    }.get(kind, lambda: UNTRAINED[kind](exits, backbone.logits))()
    setting = CHECKED[kind][config["model_type"] == "mamba2"]
    requests = [Request(f"{k}", [(7 * k + j) % 50 for j in range(5)], [setting]) for k in range(5)]
    table = cost_table(config | {"conv_kernel": 0}, {})
    asked = kind if kind in table["checks"] else None
    for name, fill in fills.FILLS[backbone.family].items():
        seen, answers = counted(  # no mm of its own: dot products are batched ones
            lambda: list(loop.generate(Decoder(backbone, policy, fill()), requests, NeverStop(5), slots=4))  # noqa: B023
        )
        blocks = [block for answer in answers for block in answer.exit_blocks[1:]]
        assert len(set(blocks)) > 1 or kind == "fixed", "every token left at the same depth: this shows little"
        run = {
            "prompt_tokens": [answer.prompt_tokens for answer in answers],
            "exits": exits,
            "state_fill": name,
            "exit_blocks": [answer.exit_blocks for answer in answers],
        }
        products = linear_part(table, **run, check=asked)
        dots = 2 * config["hidden_size"] * sum(max(sum(n <= b for n in exits) - 1, 0) for b in blocks)
        if kind == "saturation":
            assert products == linear_part(table, **run) + dots
            products -= dots
            if backbone.family == "transformer":  # a Mamba-2 step's read-out is a batched product, too
                assert seen["batched"] == dots > 0
        assert seen["matrices"] == products


class NeverStop:
    def __init__(self, max_new_tokens):
        self.max_new_tokens = max_new_tokens

    def reason(self, token_ids):
        return "length" if len(token_ids) >= self.max_new_tokens else None


def test_names_agree_with_the_rest_of_the_package():
    for config in (MISTRAL_7B, CODESTRAL_7B, FALCON_MAMBA_7B):
        table = cost_table(config, {})
        assert set(table["state_fill"]) == set(fills.FILLS[table["family"]])
    fields = set(COSTS)
    assert set(generation_flops(cost_table(MISTRAL_7B, {}), prompt_tokens=[3], exit_blocks=[[32]])) == fields


@pytest.mark.parametrize("model_type", TESTED)
def test_missing_keys_have_hugging_face_s_defaults(model_type):
    config = {"model_type": model_type, "hidden_size": 4096, "num_hidden_layers": 3, "vocab_size": 10}
    if "mamba" not in model_type:
        config |= {"num_attention_heads": 64, "intermediate_size": 10}
    assert cost_table(config, {}) == cost_table(AutoConfig.for_model(**config).to_dict(), {})


def test_null_shapes_mean_one_key_value_head_per_head_and_an_even_split():
    config = {"model_type": "llama"} | TINY_ATTENTION | {"num_key_value_heads": None, "head_dim": None}
    assert cost_table(config, {}) == cost_table(AutoConfig.for_model(**config).to_dict(), {})


# --- generations -------------------------------------------------------------------------------------------------

DEPTH, EXITS = 6, (2, 3, 5)
TABLES = {
    c["model_type"]: cost_table(c | {"num_hidden_layers": DEPTH}, TINY_HEADS)
    for c in (ATTENTION_CONFIGS[0], TINY_MIXER, TINY_MIXER1)
}
runs = st.lists(st.sampled_from([*EXITS, DEPTH]), max_size=12).map(lambda later: [DEPTH, *later])
policy_choices = st.sampled_from(sorted(TABLES)).flatmap(
    lambda name: st.tuples(
        st.just(TABLES[name]),
        st.sampled_from(sorted(TINY_HEADS)),
        st.sampled_from(sorted(TABLES[name]["state_fill"])),
        st.sampled_from(["skip", "propagate"]),
    )
)
prompt_lengths = st.integers(1, 40)


@given(st.sampled_from(sorted(TABLES)), st.sampled_from(sorted(TABLES["mistral"]["checks"])), prompt_lengths, runs)
@settings(max_examples=60, deadline=None)
def test_a_check_without_training_costs_what_it_computes(name, check, prompt, run):
    """By definition: k LM heads for a token that leaves at its k-th exit, one more for a token that does not leave."""
    table = TABLES[name]
    options = {"prompt_tokens": [prompt], "exit_blocks": [run], "exits": EXITS, "state_fill": "propagate"}
    free, checked = (generation_flops(table, **options, check=kind)["flops"][0] for kind in (None, check))
    lm_head, dot, paid = flops(table["lm_head"]), 2 * table["hidden"], 0
    for blocks in run[1:]:
        met = sum(n <= blocks for n in EXITS)
        paid += dot * (met - 1) if check == "saturation" else lm_head * (met - (blocks != DEPTH))
    assert checked - free == paid


def count(policy, prompts, rows):
    table, head, fill, head_state = policy
    return generation_flops(
        table, prompt_tokens=prompts, exit_blocks=rows, exits=EXITS, head=head, state_fill=fill, head_state=head_state
    )


def one_by_one(policy, prompt, row):
    """The definition in plain loops, by the conventions of `costs.passes` and the columns of `records.COSTS`."""
    table, head, fill, head_state = policy
    block, lm_head, check = table["block"], flops(table["lm_head"]), flops(table["heads"][head])
    total = dict.fromkeys(("flops", "flops_full", "flops_blocks", "flops_blocks_full"), 0)
    for j, blocks in enumerate(row[1:], 1):
        reached = max(row[j:]) if fill == "deferred" else blocks
        ran = sum(flops(block, prompt + j) for _ in range(reached))
        filled = sum(flops(table["state_fill"][fill]) for _ in range(blocks, DEPTH))
        every = head in STATEFUL and head_state == "propagate"
        checked = sum(check for n in EXITS if n <= blocks or every)
        total["flops"] += ran + filled + checked + lm_head
        total["flops_full"] += DEPTH * flops(block, prompt + j) + lm_head
        total["flops_blocks"] += ran
        total["flops_blocks_full"] += DEPTH * flops(block, prompt + j)
    causal = sum(DEPTH * flops(block, p) for p in range(1, prompt + 1))
    read = len(EXITS) * prompt * check if head in STATEFUL else 0
    prompt_part = {"prompt_flops": causal + read + lm_head, "prompt_flops_full": causal + lm_head}
    return {"passes": len(row) - 1, "blocks": sum(row[1:]), **total, **prompt_part}


@given(policy_choices, st.lists(st.tuples(prompt_lengths, runs), max_size=6))
@settings(max_examples=80, deadline=None)
def test_rows_equal_the_definition_and_are_independent(policy, rows):
    result = count(policy, [prompt for prompt, _ in rows], [run for _, run in rows])
    expected = [one_by_one(policy, prompt, run) for prompt, run in rows]
    assert pd.DataFrame(result).to_dict("records") == expected


@given(policy_choices, prompt_lengths, st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_never_leaving_costs_the_full_model_and_its_heads(policy, prompt, passes):
    table, head, *_ = policy
    result = count(policy, [prompt], [[DEPTH] * (passes + 1)])
    assert result["flops"][0] == result["flops_full"][0] + passes * len(EXITS) * flops(table["heads"][head])
    assert result["flops_blocks"][0] == result["flops_blocks_full"][0]
    full = generation_flops(table, prompt_tokens=[prompt], exit_blocks=[[DEPTH] * (passes + 1)])
    assert full["flops"][0] == full["flops_full"][0] == result["flops_full"][0]
    assert full["prompt_flops"][0] == full["prompt_flops_full"][0] == result["prompt_flops_full"][0]


@given(policy_choices, prompt_lengths, runs.filter(lambda run: len(run) > 1), st.data())
@settings(max_examples=60, deadline=None)
def test_a_token_that_leaves_later_costs_more(policy, prompt, run, data):
    later = [run[0]] + [data.draw(st.sampled_from([b for b in (*EXITS, DEPTH) if b >= blocks])) for blocks in run[1:]]
    result = count(policy, [prompt, prompt], [run, later])
    fill = policy[2]
    for field in ("flops", "flops_blocks", "blocks"):
        early, late = result[field]
        pulled = fill == "deferred" and field != "blocks"  # it may have run as deep for a later token anyway
        assert early == late if run == later else early < late or (pulled and early == late)
    assert result["flops_full"][0] == result["flops_full"][1]


@given(policy_choices, prompt_lengths, runs, runs)
@settings(max_examples=60, deadline=None)
def test_a_generation_costs_its_first_part_and_then_the_rest(policy, prompt, first, second):
    result = count(policy, [prompt, prompt, prompt + len(first) - 1], [first + second[1:], first, second])
    for field in ("passes", "blocks", "flops", "flops_full", "flops_blocks", "flops_blocks_full"):
        whole, part, rest = result[field]
        assert whole == part + rest or (policy[2] == "deferred" and field.startswith("flops") and whole > part + rest)


@pytest.mark.parametrize("name", TABLES)
def test_pruned_rows_pay_for_the_blocks_they_have(name):
    table = TABLES[name]
    result = generation_flops(
        table, prompt_tokens=[9, 9, 9], exit_blocks=[[6, 6, 6], [4, 4, 4], [1, 1, 1]], prompt_blocks=[6, 4, 1]
    )
    lm_head = flops(table["lm_head"])
    for field, heads_run in (("flops", 2), ("prompt_flops", 1)):
        full = result[f"{field}_full"] - heads_run * lm_head
        np.testing.assert_array_equal(result[field], full * [6, 4, 1] / 6 + heads_run * lm_head)
    assert result["blocks"].tolist() == [12, 8, 2]


def test_a_row_without_tokens_has_only_a_prompt():
    result = count((TABLES["mistral"], "calm", "copy", "skip"), [5, 5], [[], [DEPTH]])
    assert result["passes"].tolist() == [0, 0] and result["flops"].tolist() == [0, 0]
    assert result["prompt_flops"][0] == result["prompt_flops"][1] > 0


def test_a_hundred_thousand_rows_take_seconds():
    depths = itertools.cycle([*EXITS, DEPTH])
    rows = [[DEPTH, *itertools.islice(depths, 31)] for _ in range(100_000)]
    begin = time.process_time()
    count((TABLES["mamba2"], "mamba", "deferred", "propagate"), range(1, 100_001), rows)
    assert time.process_time() - begin < 10


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "head", "message"),
    [
        (
            {"model_type": "gpt2"},
            {},
            f"config.json: gpt2 is not supported (its config has no hidden_size); {SUPPORTED}",
        ),
        ({}, {}, "config.json: None is not supported"),
        ({"model_type": "mistral"}, {}, "config.json: mistral is not supported (its config has no hidden_size)"),
        (MISTRAL_7B | {"vocab_size": None}, {}, "config.json: vocab_size is missing; add it"),
        (CODESTRAL_7B | {"state_size": None}, {}, "config.json: state_size is missing"),
        (MISTRAL_7B, {"kind": "mlp"}, "heads.x: kind 'mlp' is unknown; known are calm, ffn, mamba"),
        (MISTRAL_7B, {"kind": "mamba", "head_dim": 60}, "heads.x: head_dim: 60 does not split expand x width = 8192"),
    ],
)
def test_what_cannot_be_counted_is_refused(config, head, message):
    with pytest.raises(InputError) as error:
        cost_table(config, {"x": {"kind": "calm"} | head})
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"head": "softmax"}, "heads: softmax is not one of this transformer's: calm, ffn, ffn-slim"),
        ({"check": "entropy"}, "checks: entropy is not one of this transformer's: margin, patience, saturation"),
        ({"state_fill": "skip"}, "state_fill: skip is not one of this transformer's: copy, deferred, propagate"),
        ({"head_state": "copy"}, "head_state: copy is not one of skip, propagate"),
        ({"exits": (2, 3)}, "exit_blocks: 5 is neither an exit [2, 3] nor all blocks"),
    ],
)
def test_a_run_that_does_not_fit_is_refused(changed, message):
    options = {"exits": EXITS, "head": "calm", "state_fill": "copy"} | changed
    with pytest.raises(InputError) as error:
        generation_flops(TABLES["mistral"], prompt_tokens=[3], exit_blocks=[[6, 5]], **options)
    assert message in str(error.value)


# --- the two rules -----------------------------------------------------------------------------------------------


def run_script(name, folder, *, inputs, output, **params):
    """Run a rule's script as Snakemake would, in a process of its own; torch only comes with heads."""
    code = (
        "import json, runpy, sys; from types import SimpleNamespace as N; job = json.loads(sys.argv[1]);"
        "job = N(rule='r', input=N(**job['input']), params=N(**job['params']), output=job['output'], log=job['log']);"
        "runpy.run_path(sys.argv[2], {'snakemake': job});"
        "assert 'torch' not in sys.modules or 'early_exit.heads.store' in sys.modules"
    )
    job = {
        "input": {key: str(path) for key, path in inputs.items()},
        "params": params,
        "output": [str(output)],
        "log": [str(folder / "log")],
    }
    subprocess.run(
        [sys.executable, "-c", code, json.dumps(job), str(SCRIPTS / name)],
        check=True,
        env={"PYTHONPATH": str(SCRIPTS)},
        timeout=60,
    )


@pytest.mark.slow
def test_the_script_writes_the_table(tmp_path):
    config = ATTENTION_CONFIGS[0] | {"num_hidden_layers": DEPTH}
    write_json({"config": config, "depth": DEPTH}, tmp_path / "backbone.json")
    costs = tmp_path / "costs.json"
    run_script(
        "layer_costs.py",
        tmp_path,
        inputs={"manifest": tmp_path / "backbone.json"},
        output=costs,
        heads=TINY_HEADS,
        policies=[],
    )
    products = TABLES["mistral"]["block"]["linear"]
    assert read_json(costs) == TABLES["mistral"] | {"counted": {"torch": products, "fvcore": products}}


def test_costs_of_answers_are_those_of_their_policy():
    def flops_of(setting, exit_blocks, policy):
        rows = {"setting": setting, "prompt_tokens": [4, 5], "exit_blocks": exit_blocks}
        yardstick = Yardstick("triviaqa", "official", TABLES["mistral"], EXITS)
        return answer_costs(pd.DataFrame(rows), parse(policy), yardstick)

    head = {"kind": "head", "recipe": "r", "head": "mamba", "state_fill": "copy"}
    left = flops_of([0.5, 0.9], [[6, 2, 3], [6]], policy=head)
    expected = [one_by_one((TABLES["mistral"], "mamba", "copy", "skip"), *row) for row in ((4, [6, 2, 3]), (5, [6]))]
    assert left.to_dict("records") == expected

    drops = {"kind": "pruned", "drop": [2]}
    pruned = flops_of([2.0, 2.0], [[4, 4, 4], [6, 4]], policy=drops)  # the prompt, too, and not
    assert pruned["blocks"].tolist() == [8, 4]
    assert (pruned["prompt_flops"] < pruned["prompt_flops_full"]).tolist() == [True, False]
    assert (pruned["flops"] < pruned["flops_full"]).all()

    full = flops_of([1.0, 1.0], [[6, 6, 6], [6]], policy={"kind": "full"})
    assert full["flops"].tolist() == full["flops_full"].tolist()
