"""Risks: what an early exit may cost, as a loss in [0, 1] of each answer and of each independent unit.

- `disagreement`: 1 if the text differs from the full model's.
- `metric-drop`: how far the dataset's main metric lies below the full model's on the same question; 0 if above.
- `degenerate`: 1 if the answer ran into a repetition loop. The full model itself may have a risk above 0 here.

The turns of one CoQA conversation are not independent, so a bound on independent losses does not hold for single turns.
The unit is therefore the one that the bootstrap resamples: the conversation in CoQA, else the example. A unit's loss is
the mean of its answers' losses, a risk is the mean over units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from early_exit.base.errors import InputError
from early_exit.base.records import MAIN_METRIC

RISKS = ("disagreement", "metric-drop", "degenerate")
NOT_OF_FULL = ("disagreement", "metric-drop")  # the full model has none of these
WORK = ("flops", "flops_full")
GRADED = ("coqa",)  # kinds of datasets whose main metric takes values between its two ends


@dataclass(frozen=True)
class UnitLosses:
    """Losses and compute of some units at a policy's settings. All arrays but `groups` are (units, settings).

    Args:
        settings: in the order of the columns.
        groups: (units,) the units' names.
        losses: in [0, 1], by risk.
        flops, flops_full: of the decode passes, and of the full model on the same tokens (`records.FLOPS`).
        binary: by risk, whether a unit's loss can only be 0 or 1.
    """

    settings: tuple[float, ...]
    groups: np.ndarray
    losses: Mapping[str, np.ndarray]
    flops: np.ndarray
    flops_full: np.ndarray
    binary: Mapping[str, bool]


def answer_losses(rows: pd.DataFrame, full: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Losses and compute of answers: `policy, example_id, group_id, setting`, RISKS and WORK, a row per row of `rows`.

    `rows` and `full` are frames of `records.evaluated_schema(kind)`, `full` of the full model on the same examples.
    InputError for an example that the full model did not answer.
    """
    metric = MAIN_METRIC[kind]  # 0..100 in evaluated answers
    reference = rows["example_id"].map(full.set_index("example_id")[metric])
    if reference.isna().any():
        example = rows["example_id"][reference.isna()].iloc[0]
        raise InputError(f"example {example} is not in the full model's run; delete the answers and run again")
    values = [
        1.0 - rows["agreement"].astype(float),
        (reference - rows[metric]).clip(lower=0.0) / 100.0,
        rows["degenerate"].astype(float),
    ]
    keys = ["policy", "example_id", "group_id", "setting", *WORK]
    return rows[keys].assign(**dict(zip(RISKS, values, strict=True)))


def unit_losses(rows: pd.DataFrame, settings: Sequence[float], kind: str) -> UnitLosses:
    """The units of some rows of `records.LOSSES` at these settings; `kind` is the dataset's.

    InputError if a unit lacks an answer that it has at another setting.
    """
    rows = rows[rows["setting"].isin(settings)]
    columns = [*RISKS, *WORK, "answers"]
    tables = rows.assign(answers=1.0).pivot_table(
        index="group_id", columns="setting", values=columns, aggfunc="sum", sort=True
    )
    sums = {name: tables[name].reindex(columns=list(settings)).to_numpy(dtype=float) for name in columns}
    answers = sums["answers"]
    if not (answers == answers[:, :1]).all():  # a setting that is missing is NaN, which equals nothing
        raise InputError("a run has different questions at different settings; delete it and run again")
    is_single = bool((answers == 1.0).all())
    binary = {risk: is_single and not (risk == "metric-drop" and kind in GRADED) for risk in RISKS}
    means = {risk: np.clip(sums[risk] / answers, 0.0, 1.0) for risk in RISKS}
    return UnitLosses(
        settings=tuple(settings),
        groups=tables.index.to_numpy(),
        losses=means,
        flops=sums["flops"],
        flops_full=sums["flops_full"],
        binary=binary,
    )
