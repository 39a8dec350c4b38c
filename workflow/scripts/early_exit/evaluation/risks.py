"""Risks: what an early exit may cost, as a loss in [0, 1] for each answer, and their means over independent units.

- `disagreement`: 1 where the text is not the full model's to the letter.
- `metric-drop`: how far the dataset's main metric lies below the full model's on the same question; 0 where above.
- `degenerate`: 1 where the answer ran into a repetition loop. Here the full model itself may have a risk above 0.

The turns of one CoQA conversation are not independent, and no bound on independent losses holds for them one by one.
The unit is therefore what the bootstrap resamples, too: the conversation, elsewhere the example. A unit's loss is the
mean of its answers', a risk the mean over units.
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
class Sample:
    """What a policy's settings did to some units; all arrays are (units, settings), settings in the order given.

    `groups` (units,) are the units' names, `losses` by risk in [0, 1], `flops` and `flops_full` what the decode passes
    took, and what they take the full model (`records.FLOPS`). `binary` says of each risk whether a unit's loss can be 0
    or 1 only.
    """

    settings: tuple[float, ...]
    groups: np.ndarray
    losses: Mapping[str, np.ndarray]
    flops: np.ndarray
    flops_full: np.ndarray
    binary: Mapping[str, bool]


def losses(scores: pd.DataFrame, full: pd.DataFrame, kind: str) -> pd.DataFrame:
    """`example_id, group_id, setting` and a column for each of RISKS, a row per row of `scores`.

    `scores` and `full` are frames of `records.scores_schema(kind)`, `full` of the full model on the same examples.
    InputError for an example that is not among the full model's.
    """
    metric = MAIN_METRIC[kind]  # 0..100 in score files
    reference = scores["example_id"].map(full.set_index("example_id")[metric])
    if reference.isna().any():
        example = scores["example_id"][reference.isna()].iloc[0]
        raise InputError(f"example {example} is not in the full model's run; delete both runs and run again")
    values = [
        1.0 - scores["agreement"].astype(float),
        (reference - scores[metric]).clip(lower=0.0) / 100.0,
        scores["degenerate"].astype(float),
    ]
    keys = ["example_id", "group_id", "setting"]
    return scores[keys].assign(**dict(zip(RISKS, values, strict=True)))


def sample(rows: pd.DataFrame, settings: Sequence[float], kind: str) -> Sample:
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
    if not (answers == answers[:, :1]).all():  # NaN, a setting that is not there, equals nothing
        raise InputError("a run has not the same questions at each of its settings; delete it and run again")
    is_single = bool((answers == 1.0).all())
    binary = {risk: is_single and not (risk == "metric-drop" and kind in GRADED) for risk in RISKS}
    means = {risk: np.clip(sums[risk] / answers, 0.0, 1.0) for risk in RISKS}
    return Sample(tuple(settings), tables.index.to_numpy(), means, sums["flops"], sums["flops_full"], binary)
