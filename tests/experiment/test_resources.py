"""What jobs ask for and what a run takes, from the config alone: the real 7B shapes, and sums checked by hand."""

import json
import math

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from configs import COMMIT, load
from conftest import ROOT
from early_exit.costs import parts as block_costs
from early_exit.experiment import estimate, work
from early_exit.experiment.runs import ANSWERED_BY, Pair, pairs, policies
from early_exit.heads import store
from shapes import CODESTRAL_7B, FALCON_MAMBA_7B, MAMBA_2_8B, MISTRAL_7B

RISK = {"risk": "degenerate", "epsilon": 0.1}
TINY = yaml.safe_load((ROOT / "workflow/presets/tiny.yaml").read_text())
SMOLLM2 = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip
MAMBA2_130M = {
    "model_type": "mamba2", "vocab_size": 50288, "hidden_size": 768, "num_hidden_layers": 24, "num_heads": 24,
    "head_dim": 64, "state_size": 128, "n_groups": 1, "conv_kernel": 4, "expand": 2, "tie_word_embeddings": True,
}  # fmt: skip
MODELS = {
    "mistral-7b": MISTRAL_7B,
    "codestral-mamba-7b": CODESTRAL_7B,
    "smollm2-135m": SMOLLM2,
    "mamba2-130m": MAMBA2_130M,
    "falcon-mamba-7b": FALCON_MAMBA_7B,
    "mamba-2.8b": MAMBA_2_8B,
}


def of_all_presets():
    return {name: spec for preset in ("small", "paper") for name, spec in load(preset=preset).backbones.items()}


# --- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_the_librarys(name):
    """All weights of the library's own model of that shape, but for norms, biases, A and D."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**MODELS[name]))
    theirs = sum(parameter.numel() for parameter in model.parameters())
    ours = block_costs.parameters(MODELS[name])
    assert 0.997 * theirs < ours <= theirs


def test_the_presets_say_what_the_shapes_give():
    mistral, codestral = 32 * 218_103_808 + 2 * 32768 * 4096, 64 * 109_617_152 + 2 * 32768 * 4096
    assert block_costs.parameters(MISTRAL_7B) == mistral and block_costs.parameters(CODESTRAL_7B) == codestral
    for name, spec in of_all_presets().items():
        assert math.isclose(spec.parameters, block_costs.parameters(MODELS[name]), rel_tol=2e-3), name


def test_a_local_config_goes_before_a_rounded_number(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MISTRAL_7B))
    local = load(preset="paper", backbones={"mistral-7b": {"source": str(tmp_path)}}).backbones["mistral-7b"]
    assert local.parameters == block_costs.parameters(MISTRAL_7B) == 7_247_757_312


@pytest.mark.parametrize("name", ["mistral-7b", "codestral-mamba-7b"])
def test_the_size_of_heads_is_bounded_from_the_backbones_alone(name):
    config = load(preset="paper")
    designs = [config.heads[head].model_dump() for head in config.recipes["paper"]]
    real = 4 * sum(store.cost(design, 4096, "x")["linear"] // 2 for design in designs)
    assert real < work.head_weights(config, name, "paper") < 2 * real


# --- requests ----------------------------------------------------------------------------------------------------

# MB, of the first try: 8000 and 1.25 x 14.5 or 14.58 GB, training 16 bytes for each weight of the heads more.
ASKED = {
    "mistral-7b": {"answer": 26500, "settle": 26500, "train_heads": 44000},
    "codestral-mamba-7b": {"answer": 26500, "settle": 26500, "train_heads": 44500},
}


def work_of(config, name) -> dict[str, list[work.Work]]:
    """By rule the work of all its jobs with one backbone."""
    of_pair = [pair for pair in pairs(config) if pair.backbone == name]
    return {
        "train_heads": [work.train(config, name, recipe) for recipe in config.recipes],
        "measure_heads": [work.measure_heads(config, name, recipe) for recipe in config.recipes],
        "settle": [work.settle(config, name)],
        "score_blocks": [work.score_blocks(config, name, *measure) for measure in (("likeness", 1), ("loss", 8))],
        "adapt": [work.adapt(config, pair) for pair in of_pair],
        "answer": [
            work.answer(config, pair, part) for pair in of_pair for part in ANSWERED_BY if policies(config, pair, part)
        ],
    }


@pytest.mark.parametrize("name", ASKED)
def test_requests_for_7b_models(name):
    config = load(preset="paper", group="all")
    assert config.backbones[name].weight_bytes == config.backbones[name].parameters * 2
    for one in (one for jobs_of_rule in work_of(config, name).values() for one in jobs_of_rule):
        minutes = work.minutes(config, one.seconds)
        assert 60 * minutes >= 4 * one.seconds and 30 <= minutes <= 24 * 60
    requests = work_of(config, name) | {"train_heads": [work.train(config, name, "paper")]}
    for rule, memory_mb in ASKED[name].items():
        assert {one.memory_mb for one in requests[rule]} == {memory_mb}


def test_tiny_models_request_little_and_real_ones_on_a_cpu_have_room_for_a_batch():
    config = load()
    asked = [one.memory_mb for name in config.backbones for jobs in work_of(config, name).values() for one in jobs]
    assert set(asked) == {4500}
    real = load(preset="paper", device="cpu", dtype="float32")
    answering = work.answer(real, Pair("mistral-7b", "coqa"), "full").memory_mb
    assert 1e6 * answering > 3 * 4 * 7.25e9  # weights, their packed copy, and as much for a batch
    assert work.settle(real, "mistral-7b").memory_mb < answering


def test_downloads_request_their_size():
    config = load(preset="paper")
    assert work.download(config, "mistral-7b").output_mb == 14_500
    assert work.minutes(config, work.download(config, "mistral-7b").seconds) == 50  # 725 s, four times


# --- the estimate ------------------------------------------------------------------------------------------------


def small_case(**more):
    """One backbone of 10 blocks and a thousand million weights, on a machine of round numbers."""
    backbone = {"source": "a/b", "revision": COMMIT, "parameters": 1e9, "depth": 10, "dtype": "bfloat16",
                "family": "transformer", "exits": [5, 8]}  # fmt: skip
    keys = {
        "name": "small", "device": "cuda", "batch_size": 8,
        "estimate": {"tflops": 100, "gbytes_per_second": 1000, "utilisation": 0.5, "milliseconds_per_block": 0.1},
        "backbones": {"tiny-transformer": None, "tiny-mamba": None, "one": backbone},
        "datasets": {"triviaqa": {"max_new_tokens": 20, "examples": {"calibration": 10, "test": 100}}},
        "policies": dict.fromkeys(set(TINY["policies"]) - {"full", "pruned", "pruned-full-prompt"}) | {
            "pruned": {"drop": [1, 2]}, "pruned-full-prompt": {"drop": [1, 2]}
        },
        "groups": dict.fromkeys(TINY["groups"]),
        "corpus": {"documents": 100, "held_out": 10, "max_tokens": 500},
        "recipes": {"r": ["calm", "ffn"]},
        "distillation": {"batch_tokens": 1000, "epochs": 2},
        "calibration": {"promises": dict.fromkeys(TINY["calibration"]["promises"])},
    }  # fmt: skip
    for key, value in more.items():
        keys[key] = {**keys[key], **value} if isinstance(keys.get(key), dict) else value
    return load(**keys)


PAIR = Pair("one", "triviaqa")


def test_seconds_are_the_sums_by_hand():
    """2 GB of weights are read in 4 ms, eight tokens take 0.32 ms of computing and ten blocks 1 ms."""
    config = small_case()
    start = 30 + 2  # two seconds to load 2 GB
    prompts = 100 * 80 * 2e9 / 50e12  # computing is longest, of 8,000 tokens in one pass
    assert math.isclose(work.answer(config, PAIR, "full").seconds, start + prompts + 13 * 20 * 0.004)
    # Both prunings decode at two settings; the prompts run for each setting of the one, and once for the other.
    assert math.isclose(work.answer(config, PAIR, "exits").seconds, start + 3 * prompts + 2 * 25 * 20 * 0.004)
    promise = {"promises": {**dict.fromkeys(TINY["calibration"]["promises"]), "one": RISK}}
    margin = {"margin": {"kind": "margin", "state_fill": "propagate", "thresholds": [0.5]}}
    calibrated = small_case(calibration=promise, policies=margin)
    # Compared with the full model, which answers the ten calibration questions, too.
    both = 1.1 * prompts + (13 + 2) * 20 * 0.004
    assert math.isclose(work.answer(calibrated, PAIR, "full").seconds, start + both)
    sharded = small_case(calibration=promise, policies=margin, generation={"shards": 2})
    assert math.isclose(work.answer(sharded, PAIR, "full").seconds, start + both / 2)
    hours = both / 3600
    automatic = small_case(
        calibration=promise, policies=margin, generation={"shards": "auto", "shard_hours": hours / 2.5}
    )
    assert work.shards(automatic, PAIR, "full") == ["-0-of-3", "-1-of-3", "-2-of-3"]
    assert work.shards(sharded, PAIR, "full") == ["-0-of-2", "-1-of-2"] and work.shards(config, PAIR, "full") == [""]
    assert math.isclose(work.settle(config, "one").seconds, start + 2 * 5 * 1000 * 2e9 / 50e12)
    width = math.sqrt(1e9 / 10 / 13)
    weights = 2 * (8 * width**2 + 2 * 2 * width)  # two exits, an ffn head and two rows for each of the two heads
    assert math.isclose(work.head_weights(config, "one", "r"), weights)
    training = 100_000 * 2e9 / 50e12 + 100_000 * 6 * weights / 50e12
    assert math.isclose(work.train(config, "one", "r").seconds, start + training)
    short = small_case(distillation={"max_training_tokens": 25_000})
    assert math.isclose(work.train(short, "one", "r").seconds, start + training / 4)
    slow = small_case(estimate={"milliseconds_per_block": 1})  # now the blocks take longest: 10 ms
    assert math.isclose(work.answer(slow, PAIR, "full").seconds, start + prompts + 13 * 20 * 0.010)


def test_on_a_cpu_other_speeds_are_assumed():
    config = small_case(device="cpu", estimate={"tflops": None, "gbytes_per_second": None})
    assert work.machine(config, "float32") == work.Machine(0.04e12 * 0.5, 15e9 * 0.5, 0.0001)
    assert not small_case(resources={"gpu": 0}).is_on_gpu


def test_the_estimate_sums_the_jobs_and_names_what_it_assumes():
    jobs_planned = [estimate.PlannedJob("answer", 3600, 500)] * 3 + [estimate.PlannedJob("evaluate")] * 2
    text = "\n".join(estimate.lines(load(preset="paper"), jobs_planned))
    for part in ("5 jobs: answer 3, evaluate 2", "3 GPU hours: answer 3", "1.5 GB of disk: answer 1.5",
                 "not measured", "14.5 GB at 1020 GB/s", "14.2 ms", "16 ms (32 blocks)", "one token of each row",
                 "codestral-mamba-7b, 96 rows",
                 "A100"):  # fmt: skip
        assert part in text, part
    assert max(map(len, text.splitlines())) < 160
    assert "CPU hours" in "\n".join(estimate.lines(load(), jobs_planned))
