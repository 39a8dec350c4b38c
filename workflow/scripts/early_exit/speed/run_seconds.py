"""Seconds per generated token of policies at their settings, measured apart from the answers themselves.

The protocol, which a report should state with the numbers:

- The first examples of the test split (with their conversations' gold history where there is one) are answered whole,
  at one setting a call, with as many rows at once as the run's own jobs have (`batch_size`, or all examples).
- A call with one new token measures the time of the prompts. Seconds per token are the whole call's less that, over the
  decode passes: the tokens after each answer's first. `flops_per_token` counts the same passes.
- A round is a call of each setting, and of its prompts alone. After a round that does not count, the median of the
  differences within rounds is reported. The job takes all cores of the run, so that no other job runs beside it.

The seconds hold for the hardware, dtype and threads that the provenance page names, and differ from time to time.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import pandas as pd

from early_exit.base.errors import InputError
from early_exit.data.conversations import Rounds
from early_exit.decoding.answer import Answerer, Column
from early_exit.speed.interleaved import Case, Probe, TimedAnswer, interleave

COLUMNS = ("policy", "setting", "seconds_per_token", "seconds_per_token_low", "seconds_per_token_high",
           "prompt_seconds", "tokens", "examples", "repeats")  # fmt: skip


def measure(
    answerer: Answerer, examples: pd.DataFrame, columns: Sequence[Column], *, repeats: int, probe: Probe,
    clock: Callable[[], float] = time.perf_counter,
) -> pd.DataFrame:  # fmt: skip
    """Time policies at their settings; a frame with COLUMNS, a row each: median, least and most over the repeats.

    Where no answer has a second token there was nothing to time, and the seconds are NaN. `prompt_seconds` is the
    prompts' whole call.
    """
    if examples.empty:
        raise InputError("config key 'wallclock.examples': the test split has no examples to time; raise examples.test")
    first = replace(answerer.rules, stop=replace(answerer.rules.stop, max_new_tokens=1))
    cases = {}
    for column in columns:
        prompts = _case(replace(answerer, rules=first), examples, column, None)
        cases[column] = _case(answerer, examples, column, prompts)
    every = [one for case in cases.values() for one in (case.prefill, case)]
    interleave(every, 1, probe, clock)
    measured = interleave(every, repeats, probe, clock)
    rows = []
    for column, case in cases.items():
        record, before = measured[case], measured[case.prefill].seconds
        passes = record.tokens - len(record.answers)
        each = [(took - prompt) / passes if passes else float("nan")
                for took, prompt in zip(record.seconds, before, strict=True)]  # fmt: skip
        row = (*column, median(each), min(each), max(each), median(before), record.tokens, len(record.answers), repeats)
        rows.append(dict(zip(COLUMNS, row, strict=True)))
    return pd.DataFrame(rows)


def _case(answerer: Answerer, examples: pd.DataFrame, column: Column, prefill: Case | None) -> Case:
    """Answers for one column as a case: those of the first round, whose prompts hold no answers of the model."""

    def call() -> list[TimedAnswer]:
        prompts = next(iter(Rounds(examples, [column])))
        answers = sorted((row for _, row in answerer(prompts)), key=lambda row: row.example_id)
        return [TimedAnswer(row.prompt_tokens, tuple(row.exit_blocks)) for row in answers]

    return Case("ours", "wallclock", len(examples), call, lambda answers: float("nan"), prefill)
