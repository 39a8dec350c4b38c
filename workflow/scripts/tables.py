"""Rule tables: the results, exits, training and settling tables of all runs."""

from pathlib import Path

import pandas as pd

from early_exit.base import files, job, records
from early_exit.evaluation import tables

NAMES = ("backbone", "family", "dataset", "kind", "policy", "head", "state_fill")


def read_run(entry: dict) -> tables.ScoredRun:
    """The run of one entry of `params.settings`, with its hand-over files read."""
    seconds = records.read_csv(entry["seconds"]).set_index("setting") if entry["seconds"] else None
    return tables.ScoredRun(
        **{name: entry[name] or "" for name in NAMES},
        generations=records.read_table(entry["run"], records.GENERATIONS),
        scores=records.read_table(entry["scores"], records.scores_schema(entry["kind"])),
        flops=records.read_table(entry["flops"], records.FLOPS),
        seconds=None if seconds is None else seconds["seconds_per_token"].to_dict(),
    )


with job.logged(snakemake) as log:
    params, output, results, exits = snakemake.params, snakemake.output, [], []
    for entry in job.progress(params.settings, len(params.settings), "runs"):
        run = read_run(entry)
        results.append(tables.results(run, preset=params.preset, seed=params.seed, **params.bootstrap))
        exits.append(tables.exits(run))
    results, chosen = pd.concat(results, ignore_index=True), records.read_thresholds(snakemake.input.thresholds)
    results = tables.with_oracle_share(tables.with_calibration(results, chosen), params.oracles)
    training = {Path(path).parts[-3:-1]: records.read_csv(path) for path in snakemake.input.training}
    settle = pd.concat(map(records.read_csv, snakemake.input.settle))
    frames = {"results": results, "exits": pd.concat(exits), "training": tables.training(training), "settle": settle}
    for name, frame in frames.items():
        records.write_csv(frame, output[name])
    with files.whole_file(output.tex) as path:
        path.write_text(tables.to_latex(results), encoding="utf-8")
    log.info("%d settings of %d runs", len(results), len(exits))
