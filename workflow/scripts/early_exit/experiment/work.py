"""Memory and time of the jobs that run a model, from the config and the models' sizes alone.

Nothing is measured, and nothing here changes a result. A pass over n tokens takes the longest of three times:

- computing: 2 FLOPs for each of the weights and each token;
- memory: all weights are read once, for one token as for many (what makes decoding slow);
- the blocks' own: each is a few small calls from Python.

An upper bound on that machine: every text and answer is as long as it may be, no token leaves early, no prompts share a
beginning. Attention over the context and heads in decoding are not counted, some per cent of the FLOPs each.
"""

from dataclasses import dataclass
from math import ceil, sqrt

from early_exit.experiment.config.experiment import Experiment
from early_exit.experiment.config.sources import Backbone
from early_exit.experiment.runs import ANSWERED_BY, Pair, Run, policies, policy_of, splits

# A GPU: an NVIDIA A100 with 80 GB, by its data sheet. A CPU: two cores of a small server, twice what SmolLM2-135M took
# of them in float32, 14 tokens a second one by one and 70 with 16 rows.
TFLOPS = {"gpu": {"float32": 19.5, "bfloat16": 312, "float16": 312},
          "cpu": {"float32": 0.04, "bfloat16": 0.04, "float16": 0.04}}  # fmt: skip
GBYTES_PER_SECOND = {"gpu": 2039, "cpu": 15}
START = {"gpu": 30, "cpu": 6}  # seconds until torch and transformers are imported, and the device is up
LOADED = 1e9  # bytes of weights that a job loads a second
DOWNLOADED = 2e7  # and that a download brings
# Of the official sets: test questions, and tokens of a prompt, four characters each.
QUESTIONS = {"triviaqa": 17_944, "coqa": 7_983, "truthfulqa": 817}
PROMPT_TOKENS = {"triviaqa": 80, "coqa": 500, "truthfulqa": 60}
SQUARES = {"transformer": 13.0, "mamba": 6.5}  # weights of a block, in squares of its width: Mistral's, Codestral's
FULL_WIDTH_HEAD = 8  # an `ffn` head's, d -> 4d -> 2; a `mamba` head has fewer, calm and the slim ones hardly any
PROMPT_PASS = 8192  # tokens of a pass over prompts, at most

MB = 1e6
# Beside the weights: Python, torch and transformers (0.7 GB; CUDA's libraries take more), tables, a text's logits.
BASE_MB = {"gpu": 8000, "cpu": 4000}
# On a GPU the weights pass through main memory once, with a quarter for what is being converted. On a CPU they stay, in
# float32 with a copy for products with few rows, and decoding gets as much again for its batch.
ON_GPU, ON_CPU, DECODING_ON_CPU = 1.25, 2.0, 3.0
TRAINED, LOADED_HEAD = 16, 4  # bytes for a head's weight: itself, gradient, two averages, in float32; itself
STEP_MB, STEP_MINUTES, LEAST_MINUTES = 500, 10, 30
# Bytes before compression: of a held-out token for each seed and exit; of an answer's token; of an answer beside them.
CONFIDENCE, ANSWER_TOKEN, ANSWER = 40, 12, 700
CHARACTERS = 4  # of a token of text


@dataclass(frozen=True)
class Work:
    """What a job is estimated to take: seconds on the assumed machine, main memory, and what it writes (both in MB)."""

    seconds: float
    memory_mb: int
    output_mb: float = 0.0


@dataclass(frozen=True)
class Machine:
    """What is assumed of it: FLOPs and bytes a second that a job gets, and seconds that a block takes at least."""

    flops: float
    bytes: float
    block: float

    def passes(self, backbone: Backbone, tokens: float, of: float) -> float:
        """Seconds for `tokens` tokens in passes of at most `of` tokens each."""
        count, compute = ceil(tokens / of), 2 * backbone.parameters * tokens / self.flops
        return max(compute, count * backbone.weight_bytes / self.bytes, count * backbone.depth * self.block)


def machine(experiment: Experiment, dtype: str) -> Machine:
    """The machine that the config's section `estimate` assumes, for weights in this number format."""
    kind, given = _device(experiment), experiment.estimate
    tflops = given.tflops or TFLOPS[kind][dtype]
    gbytes = given.gbytes_per_second or GBYTES_PER_SECOND[kind]
    used = given.utilisation
    return Machine(tflops * 1e12 * used, gbytes * 1e9 * used, given.milliseconds_per_block / 1e3)


def minutes(experiment: Experiment, seconds: float) -> int:
    """A time limit for what is estimated to take so long."""
    return max(LEAST_MINUTES, STEP_MINUTES * ceil(experiment.estimate.safety * seconds / 60 / STEP_MINUTES))


def download(experiment: Experiment, name: str) -> Work:
    """Bring a backbone from the hub; a local one is only read."""
    backbone = experiment.backbones[name]
    size = backbone.weight_bytes
    return Work(size / DOWNLOADED, BASE_MB["cpu"], 0.0 if backbone.path else size / MB)


def corpus(experiment: Experiment) -> Work:
    """Write the documents."""
    tokens = (experiment.corpus.documents + experiment.corpus.held_out) * experiment.corpus.max_tokens
    return Work(0.0, BASE_MB["cpu"], tokens * CHARACTERS / MB)


def train(experiment: Experiment, name: str, recipe: str) -> Work:
    """The backbone reads once an epoch; heads, in float32, go forwards and, twice as dear, backwards."""
    options = experiment.distillation
    documents = experiment.corpus.documents * options.epochs
    tokens, weights = documents * experiment.corpus.max_tokens, head_weights(experiment, name, recipe)
    share = min(1.0, (options.max_training_tokens or tokens) / tokens)
    heads = 3 * 2 * weights * tokens / machine(experiment, "float32").flops
    seconds = share * (_read(experiment, name, documents) + heads)
    return _work(experiment, name, seconds, extra=TRAINED * weights, written=4 * weights)


def measure_heads(experiment: Experiment, name: str, recipe: str) -> Work:
    """The backbone and the heads of all seeds read the held-out documents."""
    backbone, seeds = experiment.backbones[name], experiment.head_quality.seeds
    documents, weights = experiment.corpus.held_out, head_weights(experiment, name, recipe)
    tokens = documents * experiment.corpus.max_tokens
    heads = seeds * 2 * weights * tokens / machine(experiment, backbone.dtype).flops
    written = tokens * seeds * CONFIDENCE * len(backbone.exits)
    seconds = _read(experiment, name, documents) + heads
    return _work(experiment, name, seconds, extra=LOADED_HEAD * seeds * weights, written=written)


def settle(experiment: Experiment, name: str) -> Work:
    """The LM head after every block costs less than the blocks once more."""
    return _work(experiment, name, _read(experiment, name, experiment.corpus.held_out, times=2))


def score_blocks(experiment: Experiment, name: str, measure: str, most: int) -> Work:
    """One pass for likeness; for the loss half of the blocks, for each block and each of `most` that go."""
    passes = max(most, 1) * experiment.backbones[name].depth / 2 if measure == "loss" else 1
    return _work(experiment, name, _read(experiment, name, experiment.pruning.documents, times=1 + passes))


def adapt(experiment: Experiment, pair: Pair) -> Work:
    """The full model's answers to the calibration questions once more."""
    return _work(experiment, pair.backbone, _teacher_forced(experiment, pair, "calibration"))


def answer(experiment: Experiment, pair: Pair, part: str) -> Work:
    """One shard of the answers of a part's policies (see `runs.policies`), to all their splits."""
    count = len(shards(experiment, pair, part))
    rows = sum(
        questions(experiment, pair.dataset, split) * settings(experiment, run)
        for run in _runs(experiment, pair, part)
        for split in splits(experiment, run)
    )
    written = rows * (ANSWER + ANSWER_TOKEN * experiment.datasets[pair.dataset].max_new_tokens) / count
    seconds = _answers(experiment, pair, part) / count
    return _work(experiment, pair.backbone, seconds, decodes=True, written=written)


def shards(experiment: Experiment, pair: Pair, part: str) -> list[str]:
    """How the names of a part's jobs end: `-k-of-n`, or empty for the only one.

    `generation.shards: auto` takes as many as keep each below `generation.shard_hours` of the estimate.
    """
    count = experiment.generation.shards
    if count == "auto":
        count = ceil(_answers(experiment, pair, part) / 3600 / experiment.generation.shard_hours) or 1
    return [""] if count == 1 else [f"-{k}-of-{count}" for k in range(count)]


def wallclock(experiment: Experiment, pair: Pair) -> Work:
    """The first test examples with all policies, several times over."""
    options = experiment.wallclock
    share = (options.examples or 1) / questions(experiment, pair.dataset, "test")
    once = sum(_answers(experiment, pair, part) for part in ANSWERED_BY)
    return _work(experiment, pair.backbone, 2 * (options.repeats + 1) * share * once, decodes=True)


def precision(experiment: Experiment, pair: Pair) -> Work:
    """In each format the full model's answers and the policies', and one reading of them; two forms are in memory."""
    options, backbone = experiment.precision, experiment.backbones[pair.backbone]
    rows = sum(
        settings(experiment, Run(pair.backbone, pair.dataset, name)) for name in policies(experiment, pair, "precise")
    )
    tokens = options.examples * rows * experiment.datasets[pair.dataset].max_new_tokens
    share = options.examples / questions(experiment, pair.dataset, "test")
    once = machine(experiment, "float32").passes(backbone, tokens, backbone.batch_size)
    seconds = (len(options.formats) + 1) * (once + share * _teacher_forced(experiment, pair, "test"))
    return _work(experiment, pair.backbone, seconds, decodes=True, extra=backbone.weight_bytes)


def speed(experiment: Experiment, name: str) -> Work:
    """About a hundred calls, each as long as some hundred steps one at a time."""
    backbone, options = experiment.backbones[name], experiment.speed
    steps = (options.repeats + 1) * options.prompts * options.new_tokens * len(options.batch_sizes)
    seconds = 100 * machine(experiment, backbone.dtype).passes(backbone, steps, 1)
    return _work(experiment, name, seconds, decodes=True)


def questions(experiment: Experiment, dataset: str, split: str) -> int:
    """Questions of a split, `calibration` or `test`; where the config says all, as many as the official set has."""
    spec = experiment.datasets[dataset]
    return getattr(spec.examples, split) or QUESTIONS[spec.kind]


def settings(experiment: Experiment, run: Run) -> int:
    """How many answers a run gives to each question."""
    policy = policy_of(experiment, run)
    policy = experiment.policies[policy.matched] if policy.matched else policy
    return len(policy.settings(experiment.backbones[run.backbone].exits))


def head_weights(experiment: Experiment, name: str, recipe: str) -> float:
    """Of all heads of a recipe at all exits of the backbone `name`; the hidden width follows from the blocks' size."""
    backbone, heads = experiment.backbones[name], experiment.recipes[recipe]
    square = backbone.parameters / backbone.depth / SQUARES[backbone.family]
    wide = sum(not experiment.heads[head].is_slim for head in heads)
    return len(backbone.exits) * (FULL_WIDTH_HEAD * square * wide + 2 * sqrt(square) * len(heads))


def _device(experiment: Experiment) -> str:
    return "gpu" if experiment.is_on_gpu else "cpu"


def _work(
    experiment: Experiment, name: str, seconds: float, *, decodes: bool = False, extra: float = 0, written: float = 0
) -> Work:
    """A job with the backbone `name`: its start, its weights, `extra` bytes beside them, and `written` bytes."""
    size, device = experiment.backbones[name].weight_bytes, _device(experiment)
    times = ON_GPU if device == "gpu" else DECODING_ON_CPU if decodes else ON_CPU
    memory = STEP_MB * ceil((BASE_MB[device] + (times * size + extra) / MB) / STEP_MB)
    return Work(START[device] + size / LOADED + seconds, memory, written / MB)


def _read(experiment: Experiment, name: str, documents: int, times: float = 1.0) -> float:
    """Seconds for documents of the corpus at full depth, `times` over."""
    backbone, tokens = experiment.backbones[name], documents * experiment.corpus.max_tokens
    return times * machine(experiment, backbone.dtype).passes(backbone, tokens, experiment.distillation.batch_tokens)


def _teacher_forced(experiment: Experiment, pair: Pair, split: str) -> float:
    """Seconds for the full model's answers once more, one at a time."""
    backbone, spec = experiment.backbones[pair.backbone], experiment.datasets[pair.dataset]
    length = PROMPT_TOKENS[spec.kind] + spec.max_new_tokens
    tokens = questions(experiment, pair.dataset, split) * length
    return machine(experiment, backbone.dtype).passes(backbone, tokens, length)


def _runs(experiment: Experiment, pair: Pair, part: str) -> list[Run]:
    return [Run(pair.backbone, pair.dataset, name) for name in policies(experiment, pair, part)]


def _answers(experiment: Experiment, pair: Pair, part: str) -> float:
    """Seconds of a part's answers: prompts run once for all policies, but for those of other models (pruned)."""
    backbone, spec = experiment.backbones[pair.backbone], experiment.datasets[pair.dataset]
    speed, seconds, whole = machine(experiment, backbone.dtype), 0.0, set()
    for run in _runs(experiment, pair, part):
        policy, each = policy_of(experiment, run), settings(experiment, run)
        if policy.kind == "oracle":
            seconds += _teacher_forced(experiment, pair, "test")
            continue
        for split in splits(experiment, run):
            count = questions(experiment, pair.dataset, split)
            seconds += speed.passes(backbone, count * each, backbone.batch_size) * spec.max_new_tokens
            if policy.kind == "pruned" and policy.prompt == "pruned":
                seconds += speed.passes(backbone, count * each * PROMPT_TOKENS[spec.kind], PROMPT_PASS)
            else:
                whole.add(split)
    prompts = sum(questions(experiment, pair.dataset, split) for split in whole) * PROMPT_TOKENS[spec.kind]
    return seconds + speed.passes(backbone, prompts, PROMPT_PASS)
