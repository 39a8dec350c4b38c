"""What a run takes, before it starts: jobs, hours and disk, summed over the jobs of Snakemake's own graph.

Jobs are counted. Hours and bytes are not measured: each rule that runs a model declares them as resources, `work_s` and
`output_mb`, and `work` says what they assume.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from early_exit.experiment import work
from early_exit.experiment.config.experiment import Experiment

GB = 1e9
SHOWN = 6  # rules that are named, the others are summed


@dataclass(frozen=True)
class PlannedJob:
    """A job of the graph: its rule, seconds of a model's work, and MB that it writes; 0 where the rule says nothing."""

    rule: str
    seconds: float = 0.0
    output_mb: float = 0.0


def lines(experiment: Experiment, jobs: Iterable[PlannedJob]) -> list[str]:
    """The estimate in words."""
    jobs = list(jobs)
    counts = Counter(job.rule for job in jobs)
    hours, gbytes = Counter(), Counter()
    for job in jobs:
        hours[job.rule] += job.seconds / 3600
        gbytes[job.rule] += job.output_mb * work.MB / GB
    kind = "GPU" if experiment.is_on_gpu else "CPU"
    return [
        f"Estimate for {experiment.name}; assumed, not measured (config key `estimate`):",
        f"  {sum(counts.values())} jobs: {_largest(counts)}",
        f"  {_short(sum(hours.values()))} {kind} hours: {_largest(hours)}",
        *(f"    {line}" for line in _assumptions(experiment, kind)),
        f"  {_short(sum(gbytes.values()))} GB of disk: {_largest(gbytes)}",
    ]


def _assumptions(experiment: Experiment, kind: str) -> list[str]:
    """How the hours come about."""
    given = experiment.estimate
    whose = "an A100's data sheet" if kind == "GPU" else "what two cores of a small server have"
    found = [
        "a step, one token of each row, takes the longest of reading the weights, computing, and "
        f"{given.milliseconds_per_block:g} ms a block;",
        f"speeds are {given.utilisation:g} of {whose}, unless the config gives others:",
    ]
    for name, backbone in experiment.backbones.items():
        speed, weights = work.machine(experiment, backbone.dtype), backbone.weight_bytes
        rows = backbone.batch_size
        read, compute = weights / speed.bytes, 2 * backbone.parameters * rows / speed.flops
        found.append(
            f"  {name}, {rows} rows: "
            f"{_short(1e3 * read)} ms ({_short(weights / GB)} GB at {_short(speed.bytes / GB)} GB/s), "
            f"{_short(1e3 * compute)} ms ({_short(speed.flops / 1e12)} TFLOP/s), "
            f"{_short(1e3 * backbone.depth * speed.block)} ms ({backbone.depth} blocks)"
        )
    return [*found, "answers are as long as they may be, no token leaves early; prompts and training by their FLOPs"]


def _largest(values: Mapping[str, float]) -> str:
    """The largest by name, the rest together."""
    ranked = sorted(((value, name) for name, value in values.items() if value), reverse=True)
    shown = [f"{name} {_short(value)}" for value, name in ranked[:SHOWN]]
    rest = sum(value for value, _ in ranked[SHOWN:])
    return ", ".join([*shown, f"others {_short(rest)}"] if rest else shown)


def _short(value: float) -> str:
    """Counts whole, all else with three digits."""
    return str(value) if isinstance(value, int) else f"{float(f'{value:.3g}'):g}"
