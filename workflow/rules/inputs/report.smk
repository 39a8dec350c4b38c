"""What the rules of report.smk need to know of a job: functions of its wildcards."""


def benchmarks():
    """The files in which Snakemake notes what each job that runs a model took, by rule."""
    backbones = [{"backbone": name} for name in EXPERIMENT.backbones]
    seeds = [{**head, "seed": seed} for head in MEASURED_HEADS for seed in SEEDS[1:]]
    shards = [{"shard": f"{k}-of-{SHARDS}"} for k in range(SHARDS)]
    jobs = {
        "fetch_backbone": backbones,
        "train_heads": [dict(zip(("backbone", "recipe"), pair)) for pair in runs.trainings(EXPERIMENT)],
        "train_heads_seed": seeds,
        "measure_heads": MEASURED_HEADS,
        "settle": backbones,
        "score_blocks": [dict(zip(("backbone", "measure"), pair)) for pair in runs.measured_blocks(EXPERIMENT)],
        "adapt": list(map(vars, runs.planned_runs(EXPERIMENT))),
        "generate": [{**vars(run), **shard} for run in RUNS for shard in shards],
    }
    return {name: each(getattr(rules, name).benchmark, wildcards) for name, wildcards in jobs.items()}
