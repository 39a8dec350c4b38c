"""Everything else that an experiment says: how answers are generated, scored and calibrated, and what jobs ask for."""

from typing import Annotated, Literal

from pydantic import Field

from early_exit.experiment.config.entry import (
    Count,
    Entry,
    Name,
    Natural,
    Number,
    Positive,
    PositiveShare,
    Share,
    Unique,
)

Probability = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
PrecisionFormat = Literal["bfloat16", "float16", "bfloat16-autocast", "float16-autocast"]
AtLeastTwo = Annotated[Count, Field(ge=2)]


class Pruning(Entry):
    """How the blocks are scored that static pruning leaves out by anything but `last`."""

    documents: Count = Field(
        32, description="Training documents of the corpus that they are scored on, the first ones."
    )


class Promise(Entry):
    """A bound on a risk. The cheapest threshold that keeps it is taken, or the full model if none does."""

    risk: Literal["disagreement", "metric-drop", "degenerate"] = Field(
        description=(
            "disagreement: a text other than the full model's; metric-drop: what the main metric loses against it, of "
            "1; degenerate: a repetition loop."
        )
    )
    epsilon: Probability = Field(description="The risk may be this at most.")
    delta: Probability = Field(
        0.1,
        description=(
            "Probability, over the calibration questions, with which learn-then-test may fail to bound the risk; "
            "conformal-risk-control has none."
        ),
    )
    method: Literal["learn-then-test", "conformal-risk-control"] = Field(
        "learn-then-test",
        description=(
            "learn-then-test bounds the risk with probability 1 - delta, conformal-risk-control its expectation."
        ),
    )


class Calibration(Entry):
    """How a policy's own thresholds are chosen on the calibration questions, and how that is tested."""

    promises: dict[Name, Promise] = Field(
        default_factory=dict,
        description=(
            "What is promised of a calibrated threshold, by name; each chooses a setting, and null removes one."
        ),
    )
    splits: Count = Field(
        1000,
        description="How often calibration and test questions are pooled and split anew, to test what was promised.",
    )


class Generation(Entry):
    """How answers are generated, beside greedily."""

    prompt_overflow: Literal["refuse", "cut-left", "cut-right"] = Field(
        "refuse", description="What to do with a prompt that leaves no room in the model's context: stop, or cut it."
    )
    repetition_penalty: Positive = Field(
        1.0,
        description=(
            "Divides the logits of tokens seen before, if positive, else multiplies them; 1 is plain greedy decoding."
        ),
    )
    checkpoint_rows: Count = Field(
        64, description="A job that answers saves so many answers at a time; a killed one loses at most these."
    )
    spare_mb: Annotated[Number, Field(ge=0)] = Field(
        500,
        description=(
            "MB of answers that a job no longer needs and keeps all the same, for a config that needs them again; "
            "`snakemake clean_answers` drops them all."
        ),
    )
    shards: Count | Literal["auto"] = Field(
        1,
        description=(
            "Jobs that share the questions of a dataset. No number changes the answers; more use more GPUs at a time. "
            "auto takes as many as keep each job below `shard_hours`."
        ),
    )
    shard_hours: Positive = Field(4.0, description="Estimated hours of a job where `shards` is auto, at most.")


class Wallclock(Entry):
    """Seconds per generated token of every setting, measured apart; results are then no longer the same twice."""

    examples: Count | None = Field(
        None,
        description="How many of the first test examples are timed; null measures nothing and leaves the column empty.",
    )
    repeats: Count = Field(
        3, description="Times that each setting is timed, in turn with the others, after one that does not count."
    )


class Precision(Entry):
    """How much a coarser number format changes, and whether a small change dies out along the sequence."""

    datasets: Annotated[list[str], Unique] = Field(
        default_factory=list, description="Datasets whose first test questions are taken; none measures nothing."
    )
    formats: Annotated[list[PrecisionFormat], Field(min_length=1), Unique] = Field(
        ["bfloat16", "float16", "bfloat16-autocast"],
        description="Compared with float32: of all weights and activations, or of products with float32 weights.",
    )
    policies: Annotated[list[str], Unique] = Field(
        default_factory=list, description="Policies with heads whose exits and answers are compared, by name."
    )
    examples: Count = Field(20, description="How many of the first test questions are answered in every format.")
    sizes: Annotated[list[Positive], Field(min_length=1), Unique] = Field(
        [0.01, 0.1], description="Lengths of a change of one token's embedding, in lengths of that embedding."
    )
    draws: Count = Field(3, description="Random directions of each such change.")


class Degeneration(Entry):
    """What counts as a repetition loop."""

    ngram: Count = Field(4, description="Longest repeated piece in tokens.")
    repeats: AtLeastTwo = Field(4, description="How often it stands in a row.")


class Scoring(Entry):
    """How answers are scored."""

    rules: Literal["official", "lm-eval"] = Field(
        "official",
        description="The datasets' official rules, or those of lm-evaluation-harness; prompts are each dataset's key.",
    )


class Bootstrap(Entry):
    """How 95 % intervals are found."""

    resamples: Count = Field(1000, description="Bootstrap samples.")


class Resources(Entry):
    """What a job that runs a model requests of a cluster; tried again, it requests twice and three times as much."""

    gpu: Natural = Field(1, description="GPUs of each job; with device cpu it is none.")
    mem_mb: Count | None = Field(
        None, description="Memory in MB at the first try; null takes it from the model's size."
    )
    runtime: Count | None = Field(
        None, description="Longest time in minutes at the first try; null takes it from the estimate."
    )


class Estimate(Entry):
    """The machine that time limits and the printed estimate assume; nothing here changes a result."""

    tflops: Positive | None = Field(
        None,
        description=(
            "Its peak in TFLOP/s; null takes an A100's in the backbone's dtype (312, float32 19.5), on a CPU 0.04."
        ),
    )
    gbytes_per_second: Positive | None = Field(
        None, description="Peak of its memory in GB/s; null takes an A100's (2039), on a CPU 15."
    )
    utilisation: PositiveShare = Field(0.5, description="Share of both that is reached.")
    milliseconds_per_block: Annotated[Number, Field(ge=0)] = Field(
        0.5, description="What a pass through a block takes at least, however few tokens it has."
    )
    safety: Annotated[Number, Field(ge=1)] = Field(4.0, description="Time limits are this many times the estimate.")


class Speed(Entry):
    """What `snakemake speed` measures; not part of the report's run."""

    backbones: list[str] | None = Field(None, description="Backbones to measure, one after the other; null means all.")
    datasets: list[str] | None = Field(None, description="Datasets whose test prompts are taken; null means all.")
    policies: list[str] | None = Field(
        None,
        description=(
            "Policies to time, with heads or self-speculative; null means the first with a Mamba or hybrid head, the "
            "first with calm or ffn, and all that speculate."
        ),
    )
    threshold: Share | None = Field(
        0.9, description="Threshold that they are timed at; null takes each one's calibrated for the first promise."
    )
    threads: Count | None = Field(
        None, description="CPU threads of the measurement; null takes the top-level key. Give the run as many cores."
    )
    repeats: Count = Field(
        5, description="Times that every case is called, in turn with the others; the median counts."
    )
    batch_sizes: Annotated[list[Count], Field(min_length=1), Unique] = Field(
        [1, 16], description="Rows at once; answers of natural lengths are measured with the most."
    )
    new_tokens: AtLeastTwo = Field(16, description="New tokens of each row where all rows get the same number.")
    prompts: Count = Field(2, description="Prompts of a call that takes one row at a time.")
    prompt_tokens: Count = Field(
        32, description="Most tokens of prompts that run together at one length; longer ones lose their first tokens."
    )
    natural_prompts: Count = Field(
        48, description="Prompts of a call in which prompts and answers have their natural lengths."
    )
    sweep_prompts: Count = Field(
        8, description="Prompts of the sweep, which runs as many rows at once as `batch_size` says."
    )
    sweep_thresholds: Annotated[list[Share], Field(min_length=2), Unique] = Field(
        [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95], description="Thresholds that run in one job, and in a job each."
    )
