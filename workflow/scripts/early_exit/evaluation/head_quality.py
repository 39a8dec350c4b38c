"""How good exit heads are, as numbers on arrays: ranking, calibration, and what may leave at a fixed error.

Two truths are told apart. The *label* is what a head was trained on (see `targets.labels`); AUROC, average precision,
calibration and accuracy hold the confidence against it. *Agreement* is what counts in the end: the exit's most
probable token is the full model's.

*Disagreement* at a threshold is the share of ALL tokens that leave and do not agree. Tokens that stay always agree, so
this is the share of tokens on which a model with exits differs from the full model, the complement of the results
table's agreement, and an error budget has the same meaning for every head and exit. The other reading, disagreement
among those that left, is one minus the precision: it lets a head that lets nearly everything go make far more errors
than a careful one "at the same error", and rests on a handful of tokens where little leaves.

The threshold for an error is chosen on one half of the documents, the smallest that keeps to it there, and what leaves
is measured on the other half, and the same the other way round; a threshold chosen on the tokens it is measured on
would look better than it is. The disagreement that results is measured, too, and may lie on either side of the target.

Intervals: whole documents are drawn with replacement within each half, thresholds are chosen anew on each draw, and
values are means over training seeds. To each draw of the mean is added a draw of its error over seeds, s / sqrt(S)
times Student's t with S - 1 degrees of freedom: the distribution that Behrens and Fisher gave the sum. With few seeds
that differ the interval is wide, and rightly so.
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
# Resamples work on scores in this many groups of neighbours, so that they cost the same for any number of tokens; the
# estimates themselves are exact. A group holds 1/1024 of the distinct scores, far less than any interval's width.
SCORE_GROUPS = 1024


@dataclass(frozen=True)
class Tokens:
    """The tokens that heads were measured on. `label` and `agreement` are (exits, tokens), `document` (tokens,)."""

    document: np.ndarray  # index of each token's document
    label: np.ndarray
    agreement: np.ndarray
    exits: tuple[int, ...]  # blocks, ascending
    depth: int
    half: np.ndarray  # (documents,) 0 or 1: on which half thresholds for the other are chosen

    @property
    def documents(self) -> int:
        return len(self.half)


@dataclass(frozen=True)
class Estimate:
    """A statistic: its value for each seed (seeds,), and on each draw of documents the mean over seeds (draws,)."""

    values: np.ndarray
    drawn: np.ndarray

    @property
    def value(self) -> float:
        return float(self.values.mean())

    def minus(self, other: "Estimate") -> "Estimate":
        """The paired difference: same documents in each draw, same seeds (which share the order of training text)."""
        return Estimate(self.values - other.values, self.drawn - other.drawn)

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


def estimates(
    tokens: Tokens, confidence: np.ndarray, places: Sequence[int], drawn: np.ndarray, check: float
) -> dict[str, Estimate]:
    """All of METRICS for one head at the exits `places` (indices), asked one after another as in decoding.

    With several places, a token leaves at the first whose confidence exceeds one threshold for all; the metrics
    against the label then pool all pairs of token and exit, since that one threshold has to order them all.

    Args:
        confidence: (seeds, exits, tokens).
        drawn: from `draws`.
        check: cost of one check of the head, in blocks.
    """
    # For the value itself it is enough to know each token's half: two documents, each drawn once.
    whole = replace(tokens, document=tokens.half[tokens.document], half=np.arange(2))
    found = [
        (
            _statistics(whole, scores[places], places, np.ones((1, 2)), check, None),
            _statistics(tokens, scores[places], places, drawn, check, SCORE_GROUPS),
        )
        for scores in confidence
    ]
    return {
        metric: Estimate(
            np.array([exact[metric][0] for exact, _ in found]), np.mean([rough[metric] for _, rough in found], axis=0)
        )
        for metric in METRICS
    }


def _statistics(tokens, scores, places, drawn, check, groups) -> dict[str, np.ndarray]:
    """METRICS (draws,) of one seed; `scores` (places, tokens), `groups` as in `_grouped`."""
    document, label = np.tile(tokens.document, len(places)), tokens.label[places].ravel()
    flat = scores.ravel()
    place, count = _grouped(flat, groups)
    positive = _sums(place, count, document, label, drawn)
    negative = _sums(place, count, document, ~label, drawn)
    total = (positive + negative).sum(-1)
    right = drawn @ np.bincount(document, weights=(flat > 0.5) == label, minlength=tokens.documents)
    cell = np.minimum((flat * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gap = _sums(cell, CALIBRATION_BINS, document, flat - label, drawn)
    return {
        "positive_rate": positive.sum(-1) / total,
        "accuracy": right / total,
        "auroc": auroc(positive, negative),
        "average_precision": average_precision(positive, negative),
        "ece": np.abs(gap).sum(-1) / total,
        **_savings(tokens, scores, places, drawn, check, groups),
    }


def auroc(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Chance that a positive scores higher than a negative, ties counting half; NaN without one of them.

    Both (..., scores) are how many there are at each score, the highest score first; gives (...).
    """
    higher = positive.cumsum(-1) - positive / 2
    pairs = positive.sum(-1) * negative.sum(-1)
    return _ratio((negative * higher).sum(-1), pairs)


def average_precision(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Mean over the positives of the precision at their score; NaN without any. Arguments as for `auroc`."""
    found = positive.cumsum(-1)
    precision = _ratio(found, found + negative.cumsum(-1))
    return _ratio(np.nansum(positive * precision, -1), positive.sum(-1))


def reliability(confidence: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    """The reliability diagram: per bin of equal width its tokens, mean confidence, and share labelled positive.

    Arrays (CALIBRATION_BINS,) `bin_low, tokens, confidence, positive_rate`; an empty bin has NaN means.
    """
    cell = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    tokens, sums, positives = (
        np.bincount(cell, weights=values, minlength=CALIBRATION_BINS) for values in (None, confidence, label)
    )
    return {"bin_low": np.arange(CALIBRATION_BINS) / CALIBRATION_BINS, "tokens": tokens,
            "confidence": _ratio(sums, tokens), "positive_rate": _ratio(positives, tokens)}  # fmt: skip


def _savings(tokens, scores, places, drawn, check, groups) -> dict[str, np.ndarray]:
    """What leaves, disagrees and is saved (draws,) at each error, threshold and measurement on different halves.

    `saved` is the share of the blocks' FLOPs, less the head's checks; negative where they cost more than they save.
    """
    # At a threshold t, a token leaves at exit k where highest[k - 1] <= t < highest[k]: what it gains there begins at
    # highest[k] and ends at highest[k - 1], for t from high to low.
    highest = np.maximum.accumulate(scores, axis=0)
    place, count = _grouped(np.concatenate([highest, highest[:-1]]).ravel(), groups)
    reached = np.concatenate([np.full((1, scores.shape[1]), True), highest[1:] > highest[:-1]])
    blocks = np.array([tokens.exits[k] for k in places])[:, None]
    unasked = len(places) - 1 - np.arange(len(places))[:, None]
    gains = {
        "leave": reached.astype(float),
        "disagree": (reached & ~tokens.agreement[places]).astype(float),
        "saved": reached * (tokens.depth - blocks + check * unasked) / tokens.depth,
    }
    document = np.tile(tokens.document, 2 * len(places) - 1)
    sizes = np.bincount(tokens.document, minlength=tokens.documents)
    curves, totals = {}, {}
    for half in (0, 1):
        weights = drawn * (tokens.half == half)
        totals[half] = weights @ sizes
        for name, gain in gains.items():
            change = np.concatenate([gain, -gain[1:]]).ravel()
            curves[name, half] = _sums(place, count, document, change, weights, cumulative=True)
    found = {}
    for error, limit in ERRORS.items():
        sums = dict.fromkeys(gains, 0.0)
        for half, other in ((0, 1), (1, 0)):
            last = _last_within(curves["disagree", half], limit * totals[half])
            for name in gains:
                at = np.take_along_axis(curves[name, other], np.maximum(last, 0)[:, None], -1)[:, 0]
                sums[name] = sums[name] + np.where(last < 0, 0.0, at)
        total = totals[0] + totals[1]
        found |= {f"{name}_at_{error}": value / total for name, value in sums.items()}
        found[f"saved_at_{error}"] = found[f"saved_at_{error}"] - check * len(places) / tokens.depth
    return found


def _last_within(errors: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """(draws,) last index at which `errors` (draws, scores) is at most `limit` (draws,); -1 where it never is."""
    within = errors <= limit[:, None] + 1e-3  # they are counts: what is more is more by 1
    last = errors.shape[-1] - 1 - within[:, ::-1].argmax(-1)
    return np.where(within.any(-1), last, -1)


def _grouped(scores: np.ndarray, groups: int | None) -> tuple[np.ndarray, int]:
    """Each score's place in descending order of distinct scores, and how many places; neighbours share one if the
    distinct scores are more than `groups`."""
    distinct, place = np.unique(-scores, return_inverse=True)
    if groups is None or len(distinct) <= groups:
        return place, len(distinct)
    return place * groups // len(distinct), groups


def _sums(place, count, document, amounts, drawn, cumulative=False) -> np.ndarray:
    """(draws, count) sums of `amounts` by place, or up to each place; a document's count as often as it was drawn.

    In the number format of `drawn`: float32 holds counts of up to 16 million tokens, and the rest far better than the
    draws differ.
    """
    documents = drawn.shape[1]
    cells = np.bincount(document * count + place, weights=amounts, minlength=documents * count)
    cells = cells.reshape(documents, count)
    return drawn @ (cells.cumsum(-1) if cumulative else cells).astype(drawn.dtype)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)
