import pandas as pd
import pytest

from early_exit.base import records
from early_exit.base.errors import InputError
from early_exit.evaluation import metrics
from early_exit.evaluation.scoring import score_run
from scored_answers import answer, examples

SEA = ["The sea is blue"], ["The sea is green"]


FULL = pd.DataFrame([answer("x", "blue river", [5, 6, 7]), answer("y", "sea", [8, 7])])
RUN = pd.DataFrame(
    [
        answer("y", "sea", [8, 7], 0.9),
        answer("x", "Blue River", [5, 9, 7, 7], 0.9, degenerate=True),
        answer("x", "river", [6, 7], 0.5),
        answer("y", "", [], 0.5),
    ],
    index=[3, 1, 7, 5],
)


def test_a_row_for_each_answer_in_the_order_of_the_run():
    scores = score_run(RUN, FULL, examples("x", "y"), kind="triviaqa")
    expected = records.evaluated_schema("triviaqa").names
    assert [*scores.columns, *records.COSTS] == expected
    assert scores.example_id.tolist() == ["y", "x", "x", "y"] and scores.index.tolist() == [3, 1, 7, 5]
    assert scores.group_id.tolist() == ["story of y", "story of x", "story of x", "story of y"]
    assert scores.setting.tolist() == [0.9, 0.9, 0.5, 0.5]
    assert scores.em.tolist() == [0, 100, 0, 0]
    assert scores.f1.tolist() == pytest.approx([0, 100, 200 / 3, 0])
    assert scores.agreement.tolist() == [True, False, False, False]  # to the letter
    assert scores.token_agreement.tolist() == [1, 1 / 4, 0, 0]
    assert scores.rougeL_full.tolist() == pytest.approx([1, 1, 2 / 3, 0])
    assert set(scores.rules) == {"official"} and set(scores.score_version) == {metrics.VERSION["triviaqa"]}
    assert scores.degenerate.tolist() == [False, True, False, False]
    assert scores.tokens.tolist() == [2, 4, 2, 0]


def test_the_full_model_agrees_with_itself():
    scores = score_run(FULL, FULL, examples("x", "y"), kind="coqa")
    assert scores.agreement.all()
    assert (scores.token_agreement == 1).all() and (scores.rougeL_full == 1).all()


def test_truthfulness_and_rules_are_passed_on():
    data = examples("x", "y", references=SEA[0], incorrect=SEA[1])
    scores = score_run(pd.DataFrame([answer("x", "The sea is blue.", [1])]), FULL, data, kind="truthfulqa")
    assert [*scores.columns, *records.COSTS] == records.evaluated_schema("truthfulqa").names
    assert scores.bleu_max[0] == pytest.approx(100)
    assert scores.bleu_acc[0] == 100
    run = pd.DataFrame([answer("x", "blue river. Yes", [1])])
    assert score_run(run, FULL, examples("x"), kind="triviaqa").em[0] == 0
    assert score_run(run, FULL, examples("x"), kind="triviaqa", rules="lm-eval").em[0] == 100
    with pytest.raises(ValueError, match="valid: official, lm-eval"):
        score_run(run, FULL, examples("x"), kind="triviaqa", rules="none")
    with pytest.raises(ValueError, match="'squad'; valid: triviaqa, coqa, truthfulqa"):
        score_run(run, FULL, examples("x"), kind="squad")


def test_equal_answers_to_an_example_are_scored_once(monkeypatch):
    scored = []

    def count(prediction, references, *, rules):
        scored.append(prediction)
        return {"em": 0.0, "f1": 0.0}

    monkeypatch.setattr(metrics, "coqa", count)
    run = pd.concat([RUN, pd.DataFrame([answer("x", "sea", [8, 7])]), RUN])
    assert len(score_run(run, FULL, examples("x", "y"), kind="coqa")) == 9
    assert sorted(scored) == ["", "Blue River", "river", "sea", "sea"]


def test_examples_that_do_not_match_are_named():
    with pytest.raises(InputError, match="example y of this run is not in the dataset"):
        score_run(RUN, FULL, examples("x"), kind="triviaqa")
    with pytest.raises(InputError, match="example y of this run is not in the full model's run"):
        score_run(RUN, FULL[:1], examples("x", "y"), kind="triviaqa")
    with pytest.raises(InputError, match="example x is in the full model's run more than once"):
        score_run(RUN, pd.concat([FULL, FULL]), examples("x", "y"), kind="triviaqa")
    with pytest.raises(InputError, match="example y: no reference answers"):
        score_run(RUN, FULL, examples("x", "y", references=()), kind="triviaqa")
    with pytest.raises(InputError, match="example y: no reference answers"):
        score_run(RUN, FULL, examples("x", "y"), kind="truthfulqa")
