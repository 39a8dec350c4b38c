"""Scores and costs of answers that were decoded in several number formats."""

from collections.abc import Mapping

import pandas as pd

from early_exit.base.records import MAIN_METRIC
from early_exit.evaluation.evaluate import Yardstick, evaluate
from early_exit.evaluation.precision import REFERENCE
from early_exit.experiment.config.policies import Policy


def evaluate_formats(
    answers: pd.DataFrame, examples: pd.DataFrame, policies: Mapping[str, Policy], yardstick: Yardstick
) -> pd.DataFrame:
    """`evaluate` for the answers of each format, with the columns `format`, `changed` and `metric`.

    Agreement is with the full model in the same format; `changed` says whether the text is another than in float32.
    """
    key = ["policy", "example_id", "setting"]
    exact = answers[answers["format"] == REFERENCE].set_index(key)["text"]
    frames = []
    for name, rows in answers.groupby("format", sort=False):
        rows = rows.reset_index(drop=True)
        text = exact.loc[pd.MultiIndex.from_frame(rows[key])].to_numpy()
        frame = evaluate(rows, examples, policies, yardstick)
        frames.append(frame.assign(format=name, changed=rows["text"].to_numpy() != text))
    joined = pd.concat(frames, ignore_index=True)
    return joined.assign(metric=joined[MAIN_METRIC[yardstick.kind]])
