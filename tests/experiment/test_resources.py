"""What jobs ask for and what a run takes, from the config alone: the real 7B shapes, and sums checked by hand."""

import json
import math
import re

import pytest
import test_dag
import torch
from test_config import REVISIONS, load
from test_costs import CODESTRAL_7B, FALCON_MAMBA_7B, MAMBA_2_8B, MISTRAL_7B
from test_dag import EXPECTED, SMALLEST, jobs, snakemake
from transformers import AutoConfig, AutoModelForCausalLM

from early_exit.costs import parts as block_costs
from early_exit.experiment import estimate, resources, runs, work
from early_exit.heads import store

copy = test_dag.copy  # the fixture
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


def of_all_presets() -> dict[str, dict]:
    return {name: spec for preset in ("small", "paper") for name, spec in load(preset=preset)["backbones"].items()}


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
        assert math.isclose(spec["parameters"], block_costs.parameters(MODELS[name]), rel_tol=2e-3), name


def test_a_local_config_goes_before_a_rounded_number(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MISTRAL_7B))
    local = load(preset="paper", backbones={"mistral-7b": {"source": str(tmp_path)}})["backbones"]["mistral-7b"]
    assert local["parameters"] == block_costs.parameters(MISTRAL_7B) == 7_247_757_312


@pytest.mark.parametrize("name", ["mistral-7b", "codestral-mamba-7b"])
def test_the_size_of_heads_is_bounded_from_the_backbones_alone(name):
    config = load(preset="paper")
    designs = [config["heads"][head] for head in config["recipes"]["paper"]]
    real = 4 * sum(store.cost(design, 4096, "x")["linear"] // 2 for design in designs)
    assert real < work.head_weights(config, name, "paper") < 2 * real


# --- requests ----------------------------------------------------------------------------------------------------

# MB, of the first try: 8000 and 1.25 x 14.5 or 14.58 GB, training 16 bytes for each weight of the heads more.
ASKED = {
    "mistral-7b": {"generate": 26500, "settle": 26500, "train_heads": 44000},
    "codestral-mamba-7b": {"generate": 26500, "settle": 26500, "train_heads": 44500},
}


def model_jobs(config):
    named = {rule: names for rule, names in runs.jobs(config).items() if rule in work.WORK}
    return [(rule, job) for rule, names in named.items() for job in names]


@pytest.mark.parametrize("name", ASKED)
def test_requests_for_7b_models_grow_with_each_try(name):
    config = load(preset="paper", group="all")
    assert work.weight_bytes(config["backbones"][name]) == config["backbones"][name]["parameters"] * 2
    seen = {}
    for rule, job in model_jobs(config):
        if job.split("/")[0] != name:
            continue
        first, minutes = resources.memory_mb(config, rule, job), resources.runtime_minutes(config, rule, job)
        for attempt in (1, 2, 3):
            assert resources.memory_mb(config, rule, job, attempt) == attempt * first
            assert resources.runtime_minutes(config, rule, job, attempt) == attempt * minutes
        assert 60 * minutes >= 4 * work.seconds(config, rule, job) and 30 <= minutes <= 24 * 60
        assert seen.setdefault(rule, first) == first
    assert {rule: seen[rule] for rule in ASKED[name]} == ASKED[name]
    assert seen.keys() == work.WORK.keys() - {"measure_wallclock", "measure_speed"}


def test_the_config_s_numbers_go_before_the_model_s():
    config = load(resources={"mem_mb": 2000, "runtime": 7})
    job = "tiny-mamba/coqa/full"
    assert [resources.memory_mb(config, "generate", job, k) for k in (1, 2, 3)] == [2000, 4000, 6000]
    assert [resources.runtime_minutes(config, "generate", job, k) for k in (1, 2)] == [7, 14]


def test_tiny_models_ask_little_and_real_ones_on_a_cpu_have_room_for_a_batch():
    config = load()
    assert {resources.memory_mb(config, *job) for job in model_jobs(config)} == {4500}
    real = load(preset="paper", device="cpu", dtype="float32")
    asked = resources.memory_mb(real, "generate", "mistral-7b/coqa/full")
    assert 1e6 * asked > 3 * 4 * 7.25e9  # weights, their packed copy, and as much for a batch
    assert resources.memory_mb(real, "settle", "mistral-7b") < asked


def test_downloads_ask_for_their_size():
    config = load(preset="paper")
    assert resources.disk_mb(config, "mistral-7b") == 14_500
    assert [resources.download_minutes(config, "mistral-7b", k) for k in (1, 2)] == [50, 100]  # 725 s, four times


# --- the estimate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["tiny", "small", "paper"])
def test_jobs_are_counted_as_snakemake_counts_them(preset):
    assert estimate.jobs(load(preset=preset)) == EXPECTED


def small_case(**more):
    """One backbone of 10 blocks and a thousand million weights, on a machine of round numbers."""
    backbone = {
        "parameters": 1e9,
        "depth": 10,
        "dtype": "bfloat16",
        "family": "transformer",
        "exits": [5, 8],
        "path": None,
    }
    return {
        "name": "small", "device": "cuda", "batch_size": 8, "resources": {"gpu": 1},
        "estimate": {"tflops": 100, "gbytes_per_second": 1000, "utilisation": 0.5, "milliseconds_per_block": 0.1,
                     "safety": 4},
        "backbones": {"one": backbone},
        "datasets": {"qa": {"kind": "triviaqa", "max_new_tokens": 20, "examples": {"calibration": 10, "test": 100}}},
        "policies": {"full": {"kind": "full"}, "pruned": {"kind": "pruned", "drop": [1, 2]}},
        "corpus": {"documents": 100, "held_out": 10, "max_tokens": 500},
        "recipes": {"r": ["calm", "ffn"]}, "heads": {"calm": {"kind": "calm"}, "ffn": {"kind": "ffn"}},
        "distillation": {"batch_tokens": 1000, "epochs": 2, "max_training_tokens": None},
        "generation": {"shards": 1}, "calibration": {"promises": {}},
    } | more  # fmt: skip


def test_seconds_are_the_sums_by_hand():
    """2 GB of weights are read in 4 ms, eight tokens take 0.32 ms of computing and ten blocks 1 ms."""
    config = small_case()
    start = 30 + 2  # two seconds to load 2 GB
    prompts = 100 * 80 * 2e9 / 50e12  # computing is longest, of 8,000 tokens in one pass
    assert math.isclose(work.seconds(config, "generate", "one/qa/full"), start + prompts + 13 * 20 * 0.004)
    assert math.isclose(work.seconds(config, "generate", "one/qa/pruned"), start + 2 * prompts + 25 * 20 * 0.004)
    kept = small_case(calibration={"promises": {"one": {}}})
    kept["policies"]["softmax"] = {"kind": "softmax", "state_fill": "copy", "thresholds": [0.5]}
    # Held against the full model's, which answers the ten calibration questions, too.
    both = 1.1 * prompts + (13 + 2) * 20 * 0.004
    assert math.isclose(work.seconds(kept, "generate", "one/qa/full"), start + both)
    kept["generation"]["shards"] = 2
    assert math.isclose(work.seconds(kept, "generate", "one/qa/full/0-of-2"), start + both / 2)
    assert math.isclose(work.seconds(config, "settle", "one"), start + 2 * 5 * 1000 * 2e9 / 50e12)
    width = math.sqrt(1e9 / 10 / 13)
    weights = 2 * (8 * width**2 + 2 * 2 * width)  # two exits, an ffn head and two rows for each of the two heads
    assert math.isclose(work.head_weights(config, "one", "r"), weights)
    training = 100_000 * 2e9 / 50e12 + 100_000 * 6 * weights / 50e12
    assert math.isclose(work.seconds(config, "train_heads", "one/r"), start + training)
    config["distillation"]["max_training_tokens"] = 25_000
    assert math.isclose(work.seconds(config, "train_heads_seed", "one/r/2"), start + training / 4)
    slow = small_case(estimate=config["estimate"] | {"milliseconds_per_block": 1})  # now the blocks take longest: 10 ms
    assert math.isclose(work.seconds(slow, "generate", "one/qa/full"), start + prompts + 13 * 20 * 0.010)


def test_on_a_cpu_other_speeds_are_assumed():
    config = small_case(device="cpu")
    config["estimate"] |= {"tflops": None, "gbytes_per_second": None}
    assert work.machine(config, "float32") == work.Machine(0.04e12 * 0.5, 15e9 * 0.5, 0.0001)
    assert not work.is_on_gpu(small_case(resources={"gpu": 0}))


def test_the_papers_estimate_names_what_it_assumes():
    text = "\n".join(estimate.lines(load(preset="paper")))
    for part in ("220 jobs: score 60", "GPU hours: generate", "not measured", "14.5 GB at 1020 GB/s", "14.2 ms",
                 "16 ms (32 blocks)", "one token of each of 64 rows", "A100", "weights to download 29.1"):  # fmt: skip
        assert part in text, part
    assert max(map(len, text.splitlines())) < 160
    assert "CPU hours" in "\n".join(estimate.lines(load()))


# --- in a run ----------------------------------------------------------------------------------------------------


def test_a_job_that_fails_asks_for_more_when_it_is_tried_again(copy):
    """Training fails twice here, and notes what it was given."""
    train = copy / "workflow/scripts/train_heads.py"
    train.write_text(train.read_text() + """
asked = Path("asked.txt")
before = asked.read_text() if asked.exists() else ""
asked.write_text(f"{before}{snakemake.resources.mem_mb} {snakemake.resources.runtime}\\n")
assert before.count("\\n") == 2
""")  # fmt: skip
    heads = "results/stub/heads/tiny-transformer/paper/heads.safetensors"
    snakemake("--cores", "1", "--retries", "2", heads, folder=copy, config=SMALLEST, root=copy)
    assert (copy / "asked.txt").read_text() == "4500 30\n9000 60\n13500 90\n"


def test_the_papers_jobs_ask_for_gpus_memory_and_time(tmp_path):
    """A dry run says what each job asks."""
    text = snakemake("--dry-run", folder=tmp_path, config={"preset": "paper", "revisions": REVISIONS})
    assert jobs(text) == EXPECTED
    asked = {}
    for block in re.split(r"\n(?=rule )", text):
        rule, line = re.match(r"rule (\w+):", block), re.search(r"^    resources: (.*)$", block, re.MULTILINE)
        if rule and line:
            asked.setdefault(rule[1], dict(part.split("=") for part in line[1].split(", ")))
    asked = {rule: parts for rule, parts in asked.items() if rule != "all"}
    with_gpu = {rule for rule, parts in asked.items() if parts.get("gpu") == "1"}
    assert with_gpu == EXPECTED.keys() & work.WORK.keys()
    assert all(int(parts["mem_mb"]) > 0 and parts["runtime"] for parts in asked.values())
    assert {asked[rule]["mem_mb"] for rule in ("generate", "settle")} == {"26500"}
    assert int(asked["fetch_backbone"]["disk_mb"]) >= 14_500
