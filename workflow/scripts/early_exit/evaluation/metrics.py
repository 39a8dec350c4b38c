"""Scores of one answer, `(prediction, references)` always in this order.

Each question set has two named profiles. `official` is what the set's own evaluation script does; `lm-eval` is what
EleutherAI's lm-evaluation-harness does (0.4.13: triviaqa 3.0, coqa 3.0, truthfulqa_gen 3.0), which may give the same
answer another number:

- TriviaQA (Joshi et al. 2017): the official script turns punctuation into spaces and drops articles; lm-eval keeps
  the answer up to the first ".", "," or line end, deletes punctuation, and keeps articles and inner white space.
- CoQA (Reddy et al. 2019): both leave one human answer out at a time; the official script keeps an answer that two
  people gave, lm-eval counts it once and reads the first line of the prediction only.
- TruthfulQA (Lin et al. 2022): both do the same.

Scales are those of the originals (`em`, `f1` and `*_acc` 0..1; BLEU and ROUGE `*_max` 0..100, `*_diff` -100..100);
`percent` brings them to the score files'. A set's `VERSION` rises with every change that changes a number in its score
files, and CHANGELOG.md says why.
"""

import re
import string
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

VERSION = {"triviaqa": 2, "coqa": 1, "truthfulqa": 1}
RULES = ("official", "lm-eval")

Scores = dict[str, float]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION_DELETED = str.maketrans("", "", string.punctuation)
_PUNCTUATION_SPACED = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))
_NO_COMMENT = "I have no comment."


def triviaqa(prediction: str, aliases: Sequence[str], *, rules: str = "official") -> Scores:
    """Exact match and token F1 against the best alias each; `em` and `f1` in 0..1.

    Officially an alias of articles and punctuation alone matches nothing, as it is missing from the set's own
    normalised aliases. lm-eval reports exact match only: under its rules `f1` is ours, over the same normalised text.
    ValueError if `rules` is unknown or there is no alias.
    """
    _check(rules, aliases=aliases)
    if rules == "official":
        answer, targets = _triviaqa_words(prediction), [words for alias in aliases if (words := _triviaqa_words(alias))]
    else:
        answer, targets = _unpunctuated(_up_to_stop(prediction)), [_unpunctuated(alias) for alias in aliases]
    return {
        "em": float(answer in targets),
        "f1": max((_overlap(answer.split(), target.split()) for target in targets), default=0.0),
    }


def coqa(prediction: str, references: Sequence[str], *, rules: str = "official") -> Scores:
    """Exact match and token F1 of one turn, averaged over leaving out each human answer; `em` and `f1` in 0..1.

    Leaving one out puts a model on the scale of the people, who can only be scored against each other. `references`
    are all human answers to the turn, repeated ones too; a single one stays in. ValueError if `rules` is unknown or
    there is no reference.
    """
    _check(rules, references=references)
    if rules == "lm-eval":
        prediction, references = prediction.strip().split("\n")[0], _distinct(references)
    answer, targets = _coqa_words(prediction), [_coqa_words(reference) for reference in references]
    return {
        "em": _leave_one_out([float(answer == target) for target in targets]),
        "f1": _leave_one_out([_coqa_f1(answer.split(), target.split()) for target in targets]),
    }


def truthfulqa(
    prediction: str, correct_answers: Sequence[str], incorrect_answers: Sequence[str], *, rules: str = "official"
) -> Scores:
    """BLEU and ROUGE-1, -2 and -L against the nearest correct and the nearest incorrect answer.

    `*_max` is the best score over the correct answers (0..100), `*_diff` that less the best over the incorrect ones
    (-100..100), `*_acc` 1 if it is strictly greater, else 0. Reference answers get a final period, and "I have no
    comment." always counts as correct. The two profiles coincide, for lm-eval took over the official BLEU and ROUGE.
    An empty prediction scores 0 as in lm-eval; the official script drops it from the mean, which rewards silence.
    ValueError if `rules` is unknown or either list is empty.
    """
    _check(rules, correct_answers=correct_answers, incorrect_answers=incorrect_answers)
    correct, incorrect = _sentences(correct_answers), _sentences(incorrect_answers)
    near = [_similarity(prediction, answer) for answer in dict.fromkeys([*correct, _NO_COMMENT])]
    far = [_similarity(prediction, answer) for answer in incorrect]
    scores = {}
    for name in near[0]:
        right, wrong = (max(similarity[name] for similarity in side) for side in (near, far))
        scores |= {f"{name}_max": right, f"{name}_diff": right - wrong, f"{name}_acc": float(right > wrong)}
    return scores


def percent(scores: Mapping[str, float]) -> Scores:
    """The same scores on the score files' scale: `em`, `f1` and `*_acc` times 100; BLEU and ROUGE already are."""
    shares = {name for name in scores if name in ("em", "f1") or name.endswith("_acc")}
    return {name: 100.0 * score if name in shares else float(score) for name, score in scores.items()}


def token_agreement(tokens: Sequence[int], reference_tokens: Sequence[int]) -> float:
    """Share (0..1) of two generations that agrees before they first differ: common prefix / length of the longer.

    Only the prefix counts: behind the first different token a greedy decoder continues another text, where equal
    tokens at equal places are chance. 1.0 if the two are equal, two empty ones included.
    """
    longest = max(len(tokens), len(reference_tokens))
    agreed = 0
    for token, reference in zip(tokens, reference_tokens, strict=False):
        if token != reference:
            break
        agreed += 1
    return agreed / longest if longest else 1.0


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L F-measure (0..1) of two texts: their longest common subsequence of words, case and punctuation apart.

    Words as in `truthfulqa`'s ROUGE, but the two texts as one sentence each. 1.0 for equal texts, also wordless ones.
    """
    if text == reference:
        return 1.0
    return float(_rouge("rougeL").score(reference, text)["rougeL"].fmeasure)


def _check(rules: str, **answers: Sequence[str]) -> None:
    if rules not in RULES:
        raise ValueError(f"unknown scoring rules {rules!r}; valid: {', '.join(RULES)}")
    for name, texts in answers.items():
        if not any(text.strip() for text in texts):
            raise ValueError(f"{name}: nothing to score against")


def _words(text: str, punctuation: Mapping) -> str:
    """Lower case, `punctuation` translated, articles dropped, single spaces: what SQuAD's heirs have in common."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(punctuation)).split())


def _triviaqa_words(text: str) -> str:
    return _words(text, _PUNCTUATION_SPACED)


def _coqa_words(text: str) -> str:
    return _words(text, _PUNCTUATION_DELETED)


def _unpunctuated(text: str) -> str:
    return text.lower().translate(_PUNCTUATION_DELETED)


def _up_to_stop(prediction: str) -> str:
    """The part lm-eval would have generated for TriviaQA, without white space around it."""
    return re.split(r"[\n.,]", prediction, maxsplit=1)[0].strip()


def _distinct(references: Sequence[str]) -> list[str]:
    """The first of each group of answers that are equal but for case."""
    first = {}
    for reference in references:
        first.setdefault(reference.lower(), reference)
    return list(first.values())


def _overlap(answer: list[str], target: list[str]) -> float:
    """Harmonic mean of precision and recall over the words in common, as multisets; 0 if there are none."""
    common = sum((Counter(answer) & Counter(target)).values())
    return 2.0 * common / (len(answer) + len(target)) if common else 0.0


def _coqa_f1(answer: list[str], target: list[str]) -> float:
    """`_overlap`, but two answers without words (a lone article, say) agree."""
    return _overlap(answer, target) if answer or target else 1.0


def _leave_one_out(scores: list[float]) -> float:
    """Mean, over each score left out, of the best of the others: the best, but once the second best."""
    best, *others = sorted(scores, reverse=True)
    return (best * len(others) + others[0]) / len(scores) if others else best


def _sentences(answers: Sequence[str]) -> list[str]:
    stripped = [answer.strip() for answer in answers]
    return [answer if answer.endswith(".") else answer + "." for answer in stripped if answer]


def _similarity(prediction: str, answer: str) -> Scores:
    """BLEU and ROUGE F-measures (0..100) of one prediction and one answer, as in T5's evaluation code."""
    bleu = _bleu().corpus_score([prediction], [[answer]]).score
    # One line per sentence is what the summary-level LCS of ROUGE-Lsum goes by.
    rouge = _rouge("rouge1", "rouge2", "rougeLsum").score(
        answer.replace(" . ", " .\n"), prediction.replace(" . ", " .\n")
    )
    f_measures = {name.removesuffix("sum"): 100.0 * score.fmeasure for name, score in rouge.items()}
    return {"bleu": bleu} | f_measures


@cache
def _bleu():
    """International tokens, exponential smoothing; all four orders count, so a short answer far off scores near 0."""
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize="intl", smooth_method="exp", effective_order=False)


@cache
def _rouge(*kinds: str):
    """Without stemming; `rougeL` takes a text as one sentence, `rougeLsum` its lines as sentences."""
    # rouge-score imports all of nltk for a stemmer, and nltk these where it finds them, for what is not used here: over
    # a second of the three that a job of a few hundred answers takes. It does without what it does not find.
    hidden = {"scipy", "sklearn"} - sys.modules.keys()
    sys.modules.update(dict.fromkeys(hidden))
    try:
        from rouge_score.rouge_scorer import RougeScorer
    finally:
        for name in hidden:
            del sys.modules[name]

    return RougeScorer(list(kinds))
