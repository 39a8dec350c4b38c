"""What the runs on one dataset of one backbone add up to, over all examples and over every resample of them.

Every resample draws groups (CoQA's conversations, else examples), once for all policies and backbones of a dataset,
and takes scores and FLOPs of the examples it drew: what is computed from the sums of a resample is paired throughout.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd

from early_exit.base.errors import InputError
from early_exit.base.records import FLOPS, METRICS, read_table, scores_schema
from early_exit.evaluation import bootstrap

PERCENT = ("agreement", "degenerate")  # shares 0..1 in a score file, here 0..100 as the metrics are
COUNTED = ("passes", "blocks", "flops", "flops_full", "flops_blocks", "flops_blocks_full")

Runs = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Curve:
    """What a policy's settings add up to on one dataset of one backbone.

    `kind` is the policy's, `head_kind` its head's, `adapt` how its thresholds adapt, `match` the policy that it draws
    exits from; these and `head`, `state_fill` are empty where it has none. `sums` are by column (1 + resamples,
    settings): row 0 over all examples, each other over those that a resample drew; `examples` is the column of their
    numbers. Settings are in the order of `settings`.
    """

    policy: str
    kind: str
    head: str
    head_kind: str
    state_fill: str
    settings: tuple[float, ...]
    sums: Mapping[str, np.ndarray]
    adapt: str = ""
    match: str = ""

    @property
    def is_head(self) -> bool:
        """Whether it is a head with one threshold, as the paper has them."""
        return self.kind == "head" and not self.adapt

    def saved(self) -> np.ndarray:
        """Share of FLOPs saved on the decode passes, (1 + resamples, settings)."""
        with np.errstate(invalid="ignore"):
            return 1.0 - self.sums["flops"] / self.sums["flops_full"]

    def mean(self, column: str) -> np.ndarray:
        """Mean over examples in 0..100, (1 + resamples, settings)."""
        return self.sums[column] / self.sums["examples"] * (100.0 if column in PERCENT else 1.0)


@dataclass(frozen=True)
class Cell:
    """All policies on one dataset of one backbone; `kind` is the dataset's."""

    backbone: str
    family: str
    dataset: str
    kind: str
    examples: int
    groups: int
    curves: Mapping[str, Curve]


def read(settings: Runs) -> Iterator[tuple[Runs, dict[str, pd.DataFrame]]]:
    """(runs, rows by policy) of one backbone and dataset after another; `settings` are those of `layout.settings`."""
    for _, runs in groupby(settings, key=lambda run: (run["backbone"], run["dataset"])):
        runs = list(runs)
        yield runs, {run["policy"]: read_run(run) for run in runs}


def read_run(run: Mapping[str, Any]) -> pd.DataFrame:
    """Scores and FLOPs of one entry of `layout.settings`, a row per example and setting."""
    scores = read_table(run["scores"], scores_schema(run["kind"]))
    flops = read_table(run["flops"], FLOPS)
    key = ["example_id", "setting"]
    rows = scores.merge(flops, how="outer", on=key, validate="one_to_one", indicator=True)
    if (rows["_merge"] != "both").any():
        raise InputError(f"{run['scores']}: other rows than in flops.parquet beside it; delete both and run again")
    return rows.drop(columns="_merge")


def cell(
    runs: Sequence[Mapping[str, Any]], rows: Mapping[str, pd.DataFrame], policies: Mapping[str, str],
    heads: Mapping[str, str], *, seed: int, resamples: int,
) -> Cell:  # fmt: skip
    """The cell of some runs of one backbone and dataset, `rows` by policy as `read_run` gives them."""
    first, curves = runs[0], {}
    # A dataset has draws of its own, the same for each backbone: examples are shared by backbones, not by datasets.
    drawing = {"seed": crc32(f"{seed}:{first['dataset']}".encode()), "resamples": resamples}
    full = _examples_of(rows["full"])
    for run in runs:
        name, head = run["policy"], run["head"] or ""
        if not all(_examples_of(same).equals(full) for _, same in rows[name].groupby("setting")):
            raise InputError(f"{run['scores']}: not the examples of policy full; delete runs of both and run again")
        settings, sums = _resampled(rows[name], [*METRICS[first["kind"]], *PERCENT, *COUNTED], **drawing)
        labels = (name, policies[name], head, heads.get(head, ""), run["state_fill"] or "")
        curves[name] = Curve(*labels, settings, sums, run.get("adapt") or "", run.get("match") or "")
    counts = {"examples": len(full), "groups": full.nunique()}
    return Cell(*(first[key] for key in ("backbone", "family", "dataset", "kind")), **counts, curves=curves)


def _examples_of(rows: pd.DataFrame) -> pd.Series:
    """The group of each example, by example."""
    return rows.set_index("example_id")["group_id"].sort_index()


def _resampled(
    rows: pd.DataFrame, columns: Sequence[str], *, seed: int, resamples: int
) -> tuple[tuple[float, ...], dict[str, np.ndarray]]:
    """Settings in order, and by column the sums over examples at each: (1 + resamples, settings)."""
    columns = [*columns, "examples"]
    rows = rows.assign(examples=1.0).astype(dict.fromkeys(columns, float))
    by_group = rows.pivot_table(index="group_id", columns="setting", values=columns, aggfunc="sum", sort=True)
    drawn = bootstrap.draws(seed, len(by_group), resamples)
    sums = {}
    for name in columns:
        table = by_group[name].to_numpy()
        sums[name] = np.vstack([table.sum(axis=0), drawn @ table])
    return tuple(by_group["examples"].columns), sums
