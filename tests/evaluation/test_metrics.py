import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from early_exit.base.records import METRICS
from early_exit.evaluation import metrics

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"


def golden(name):
    path = GOLDEN / name
    if not path.exists():
        pytest.skip(f"{name} is not on this machine")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def assert_agrees(scores, case, kind):
    assert set(scores) == set(METRICS[kind])
    for name, score in scores.items():
        assert score == pytest.approx(case[name], abs=1e-6), (name, case)


# --- agreement with the original scorers -----------------------------------------------------------------------------


def test_triviaqa_agrees_with_the_official_script():
    for case in golden("triviaqa_official.jsonl"):
        assert_agrees(metrics.triviaqa(case["prediction"], case["aliases"]), case, "triviaqa")


def test_coqa_agrees_with_the_official_script():
    for case in golden("coqa_official.jsonl"):
        assert_agrees(metrics.coqa(case["prediction"], case["references"]), case, "coqa")


def test_coqa_agrees_with_lm_eval():
    for case in golden("coqa_lmeval.jsonl"):
        assert_agrees(metrics.coqa(case["prediction"], case["references"], rules="lm-eval"), case, "coqa")


@pytest.mark.parametrize("rules", metrics.RULES)
def test_truthfulqa_agrees_with_lm_eval_under_both_rules(rules):
    for case in golden("truthfulqa_lmeval.jsonl"):
        answers = case["correct_answers"], case["incorrect_answers"]
        assert_agrees(metrics.truthfulqa(case["prediction"], *answers, rules=rules), case, "truthfulqa")


# --- cases worked out by hand ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "aliases", "em", "f1"),
    [
        ("the Blue River", ["Blue River"], 1, 1),
        ("blue-river!", ["Blue River"], 1, 1),  # punctuation becomes a space
        ("bluerivers", ["Blue River"], 0, 0),
        ("O’Neil", ["o neil"], 1, 1),  # so do typographic quotation marks
        ("River", ["Blue River", "Green River Bank"], 0, 2 / 3),
        ("river blue", ["Blue River"], 0, 1),
        ("blue blue", ["Blue River"], 0, 1 / 2),  # a word counts as often as both have it
        ("Blue River, I think", ["Blue River"], 0, 2 * 2 / (4 + 2)),
        ("", ["Blue River"], 0, 0),
        ("A", ["The A", "Blue"], 0, 0),  # an alias without words matches nothing
        ("A", ["The A"], 0, 0),
    ],
)
def test_triviaqa_official(prediction, aliases, em, f1):
    assert metrics.triviaqa(prediction, aliases) == pytest.approx({"em": em, "f1": f1})


@pytest.mark.parametrize(
    ("prediction", "aliases", "em"),
    [
        (" Blue River", ["blue river"], 1),
        (" Blue River. It is long", ["Blue River"], 1),  # stops at a full stop, a comma, a line end
        (" Blue River, the long one", ["Blue River"], 1),
        ("Blue River\nQuestion:", ["Blue River"], 1),
        ("the Blue River", ["Blue River"], 0),  # articles are kept
        ("blue-river", ["Blue River"], 0),  # punctuation is deleted
        ("blueriver", ["Blue-River"], 1),
        ("St. Mary", ["St. Mary"], 0),  # which its stop strings make unreachable
        (" Blue River , the long one", ["Blue River"], 1),  # white space around it goes
        ("Blue  River", ["Blue River"], 0),  # within it stays
    ],
)
def test_triviaqa_lm_eval(prediction, aliases, em):
    assert metrics.triviaqa(prediction, aliases, rules="lm-eval")["em"] == em


@pytest.mark.parametrize(
    ("rules", "prediction", "references", "em", "f1"),
    [
        ("official", "a red hat", ["The red hat."], 1, 1),  # one human answer: nobody to leave out
        ("official", "red hat", ["red hat", "hat"], 1 / 2, (2 / 3 + 1) / 2),
        ("official", "red hat", ["red hat", "a red hat", "hat"], 1, 1),  # said twice, so always among the others
        ("official", "yes", ["no", "no", "no", "no"], 0, 0),
        ("official", "yes", ["yes", "Yes", "yes.", "no"], 1, 1),
        ("lm-eval", "yes", ["yes", "Yes", "YES", "no"], 1 / 2, 1 / 2),  # counted once
        ("lm-eval", "yes", ["yes", "yes.", "no"], 1, 1),  # equal but for case, not for punctuation
        ("official", "don't", ["dont"], 1, 1),  # punctuation is deleted
        ("official", "yes\nQ: next", ["yes"], 0, 2 * 1 / (3 + 1)),
        ("lm-eval", "\nyes\nQ: next", ["yes"], 1, 1),
        ("official", "the", ["a"], 1, 1),  # no words on either side
        ("official", "", ["yes"], 0, 0),
    ],
)
def test_coqa(rules, prediction, references, em, f1):
    assert metrics.coqa(prediction, references, rules=rules) == pytest.approx({"em": em, "f1": f1})


def test_truthfulqa_of_one_wrong_word():
    scores = metrics.truthfulqa("The sea is green.", ["The sea is blue"], ["The sea is green"])
    # Of five tokens four match, of the n-grams 2/4, 1/3 and 0/2; the smoothed zero counts half of one of two.
    bleu = 100 * (4 / 5 * 2 / 4 * 1 / 3 * 1 / 4) ** (1 / 4)
    assert scores["bleu_max"] == pytest.approx(bleu)
    assert scores["bleu_diff"] == pytest.approx(bleu - 100)
    assert scores["rouge1_max"] == pytest.approx(75)
    assert scores["rouge2_max"] == pytest.approx(100 * 2 / 3)
    assert scores["rougeL_diff"] == pytest.approx(-25)
    assert {name: score for name, score in scores.items() if name.endswith("acc")} == {
        "bleu_acc": 0,
        "rouge1_acc": 0,
        "rouge2_acc": 0,
        "rougeL_acc": 0,
    }


def test_bleu_splits_every_punctuation_mark_off():
    scores = metrics.truthfulqa("The sea is “blue”.", ["The sea is blue"], ["No"])
    # Seven tokens; 5/7, 2/6, 1/5 and, smoothed, a half of 1/4 of the n-grams are in the answer.
    assert scores["bleu_max"] == pytest.approx(100 * (5 / 7 * 2 / 6 * 1 / 5 * 1 / 8) ** (1 / 4))


def test_rouge_l_compares_sentence_by_sentence():
    swapped = metrics.truthfulqa("The sea is blue . The sky is red .", ["The sky is red . The sea is blue"], ["No"])
    assert swapped["rougeL_max"] == pytest.approx(100)  # one subsequence would hold half of the words


def test_no_comment_is_always_correct():
    scores = metrics.truthfulqa("I have no comment.", ["The sea is blue"], ["The sea is green"])
    assert scores["bleu_max"] == pytest.approx(100)
    assert scores["bleu_acc"] == scores["rougeL_acc"] == 1


def test_a_tie_is_not_accurate():
    scores = metrics.truthfulqa("The sea is blue.", ["The sea is blue"], ["The sea is blue."])
    assert scores["bleu_diff"] == scores["bleu_acc"] == scores["rouge1_acc"] == 0


def test_an_empty_answer_scores_nothing():
    assert set(metrics.truthfulqa("", ["The sea is blue"], ["The sea is green"]).values()) == {0.0}


@pytest.mark.parametrize("score", [metrics.triviaqa, metrics.coqa])
def test_bad_calls_of_the_exact_metrics(score):
    with pytest.raises(ValueError, match="'squad'; valid: official, lm-eval"):
        score("yes", ["yes"], rules="squad")
    with pytest.raises(ValueError, match="nothing to score against"):
        score("yes", [])


def test_bad_calls_of_truthfulqa():
    with pytest.raises(ValueError, match="'strict'; valid: official, lm-eval"):
        metrics.truthfulqa("yes", ["yes"], ["no"], rules="strict")
    with pytest.raises(ValueError, match="incorrect_answers: nothing"):
        metrics.truthfulqa("yes", ["yes"], [" "])


# Properties.

words = st.lists(st.sampled_from(["red", "hat", "the", "a", "blue", "Sea.", "-"]), max_size=5).map(" ".join)
answers = st.lists(words.filter(str.strip), min_size=1, max_size=5)


@given(prediction=words, references=answers, rules=st.sampled_from(metrics.RULES))
def test_exact_metrics_are_shares_and_ignore_the_order_of_references(prediction, references, rules):
    for score in (metrics.triviaqa, metrics.coqa):
        scores = score(prediction, references, rules=rules)
        assert all(0 <= value <= 1 for value in scores.values())
        if rules == "official":
            assert score(prediction, references[::-1]) == scores


@given(prediction=words, references=answers.filter(lambda answers: len(answers) > 1))
def test_coqa_is_the_mean_of_the_best_of_the_others(prediction, references):
    alone = [metrics.coqa(prediction, [reference])["f1"] for reference in references]
    others = [max(alone[:left_out] + alone[left_out + 1 :]) for left_out in range(len(alone))]
    assert metrics.coqa(prediction, references)["f1"] == pytest.approx(sum(others) / len(others))


tokens = st.lists(st.integers(0, 2), max_size=6)


@given(tokens, tokens)
def test_token_agreement_is_one_only_for_equals_and_symmetric(left, right):
    agreement = metrics.token_agreement(left, right)
    assert 0 <= agreement <= 1
    assert (agreement == 1) == (left == right)
    assert agreement == metrics.token_agreement(right, left)
    shared = max(n for n in range(7) if left[:n] == right[:n] and n <= min(len(left), len(right)))
    assert agreement == (shared / max(len(left), len(right)) if left or right else 1)


@pytest.mark.parametrize(
    ("left", "right", "agreement"),
    [([], [], 1), ([], [4], 0), ([4, 5], [4, 5, 6, 7], 1 / 2), ([4, 9, 6, 7], [4, 5, 6, 7], 1 / 4), ([9], [4], 0)],
)
def test_token_agreement_counts_the_common_prefix(left, right, agreement):
    assert metrics.token_agreement(left, right) == agreement


@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [
        ("The sea is blue.", "the sea, is BLUE", 1),  # case and punctuation apart
        ("the blue sea", "the sea is blue", 2 * 2 / (3 + 4)),  # "the sea" or "the blue" in common
        ("one two three four", "four three two one", 1 / 4),
        ("a b", "c d", 0),
        ("", "a", 0),
        ("", "", 1),
        ("...", "...", 1),  # no words, but equal
        ("a\nb", "b\na", 1 / 2),  # lines are not sentences here
        ("Москва стоит на реке", "москва стоит на реке.", 1),
        ("Москва стоит", "Москва стоит на реке", 2 * 2 / (2 + 4)),
        ("今天天气很好。", "今天天气很好", 1),
        ("今天天气很好", "今天天气不好", 5 / 6),  # a word per letter, where no spaces divide words
        ("राम का", "राम की", 1 / 2),
        ("cafe\u0301", "Café.", 1),
        ("🙂", "🙂.", 1),  # no words, but equal but for punctuation
        ("🙂", "🙁", 0),
    ],
)
def test_rouge_l(text, reference, score):
    assert metrics.rouge_l(text, reference) == pytest.approx(score)


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
def test_rouge_l_is_the_longest_common_subsequence(left, right):
    """By brute force: the longest subsequence of one text that is also one of the other, over their mean length."""
    shared = {tuple(part) for n in range(len(left) + 1) for part in combinations(left, n)}
    shared &= {tuple(part) for n in range(len(right) + 1) for part in combinations(right, n)}
    longest = max(map(len, shared))
    expected = 2 * longest / (len(left) + len(right)) if left or right else 1
    assert metrics.rouge_l(" ".join(left), " ".join(right)) == pytest.approx(expected)


def test_percent_scales_shares_only():
    scores = {"em": 1.0, "f1": 0.25, "bleu_max": 12.5, "bleu_diff": -3.0, "bleu_acc": 1.0}
    assert metrics.percent(scores) == {"em": 100, "f1": 25, "bleu_max": 12.5, "bleu_diff": -3, "bleu_acc": 100}


def test_every_version_is_named_in_the_changelog():
    """As `Scores, version N: TriviaQA, CoQA`, so that two tables with different versions can be compared."""
    text = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    named = re.findall(r"Scores, version (\d+): ((?:[^\n]|\n  )*)", text)
    for kind, name in {"triviaqa": "TriviaQA", "coqa": "CoQA", "truthfulqa": "TruthfulQA"}.items():
        assert metrics.VERSION[kind] in {int(version) for version, about in named if name in about}, name
    assert set(metrics.VERSION) == set(METRICS)


def test_a_changed_number_needs_a_new_version():
    """`pinned_scores.json` has scores of the newest version; a new version replaces them."""
    pinned = json.loads((Path(__file__).parent / "pinned_scores.json").read_text(encoding="utf-8"))
    for kind, version in metrics.VERSION.items():
        assert pinned[kind]["version"] == version
        for case in pinned[kind]["cases"]:
            scores = getattr(metrics, kind)(*case["answers"], rules=case["rules"])
            assert scores == pytest.approx(case["scores"], abs=1e-9), case


def test_importing_metrics_loads_no_scorer():
    heavy = "{'sacrebleu', 'rouge_score', 'nltk', 'torch', 'transformers'}"
    code = (
        f"import sys; from early_exit.evaluation import metrics; sys.exit(' '.join({heavy} & set(sys.modules)) or None)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(metrics.__file__).parents[2], capture_output=True, check=False
    )
    assert run.returncode == 0, run.stderr
