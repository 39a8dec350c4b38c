"""How good exit heads are, as numbers on arrays: ranking, calibration, and what may leave at a fixed error.

There are two truths. The *label* is what a head was trained on (see `heads.targets`); AUROC, average precision,
calibration and accuracy compare the confidence with it. *Agreement* is what counts in the end: whether the exit's most
probable token is the full model's.

*Disagreement* at a threshold is the share of ALL tokens that leave and do not agree. Tokens that stay always agree, so
this is the share of tokens on which a model with exits differs from the full model, the complement of the results
table's agreement, and an error budget has the same meaning for every head and exit. The other reading, disagreement
among those that left, is one minus the precision: "at the same error" it lets a head that releases nearly everything
make far more errors than a careful one, and where little leaves it rests on a handful of tokens.

The threshold for an error is chosen on one half of the documents, as the smallest that keeps to the error there, and
what leaves is measured on the other half; then the halves change places. A threshold measured on the tokens it was
chosen on would look better than it is. The disagreement on the other half is measured too, and may lie on either side
of the target.

Intervals: whole documents are drawn with replacement within each half, thresholds are chosen anew on each draw, and
values are means over training seeds. To each draw of the mean is added a draw of its error over seeds, s / sqrt(S)
times Student's t with S - 1 degrees of freedom: the distribution that Behrens and Fisher gave the sum. With few seeds
that differ much, the interval is wide.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np

from early_exit.base.errors import InputError

ERRORS = {"1": 0.01, "5": 0.05}  # the errors that savings are measured at, by their name in column names
CALIBRATION_BINS = 15  # of equal width, as in Guo et al. 2017
METRICS = (
    "positive_rate", "accuracy", "auroc", "average_precision", "ece",
    *(f"{what}_at_{error}" for error in ERRORS for what in ("leave", "disagree", "saved")),
)  # fmt: skip
# Draws of documents see scores in this many groups of neighbours, so that they cost the same for any number of tokens;
# the values themselves are exact. A group holds 1/1024 of the distinct scores, far less than any interval's width.
SCORE_GROUPS = 1024


@dataclass(frozen=True)
class HeldOutTokens:
    """The tokens that heads were measured on. `label` and `agreement` are (exits, tokens), `document` (tokens,)."""

    document: np.ndarray  # index of each token's document
    label: np.ndarray
    agreement: np.ndarray
    exits: tuple[int, ...]  # blocks, ascending
    depth: int
    half: np.ndarray  # (documents,) 0 or 1: on which half the thresholds for the other are chosen

    @property
    def documents(self) -> int:
        return len(self.half)


@dataclass(frozen=True)
class ResampledStatistic:
    """A statistic: its value for each training seed (seeds,), and its mean over seeds on each draw of documents
    (draws,)."""

    values: np.ndarray
    drawn: np.ndarray

    @property
    def value(self) -> float:
        return float(self.values.mean())

    def minus(self, other: "ResampledStatistic") -> "ResampledStatistic":
        """The paired difference: of the same documents in each draw, and of the same seeds, which share the order of
        the training text."""
        return ResampledStatistic(self.values - other.values, self.drawn - other.drawn)

    def interval(self, seed: int, level: float = 0.95) -> tuple[float, float]:
        """(low, high) over documents and, where there are several, over seeds (see the module)."""
        drawn, seeds = self.drawn[None], len(self.values)
        if seeds > 1:
            error = self.values.std(ddof=1) / np.sqrt(seeds)
            student = np.random.default_rng([seed, seeds]).standard_t(seeds - 1, size=(32, len(self.drawn)))
            drawn = drawn + error * student
        known = drawn[np.isfinite(drawn)]
        if not np.isfinite(self.value) or len(known) < (1 + level) / 2 * drawn.size:  # one tail could lie anywhere
            return float("nan"), float("nan")
        low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


@dataclass(frozen=True)
class ExitScores:
    """What one training of a head says at some exits, which are asked one after another as in decoding.

    With several exits, a token leaves at the first whose confidence exceeds one threshold for all.
    """

    tokens: HeldOutTokens
    places: Sequence[int]  # of these exits among the tokens' exits
    scores: np.ndarray  # (places, tokens) confidences
    check: float  # cost of one check of the head, in blocks


def halves(document_ids: Sequence[str], seed: int) -> np.ndarray:
    """(documents,) 0 or 1, in equal parts, by the order of seeded hashes; InputError for fewer than two documents."""
    if len(document_ids) < 2:
        raise InputError("corpus.held_out: 1 document has no two halves, one to choose thresholds on; set 2 or more")
    order = sorted(range(len(document_ids)), key=lambda k: sha256(f"{seed}:{document_ids[k]}".encode()).digest())
    half = np.empty(len(document_ids), dtype=int)
    half[order] = np.arange(len(order)) % 2
    return half


def draws(half: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """(resamples, documents) how often each document is drawn; each half is drawn from itself, to its own size."""
    generator, counts = np.random.default_rng([seed, len(half)]), np.empty((resamples, len(half)), np.float32)
    for part in (0, 1):
        size = int((half == part).sum())
        counts[:, half == part] = generator.multinomial(size, np.full(size, 1 / size), size=resamples)
    return counts


def statistics(
    tokens: HeldOutTokens, confidence: np.ndarray, places: Sequence[int], drawn: np.ndarray, check: float
) -> dict[str, ResampledStatistic]:
    """All of METRICS for one head at the exits `places` (see `ExitScores`).

    The metrics against the label pool all pairs of token and exit, since one threshold has to order them all.

    Args:
        confidence: (seeds, exits, tokens).
        drawn: from `draws`.
        check: cost of one check of the head, in blocks.
    """
    # The value itself needs only each token's half: two documents, each drawn once.
    whole = replace(tokens, document=tokens.half[tokens.document], half=np.arange(2))
    once = np.ones((1, 2))
    exact = [_statistics(ExitScores(whole, places, scores[places], check), once, None) for scores in confidence]
    rough = [
        _statistics(ExitScores(tokens, places, scores[places], check), drawn, SCORE_GROUPS) for scores in confidence
    ]
    return {
        metric: ResampledStatistic(
            np.array([of_seed[metric][0] for of_seed in exact]), np.mean([of_seed[metric] for of_seed in rough], axis=0)
        )
        for metric in METRICS
    }


def _statistics(exits: ExitScores, drawn: np.ndarray, groups: int | None) -> dict[str, np.ndarray]:
    """METRICS (draws,) of one seed; `groups` as in `_grouped`."""
    tokens, flat = exits.tokens, exits.scores.ravel()
    label, document = tokens.label[exits.places].ravel(), np.tile(tokens.document, len(exits.places))
    by_score = DocumentSums(document, *_grouped(flat, groups), drawn)
    positive, negative = by_score.of(label), by_score.of(~label)
    total = (positive + negative).sum(-1)
    right = drawn @ np.bincount(document, weights=(flat > 0.5) == label, minlength=tokens.documents)
    gap = DocumentSums(document, _bins(flat), CALIBRATION_BINS, drawn).of(flat - label)
    return {
        "positive_rate": positive.sum(-1) / total,
        "accuracy": right / total,
        "auroc": auroc(positive, negative),
        "average_precision": average_precision(positive, negative),
        "ece": np.abs(gap).sum(-1) / total,
        **_savings(exits, drawn, groups),
    }


def auroc(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """(...) chance that a positive scores higher than a negative, ties counting half; NaN if either is missing.

    Both (..., scores) are how many there are at each score, the highest score first.
    """
    higher = positive.cumsum(-1) - positive / 2
    pairs = positive.sum(-1) * negative.sum(-1)
    return _ratio((negative * higher).sum(-1), pairs)


def average_precision(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """(...) mean over the positives of the precision at their score; NaN without any. Arguments as for `auroc`."""
    retrieved = positive.cumsum(-1)
    precision = _ratio(retrieved, retrieved + negative.cumsum(-1))
    return _ratio(np.nansum(positive * precision, -1), positive.sum(-1))


def reliability(confidence: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    """The reliability diagram: per bin of equal width its tokens, mean confidence, and share labelled positive.

    Arrays (CALIBRATION_BINS,) `bin_low, tokens, confidence, positive_rate`; an empty bin has NaN means.
    """
    tokens, sums, positives = (
        np.bincount(_bins(confidence), weights=values, minlength=CALIBRATION_BINS)
        for values in (None, confidence, label)
    )
    return {
        "bin_low": np.arange(CALIBRATION_BINS) / CALIBRATION_BINS,
        "tokens": tokens,
        "confidence": _ratio(sums, tokens),
        "positive_rate": _ratio(positives, tokens),
    }


def _savings(exits: ExitScores, drawn: np.ndarray, groups: int | None) -> dict[str, np.ndarray]:
    """What leaves, disagrees and is saved (draws,) at each of ERRORS, threshold and measurement on different halves.

    `saved` is the share of the blocks' FLOPs, less the head's checks; negative where they cost more than they save.
    """
    tokens, checks = exits.tokens, exits.check * len(exits.places)
    document = np.tile(tokens.document, 2 * len(exits.places) - 1)
    scores, changes = _changes(exits)
    place, count = _grouped(scores, groups)
    sizes, totals, curves = np.bincount(tokens.document, minlength=tokens.documents), {}, {}
    for half in (0, 1):
        weights = drawn * (tokens.half == half)
        totals[half] = weights @ sizes
        by_threshold = DocumentSums(document, place, count, weights)
        curves[half] = {name: by_threshold.up_to(change) for name, change in changes.items()}
    statistics = {}
    for error, limit in ERRORS.items():
        sums = dict.fromkeys(changes, 0.0)
        for half, other in ((0, 1), (1, 0)):
            last = _last_within(curves[half]["disagree"], limit * totals[half])
            for name, curve in curves[other].items():
                at = np.take_along_axis(curve, np.maximum(last, 0)[:, None], -1)[:, 0]
                sums[name] = sums[name] + np.where(last < 0, 0.0, at)
        total = totals[0] + totals[1]
        statistics |= {f"{name}_at_{error}": value / total for name, value in sums.items()}
        statistics[f"saved_at_{error}"] = statistics[f"saved_at_{error}"] - checks / tokens.depth
    return statistics


def _changes(exits: ExitScores) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(scores, changes by name), all (changes,): what each token changes when a falling threshold passes a score.

    It changes how many tokens leave, how many of them disagree, and the depths saved, with the checks that leaving
    makes unnecessary. At a threshold t, a token leaves at exit k where highest[k - 1] <= t < highest[k]: what it gains
    there begins at highest[k] and ends at highest[k - 1].
    """
    tokens, places = exits.tokens, exits.places
    highest = np.maximum.accumulate(exits.scores, axis=0)
    reached = np.concatenate([np.full((1, exits.scores.shape[1]), True), highest[1:] > highest[:-1]])
    blocks = np.array([tokens.exits[k] for k in places])[:, None]
    unasked = len(places) - 1 - np.arange(len(places))[:, None]
    gains = {
        "leave": reached.astype(float),
        "disagree": (reached & ~tokens.agreement[places]).astype(float),
        "saved": reached * (tokens.depth - blocks + exits.check * unasked) / tokens.depth,
    }
    changes = {name: np.concatenate([gain, -gain[1:]]).ravel() for name, gain in gains.items()}
    return np.concatenate([highest, highest[:-1]]).ravel(), changes


def _last_within(errors: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """(draws,) last index at which `errors` (draws, scores) is at most `limit` (draws,); -1 where it never is."""
    within = errors <= limit[:, None] + 1e-3  # they are counts: what is more is more by 1
    last = errors.shape[-1] - 1 - within[:, ::-1].argmax(-1)
    return np.where(within.any(-1), last, -1)


def _bins(confidence: np.ndarray) -> np.ndarray:
    """The calibration bin of each confidence."""
    return np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)


def _grouped(scores: np.ndarray, groups: int | None) -> tuple[np.ndarray, int]:
    """Each score's place in descending order of distinct scores, and the number of places; if there are more than
    `groups` distinct scores, neighbours share a place."""
    distinct, place = np.unique(-scores, return_inverse=True)
    if groups is None or len(distinct) <= groups:
        return place, len(distinct)
    return place * groups // len(distinct), groups


@dataclass(frozen=True)
class DocumentSums:
    """Sums (draws, count) of amounts by place, a document's amounts counted as often as it was drawn.

    They have the number format of `drawn` (draws, documents): float32 holds counts of up to 16 million tokens, and the
    rest far better than the draws differ. `document` and `place` are (amounts,).
    """

    document: np.ndarray
    place: np.ndarray
    count: int
    drawn: np.ndarray

    def of(self, amounts: np.ndarray) -> np.ndarray:
        """The sums at each place."""
        return self.drawn @ self._by_document(amounts).astype(self.drawn.dtype)

    def up_to(self, amounts: np.ndarray) -> np.ndarray:
        """The sums up to each place."""
        return self.drawn @ self._by_document(amounts).cumsum(-1).astype(self.drawn.dtype)

    def _by_document(self, amounts: np.ndarray) -> np.ndarray:
        documents = self.drawn.shape[1]
        index = self.document * self.count + self.place
        sums = np.bincount(index, weights=amounts, minlength=documents * self.count)
        return sums.reshape(documents, self.count)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)
