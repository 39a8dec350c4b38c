"""Scores of answers: metrics against the references, and agreement with the full model."""

from functools import cache

import pandas as pd

from early_exit.base.errors import InputError
from early_exit.base.job import progress
from early_exit.base.records import COSTS, METRICS, evaluated_schema
from early_exit.evaluation import metrics


def score_run(
    run: pd.DataFrame, full: pd.DataFrame, examples: pd.DataFrame, *, kind: str, rules: str = "official"
) -> pd.DataFrame:
    """Returns one row per row of `run`, with its index: the columns of `records.evaluated_schema(kind)` but for COSTS.

    Every row is scored, empty and degenerate answers too.

    Args:
        run: answers, rows of `records.GENERATIONS`.
        full: the full model's answers on the same backbone and dataset, one row per example.
        examples: rows of `records.EXAMPLES`.
        kind: the dataset's kind, a key of `records.METRICS`.
        rules: scoring rules, one of `metrics.RULES`.

    InputError if an example is unknown, is in `full` or `examples` twice, or has no references.
    """
    references = _by_example(examples, "the dataset")
    oracle = _by_example(full, "the full model's run")

    @cache  # different settings often give the same answer
    def score(example_id: str, text: str) -> metrics.Scores:
        example = _look_up(references, example_id, "the dataset")
        reference = _look_up(oracle, example_id, "the full model's run")
        scores = score_answer(text, example, kind=kind, rules=rules)
        return scores | {"agreement": text == reference.text, "rougeL_full": metrics.rouge_l(text, reference.text)}

    rows = [
        {
            "policy": row.policy,
            "example_id": row.example_id,
            "setting": row.setting,
            **score(row.example_id, row.text),
            "group_id": references[row.example_id].group_id,
            "token_agreement": metrics.token_agreement(row.token_ids, oracle[row.example_id].token_ids),
            "degenerate": row.degenerate,
            "tokens": len(row.token_ids),
            "rules": rules,
            "score_version": metrics.VERSION[kind],
        }
        for row in progress(run.itertuples(index=False), len(run), "answers scored")
    ]
    columns = [name for name in evaluated_schema(kind).names if name not in COSTS]
    return pd.DataFrame(rows, columns=columns, index=run.index)


def score_answer(text: str, example, *, kind: str, rules: str = "official") -> metrics.Scores:
    """Returns the metrics `records.METRICS[kind]` of one answer to `example`, a row of `records.EXAMPLES`, in 0..100.

    InputError if the example has no references, ValueError if `rules` or `kind` is unknown.
    """
    if not example.references or (kind == "truthfulqa" and not example.incorrect):
        raise InputError(
            f"example {example.example_id}: no reference answers to score against; add them to the dataset"
        )
    if kind == "triviaqa":
        scores = metrics.triviaqa(text, example.references, rules=rules)
    elif kind == "coqa":
        scores = metrics.coqa(text, example.references, rules=rules)
    elif kind == "truthfulqa":
        scores = metrics.truthfulqa(text, example.references, example.incorrect, rules=rules)
    else:
        raise ValueError(f"unknown dataset kind {kind!r}; valid: {', '.join(METRICS)}")
    return metrics.percent(scores)


def _by_example(frame: pd.DataFrame, where: str) -> dict:
    twice = frame.example_id[frame.example_id.duplicated()]
    if len(twice):
        raise InputError(f"example {twice.iloc[0]} is in {where} more than once; delete that file and run again")
    return {row.example_id: row for row in frame.itertuples(index=False)}


def _look_up(rows: dict, example_id: str, where: str):
    if example_id not in rows:
        raise InputError(f"example {example_id} of this run is not in {where}; delete the run's files and run again")
    return rows[example_id]
