"""All policies on one dataset of one backbone: what their answers add up to, over all examples and in every resample.

A resample draws groups (CoQA's conversations, else examples), the same ones for all policies and backbones of a
dataset, and takes scores and FLOPs of the examples it drew. What is computed from the sums of a resample is paired
throughout.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd

from early_exit.base.errors import InputError
from early_exit.base.records import METRICS, evaluated_schema, read_table
from early_exit.evaluation import bootstrap

PERCENT = ("agreement", "degenerate")  # shares 0..1 in evaluated answers, here 0..100 as the metrics are
COUNTED = ("passes", "blocks", "flops", "flops_full", "flops_blocks", "flops_blocks_full")

Entries = Sequence[Mapping[str, Any]]  # entries of `runs.settings`, of one backbone and dataset


@dataclass(frozen=True)
class Curve:
    """What the answers of a policy's settings add up to on one dataset of one backbone.

    Args:
        kind: the policy's.
        head, head_kind, state_fill: the policy's, empty where it has none.
        settings: in ascending order.
        sums: by column (1 + resamples, settings): row 0 over all examples, each other row over those that a resample
            drew. Column `examples` is their number.
        adapt: how its thresholds adapt, empty where they do not.
        match: the policy whose rates it draws exits at, else empty.
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
        """Whether it is a head with one threshold, as in the paper."""
        return self.kind == "head" and not self.adapt

    def saved(self) -> np.ndarray:
        """Share of FLOPs saved on the decode passes, (1 + resamples, settings)."""
        with np.errstate(invalid="ignore"):
            return 1.0 - self.sums["flops"] / self.sums["flops_full"]

    def mean(self, column: str) -> np.ndarray:
        """Mean over examples in 0..100, (1 + resamples, settings)."""
        return self.sums[column] / self.sums["examples"] * (100.0 if column in PERCENT else 1.0)


@dataclass(frozen=True)
class ResampledRuns:
    """The curves of all policies on one dataset of one backbone, by name; `kind` is the dataset's."""

    backbone: str
    family: str
    dataset: str
    kind: str
    examples: int
    groups: int
    curves: Mapping[str, Curve]


def read_by_dataset(entries: Entries) -> Iterator[tuple[Entries, dict[str, pd.DataFrame]]]:
    """(entries, rows by policy) of one backbone and dataset after another; rows are of `records.evaluated_schema`."""
    for _, group in groupby(entries, key=lambda entry: (entry["backbone"], entry["dataset"])):
        of_dataset = list(group)
        first = of_dataset[0]
        rows = read_table(first["evaluated"], evaluated_schema(first["kind"]))
        by_policy = {name: one.reset_index(drop=True) for name, one in rows.groupby("policy")}
        missing = [entry["policy"] for entry in of_dataset if entry["policy"] not in by_policy]
        if missing:
            raise InputError(f"{first['evaluated']}: has no answer of policy {missing[0]}; delete it and run again")
        yield of_dataset, by_policy


def resample(
    entries: Entries, rows: Mapping[str, pd.DataFrame], policies: Mapping[str, str], heads: Mapping[str, str],
    *, seed: int, resamples: int,
) -> ResampledRuns:  # fmt: skip
    """The runs of one backbone and dataset, resampled.

    Args:
        entries, rows: as `read_by_dataset` returns them.
        policies, heads: the kind of each policy and head, by name.
    """
    first, curves = entries[0], {}
    # A dataset has draws of its own, the same for each backbone: examples are shared by backbones, not by datasets.
    drawing = {"seed": crc32(f"{seed}:{first['dataset']}".encode()), "resamples": resamples}
    columns = [*METRICS[first["kind"]], *PERCENT, *COUNTED]
    full = _group_by_example(rows["full"])
    for entry in entries:
        name, head = entry["policy"], entry["head"] or ""
        if not all(_group_by_example(same).equals(full) for _, same in rows[name].groupby("setting")):
            raise InputError(
                f"{entry['evaluated']}: policy {name} has not the examples of policy full; delete it and run again"
            )
        settings, sums = _resampled_sums(rows[name], columns, **drawing)
        curves[name] = Curve(
            policy=name,
            kind=policies[name],
            head=head,
            head_kind=heads.get(head, ""),
            state_fill=entry["state_fill"] or "",
            settings=settings,
            sums=sums,
            adapt=entry.get("adapt") or "",
            match=entry.get("match") or "",
        )
    names = {key: first[key] for key in ("backbone", "family", "dataset", "kind")}
    return ResampledRuns(**names, examples=len(full), groups=full.nunique(), curves=curves)


def _group_by_example(rows: pd.DataFrame) -> pd.Series:
    """The group of each example, by example."""
    return rows.set_index("example_id")["group_id"].sort_index()


def _resampled_sums(
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
