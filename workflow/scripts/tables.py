"""Rule tables: the results, exits, training and settling tables of all runs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from early_exit.base import files, job, records
from early_exit.evaluation import resampled, tables

NAMES = ("backbone", "family", "dataset", "kind", "policy", "head", "state_fill")


def scored_runs(entries: Sequence[Mapping[str, Any]]) -> Iterator[tables.ScoredRun]:
    """The runs of `params.settings` with their rows of the hand-over files, which hold all runs of a dataset."""
    for of_dataset, evaluated in resampled.read_by_dataset(entries):
        first = of_dataset[0]
        answers = dict(list(records.read_answers(first["answers"]).groupby("policy")))
        timed = records.read_csv(first["seconds"]) if first["seconds"] else None
        for entry in of_dataset:
            name = entry["policy"]
            seconds = None if timed is None else timed[timed["policy"] == name].set_index("setting")
            yield tables.ScoredRun(
                **{key: entry[key] or "" for key in NAMES},
                generations=answers[name].reset_index(drop=True),
                evaluated=evaluated[name],
                seconds=None if seconds is None else seconds["seconds_per_token"].to_dict(),
            )


with job.logged(snakemake) as log:
    params, output, results, exits = snakemake.params, snakemake.output, [], []
    for run in job.progress(scored_runs(params.settings), len(params.settings), "runs"):
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
