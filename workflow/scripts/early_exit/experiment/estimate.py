"""What a whole experiment takes, before it starts: jobs, hours and disk, with how they were reached.

Jobs are counted, from the config. Hours and bytes are not measured: `work` says what is assumed.
"""

from collections.abc import Mapping
from typing import Any

from early_exit.experiment import runs, work

Config = Mapping[str, Any]
GB = 1e9
# Bytes before compression: of a held-out token for each seed and exit; of an answer's token; of an answer beside them,
# with its scores and FLOPs.
CONFIDENCE, ANSWER_TOKEN, ANSWER = 40, 12, 700
CHARACTERS = 4  # of a token of text
SHOWN = 6  # rules that are named, the others are summed


def jobs(config: Config) -> dict[str, int]:
    """How many jobs of each rule a run from nothing to the report has, as Snakemake counts them."""
    counts = {rule: len(names) for rule, names in runs.jobs(config).items()}
    counts["check_disjoint"] = 1
    counts["measure_wallclock"] = sum(run["seconds"] is not None for run in runs.settings(config, ""))
    counts["head_tables"] = int(bool(runs.measured_heads(config)))
    counts["promise"] = int(bool(runs.calibrations(config)))
    counts["pruned_blocks"] = int(bool(runs.measured_blocks(config)))
    counts |= dict.fromkeys(("tables", "compare", "claims", "figures", "provenance", "report", "all"), 1)
    return {rule: count for rule, count in counts.items() if count}


def hours(config: Config) -> dict[str, float]:
    """Hours of all jobs of each rule that runs a model."""
    named = dict(runs.jobs(config))
    timed = [run for run in runs.settings(config, "") if run["seconds"]]
    named["measure_wallclock"] = ["/".join((run["backbone"], run["dataset"], run["policy"])) for run in timed]
    return {
        rule: sum(work.seconds(config, rule, job) for job in named[rule]) / 3600
        for rule in work.WORK
        if named.get(rule)
    }


def disk(config: Config) -> dict[str, float]:
    """Bytes: weights that are downloaded, trained heads, and the rest of the results."""
    backbones, corpus = config["backbones"], config["corpus"]
    weights = sum(work.weight_bytes(spec) for spec in backbones.values() if not spec["path"])
    trained = [job for rule in ("train_heads", "train_heads_seed") for job in runs.jobs(config)[rule]]
    heads = sum(4 * work.head_weights(config, *job.split("/")[:2]) for job in trained)
    text = (corpus["documents"] + corpus["held_out"]) * corpus["max_tokens"] * CHARACTERS
    said = corpus["held_out"] * corpus["max_tokens"] * config["head_quality"]["seeds"] * CONFIDENCE
    said *= sum(len(backbones[name]["exits"]) for name, _ in runs.measured_heads(config))
    answers = 0.0
    for name, dataset, policy in runs.runs(config):
        asked = sum(work.questions(config, dataset, split) for split in work.splits(config, name, dataset, policy))
        rows = asked * work.settings(config, name, policy)
        answers += rows * (ANSWER + ANSWER_TOKEN * config["datasets"][dataset]["max_new_tokens"])
    return {"weights to download": weights, "heads": heads, "answers": answers, "corpus and confidences": text + said}


def lines(config: Config) -> list[str]:
    """The estimate in words."""
    counted, took, taken = jobs(config), hours(config), {name: size / GB for name, size in disk(config).items()}
    kind = "GPU" if work.is_on_gpu(config) else "CPU"
    return [
        f"Estimate for {config['name']}, from nothing to the report; assumed, not measured (config key `estimate`):",
        f"  {sum(counted.values())} jobs: {_largest(counted)}",
        f"  {_short(sum(took.values()))} {kind} hours: {_largest(took)}",
        *(f"    {line}" for line in _reached(config, kind)),
        f"  {_short(sum(taken.values()))} GB of disk: {_largest(taken)}",
    ]


def _reached(config: Config, kind: str) -> list[str]:
    """How the hours come about."""
    given, rows = config["estimate"], config["batch_size"]
    whose = "an A100's data sheet" if kind == "GPU" else "what two cores of a small server have"
    found = [
        f"a step, one token of each of {rows} rows, takes the longest of reading the weights, computing, and "
        f"{given['milliseconds_per_block']:g} ms a block;",
        f"speeds are {given['utilisation']:g} of {whose}, unless the config gives others:",
    ]
    for name, spec in config["backbones"].items():
        speed, weights = work.machine(config, spec["dtype"]), work.weight_bytes(spec)
        read, compute = weights / speed.bytes, 2 * spec["parameters"] * rows / speed.flops
        found.append(
            f"  {name}: {_short(1e3 * read)} ms ({_short(weights / GB)} GB at {_short(speed.bytes / GB)} GB/s), "
            f"{_short(1e3 * compute)} ms ({_short(speed.flops / 1e12)} TFLOP/s), "
            f"{_short(1e3 * spec['depth'] * speed.block)} ms ({spec['depth']} blocks)"
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
