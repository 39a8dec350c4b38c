"""Seconds per token: the protocol, on a clock of ours."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pandas as pd
import pytest

from early_exit.base.errors import InputError
from early_exit.decoding.answer import Rules
from early_exit.decoding.requests import Generation, Request
from early_exit.speed import interleaved, run_seconds
from engine import Length
from pruned_answers import PRUNED, job
from timing import Silent, clock_of

EXAMPLES = pd.DataFrame({"example_id": ["a", "b"], "conversation_id": ["a", "b"], "turn": 0, "prompt": ["x", "y"],
                         "prompt_parts": [[], []]})  # fmt: skip
COLUMNS = [("calm", 0.5), ("ffn", 0.9)]


@dataclass(frozen=True)
class Three:
    """Answers every prompt with three tokens, or as many as its rules allow."""

    rules: Rules = Rules(Length(3), "refuse", 1.0)  # noqa: RUF009
    calls: list = field(default_factory=list)

    def __call__(self, prompts):
        length = self.rules.stop.max_new_tokens
        self.calls.append(([prompt.example_id for prompt in prompts], prompts[0].columns, length))
        for prompt in prompts:
            tokens = [7] * min(3, length)
            ((policy, setting),) = prompt.columns
            request = Request(prompt.example_id, [7] * 5, [setting])
            yield policy, Generation(request, setting, tokens, [6] * len(tokens), stop_reason="length")


def test_prompts_and_a_first_round_do_not_count_and_the_median_does():
    answerer = Three()
    warm_up = [90, 90, 90, 90]
    rounds = [1, 9, 2, 6, 2, 12, 2, 6, 1, 5, 2, 6]  # prompts, whole; at 0.5, then at 0.9; three times
    clock = clock_of(warm_up + rounds)
    found = run_seconds.measure(answerer, EXAMPLES, COLUMNS, repeats=3, probe=Silent(), clock=clock)
    assert list(found.columns) == list(run_seconds.COLUMNS)
    assert found["policy"].tolist() == ["calm", "ffn"] and found["setting"].tolist() == [0.5, 0.9]
    assert found["tokens"].tolist() == [6, 6] and found["examples"].tolist() == [2, 2]
    assert found["seconds_per_token"].tolist() == [2.0, 1.0]  # 8 and 4 seconds over two answers' two passes
    assert found.loc[0, ["seconds_per_token_low", "seconds_per_token_high", "prompt_seconds"]].tolist() == [1.0, 2.5, 1]
    assert answerer.calls[:4] == [(["a", "b"], (t,), n) for t in COLUMNS for n in (1, 3)]


def test_answers_of_one_token_have_no_seconds_per_token():
    answerer = Three(Rules(Length(1), "refuse", 1.0))
    found = run_seconds.measure(answerer, EXAMPLES, COLUMNS[:1], repeats=1, probe=Silent(), clock=clock_of([1] * 4))
    assert found["seconds_per_token"].isna().all()


def test_nothing_to_time_is_refused():
    with pytest.raises(InputError, match=r"wallclock\.examples"):
        run_seconds.measure(SimpleNamespace(), EXAMPLES[:0], COLUMNS, repeats=1, probe=Silent())


@pytest.mark.slow
def test_the_policies_of_a_job_are_timed_at_all_their_settings(tmp_path):
    """As rule measure_wallclock does it, on a real clock."""
    policies = {"full": {"kind": "full"}, "pruned": PRUNED, "drafts": {"kind": "self-speculative", "draft_tokens": [2]}}
    this = job(tmp_path, "own", policies=policies)
    answerer = this.answerer(4000)
    found = run_seconds.measure(
        answerer, this.examples.head(2), this.columns, repeats=1, probe=interleaved.Probe(answerer.device)
    )
    assert list(zip(found["policy"], found["setting"], strict=True)) == this.columns
    assert this.columns == [("full", 1.0), ("pruned", 2.0), ("pruned", 6.0), ("drafts", 2.0)]
    assert (found["examples"] == 1).all() and (found["prompt_seconds"] > 0).all()  # of two turns only the first
