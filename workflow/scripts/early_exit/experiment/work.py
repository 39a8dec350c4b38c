"""What a job that runs a model has to do, and how long that takes on an assumed machine, from the config alone.

Jobs are named as in `layout.jobs`: backbone/recipe, backbone/dataset/policy and so on. Nothing is measured, and nothing
here changes a result. A pass over n tokens takes the longest of three times:

- computing: 2 FLOPs for each of the weights and each token;
- memory: all weights are read once, be it for one token or for many (what makes decoding slow);
- the blocks' own: each is a few small calls from Python.

An upper bound on that machine: every text and answer is as long as it may be, no token leaves early, no prompts share a
beginning. Not counted: attention over the context, and heads in decoding, some per cent of the FLOPs each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

from early_exit.experiment import policy_kinds, runs

Config = Mapping[str, Any]
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# A GPU: an NVIDIA A100 with 80 GB, by its data sheet. A CPU: two cores of a small server, twice what SmolLM2-135M took
# of them in float32, 14 tokens a second one by one and 70 with 16 rows.
TFLOPS = {"gpu": {"float32": 19.5, "bfloat16": 312, "float16": 312}, "cpu": dict.fromkeys(BYTES, 0.04)}
GBYTES_PER_SECOND = {"gpu": 2039, "cpu": 15}
START = {"gpu": 30, "cpu": 6}  # seconds until torch and transformers are imported, and the device is up
LOADED = 1e9  # bytes of weights that a job loads a second
DOWNLOADED = 2e7  # and that a download brings
# Of the official sets: test questions, and tokens of a prompt, four characters each.
QUESTIONS = {"triviaqa": 17_944, "coqa": 7_983, "truthfulqa": 817}
PROMPT_TOKENS = {"triviaqa": 80, "coqa": 500, "truthfulqa": 60}
SQUARES = {"transformer": 13.0, "mamba": 6.5}  # weights of a block, in squares of its width: Mistral's, Codestral's
FULL_WIDTH_HEAD = 8  # an `ffn` head's, d -> 4d -> 2; a `mamba` head has fewer, calm and the slim ones hardly any
SMALL_HEADS = ("calm", "ffn-slim", "mamba-slim", "hybrid")


def is_on_gpu(config: Config) -> bool:
    return config["device"] != "cpu" and config["resources"]["gpu"] > 0


def weight_bytes(backbone: Config) -> float:
    """A backbone's weights in memory."""
    return backbone["parameters"] * BYTES[backbone["dtype"]]


def head_weights(config: Config, name: str, recipe: str) -> float:
    """Of all heads of a recipe at all exits of the backbone `name`; the hidden width follows from the blocks' size."""
    backbone = config["backbones"][name]
    square = backbone["parameters"] / backbone["depth"] / SQUARES[backbone["family"]]
    wide = [head for head in config["recipes"][recipe] if config["heads"][head]["kind"] not in SMALL_HEADS]
    small = 2 * sqrt(square) * len(config["recipes"][recipe])
    return len(backbone["exits"]) * (FULL_WIDTH_HEAD * square * len(wide) + small)


@dataclass(frozen=True)
class Machine:
    """What is assumed of it: FLOPs and bytes a second that a job gets, and seconds that a block takes at least."""

    flops: float
    bytes: float
    block: float

    def passes(self, backbone: Config, tokens: float, of: float) -> float:
        """Seconds for `tokens` tokens in passes of at most `of` tokens each."""
        count, compute = ceil(tokens / of), 2 * backbone["parameters"] * tokens / self.flops
        return max(compute, count * weight_bytes(backbone) / self.bytes, count * backbone["depth"] * self.block)


def machine(config: Config, dtype: str) -> Machine:
    kind, given = "gpu" if is_on_gpu(config) else "cpu", config["estimate"]
    tflops = given["tflops"] or TFLOPS[kind][dtype]
    gbytes = given["gbytes_per_second"] or GBYTES_PER_SECOND[kind]
    used = given["utilisation"]
    return Machine(tflops * 1e12 * used, gbytes * 1e9 * used, given["milliseconds_per_block"] / 1e3)


def questions(config: Config, dataset: str, split: str) -> int:
    """Questions of a split, `calibration` or `test`; where the config says all, as many as the official set has."""
    spec = config["datasets"][dataset]
    return spec["examples"][split] or QUESTIONS[spec["kind"]]


def settings(config: Config, backbone: str, policy: str) -> int:
    """How many answers a policy gives to each question."""
    spec = config["policies"][policy]
    if spec["kind"] == "random":
        return settings(config, backbone, spec["match"])
    return len(policy_kinds.settings(spec, config["backbones"][backbone]["exits"]))


def seconds(config: Config, rule: str, job: str) -> float:
    """How long a job of a rule that runs a model takes, from its start."""
    name, *rest = job.split("/")
    backbone = config["backbones"][name]
    kind = "gpu" if is_on_gpu(config) else "cpu"
    return START[kind] + weight_bytes(backbone) / LOADED + WORK[rule](config, name, *rest)


def download_seconds(backbone: Config) -> float:
    return weight_bytes(backbone) / DOWNLOADED


def _read(config: Config, name: str, documents: int, times: float = 1.0) -> float:
    """Documents of the corpus at full depth, `times` over."""
    backbone, tokens = config["backbones"][name], documents * config["corpus"]["max_tokens"]
    of = config["distillation"]["batch_tokens"]
    return times * machine(config, backbone["dtype"]).passes(backbone, tokens, of)


def _train(config: Config, name: str, recipe: str, *_: str) -> float:
    """The backbone reads once an epoch; heads, in float32, go forwards and, twice as dear, backwards."""
    options = config["distillation"]
    documents = config["corpus"]["documents"] * options["epochs"]
    tokens = documents * config["corpus"]["max_tokens"]
    share = min(1.0, (options["max_training_tokens"] or tokens) / tokens)
    heads = 3 * 2 * head_weights(config, name, recipe) * tokens / machine(config, "float32").flops
    return share * (_read(config, name, documents) + heads)


def _measure_heads(config: Config, name: str, recipe: str) -> float:
    documents, seeds = config["corpus"]["held_out"], config["head_quality"]["seeds"]
    tokens, speed = documents * config["corpus"]["max_tokens"], machine(config, config["backbones"][name]["dtype"])
    return _read(config, name, documents) + seeds * 2 * head_weights(config, name, recipe) * tokens / speed.flops


def _settle(config: Config, name: str) -> float:
    """The LM head after every block costs less than the blocks once more."""
    return _read(config, name, config["corpus"]["held_out"], times=2)


def _score_blocks(config: Config, name: str, measure: str) -> float:
    """One pass for likeness; for the loss one half of the blocks, for each block and each that goes."""
    drops = [max(policy["drop"]) for policy in config["policies"].values() if policy.get("by") == "one-by-one"]
    passes = max(drops, default=1) * config["backbones"][name]["depth"] / 2 if measure == "loss" else 1
    return _read(config, name, config["pruning"]["documents"], times=1 + passes)


def _replay(config: Config, name: str, dataset: str, split: str) -> float:
    """The full model's answers once more, one at a time."""
    backbone, spec = config["backbones"][name], config["datasets"][dataset]
    length = PROMPT_TOKENS[spec["kind"]] + spec["max_new_tokens"]
    tokens = questions(config, dataset, split) * length
    return machine(config, backbone["dtype"]).passes(backbone, tokens, length)


def _adapt(config: Config, name: str, dataset: str, policy: str) -> float:
    return _replay(config, name, dataset, "calibration")


def _answer(config: Config, name: str, dataset: str, policy: str, split: str) -> float:
    """Prompts run once for all settings, but for those of other models (pruned) or other passes (speculation)."""
    backbone, spec, kind = config["backbones"][name], config["datasets"][dataset], config["policies"][policy]["kind"]
    if kind == "oracle":
        return _replay(config, name, dataset, split)
    asked, each = questions(config, dataset, split), settings(config, name, policy)
    speed, rows = machine(config, backbone["dtype"]), config["batch_size"]
    prompts = asked * PROMPT_TOKENS[spec["kind"]] * (each if kind in ("pruned", "self-speculative") else 1)
    answers = speed.passes(backbone, asked * each, rows) * spec["max_new_tokens"]
    return speed.passes(backbone, prompts, 8192) + answers


def splits(config: Config, *run: str) -> list[str]:
    """The splits whose questions a run, (backbone, dataset, policy), answers."""
    return ["calibration", "test"] if run in runs.answering_both(config) else ["test"]


def _generate(config: Config, name: str, dataset: str, policy: str, *_: str) -> float:
    """All splits in one job, or a share of them."""
    answers = sum(_answer(config, name, dataset, policy, split) for split in splits(config, name, dataset, policy))
    return answers / config["generation"]["shards"]


def _wallclock(config: Config, name: str, dataset: str, policy: str, *_: str) -> float:
    options = config["wallclock"]
    share = (options["examples"] or 1) / questions(config, dataset, "test")
    return 2 * (options["repeats"] + 1) * share * _answer(config, name, dataset, policy, "test")


def _speed(config: Config, name: str) -> float:
    """About a hundred calls, each as long as some hundred steps one at a time."""
    backbone, options = config["backbones"][name], config["speed"]
    steps = (options["repeats"] + 1) * options["prompts"] * options["new_tokens"] * len(options["batch_sizes"])
    return 100 * machine(config, backbone["dtype"]).passes(backbone, steps, 1)


WORK = {
    "train_heads": _train,
    "train_heads_seed": _train,
    "measure_heads": _measure_heads,
    "settle": _settle,
    "score_blocks": _score_blocks,
    "adapt": _adapt,
    "generate": _generate,
    "measure_wallclock": _wallclock,
    "measure_speed": _speed,
}
