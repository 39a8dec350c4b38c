"""Tables of how good heads are: each head at each exit, heads against each other, reliability. Frames in and out.

The exit `any` stands for all exits asked one after another, as in decoding. Each backbone has two rows without recipe:

- `majority` says of every token the exit's share of positive labels, which is as good as one can say without looking at
  the token. All tokens leave at the last exit that keeps to the error, or none does.
- `oracle` knows the label, and for the savings the agreement: it lets all tokens leave that agree, at the first exit
  where they do, and then others up to the error.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from early_exit.base.errors import InputError
from early_exit.base.records import COMPARED_HEADS
from early_exit.evaluation import head_quality as quality
from early_exit.evaluation.head_quality import METRICS, HeldOutTokens, ResampledStatistic

ANY = "any"
HEADS_COLUMNS = (
    "backbone", "recipe", "head", "exit", "seeds", "documents", "tokens", "check_percent",
    *(f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")),
)  # fmt: skip
COMPARED_METRICS = ("auroc", "average_precision", "ece", "leave_at_1", "saved_at_1", "leave_at_5", "saved_at_5")
DIFFERENCES_COLUMNS = (
    "backbone", "head", "other", "exit", "metric", "seeds", "difference", "low", "high", "differs",
)  # fmt: skip
RELIABILITY_COLUMNS = ("backbone", "recipe", "head", "exit", "bin_low", "tokens", "confidence", "positive_rate")

Statistics = Mapping[str, Mapping[str, ResampledStatistic]]  # of a head, by exit and metric


@dataclass(frozen=True)
class HeadConfidences:
    """One head of one recipe and backbone, and what it says of held-out tokens.

    `confidence` is (seeds, exits, tokens), `check` the cost of one check in blocks.
    """

    backbone: str
    recipe: str
    name: str
    kind: str
    check: float
    tokens: HeldOutTokens
    confidence: np.ndarray


def heads_of_recipe(
    rows: pd.DataFrame, backbone: str, recipe: str, kinds: Mapping[str, str], costs: Mapping[str, Any], seed: int
) -> list[HeadConfidences]:
    """The heads of one recipe in a confidences file.

    Args:
        rows: of `records.confidences_schema(kinds)`.
        kinds: each head's kind, by name.
        costs: the backbone's cost table.
        seed: deals the documents out to two halves.
    """
    seeds, exits = rows["seed"].unique(), tuple(sorted(rows["exit"].unique().tolist()))

    def by_seed(values: pd.Series) -> np.ndarray:
        """(seeds, exits, tokens); rows are sorted by seed, token and exit."""
        return values.to_numpy().reshape(len(seeds), -1, len(exits)).transpose(0, 2, 1)

    label, agreement = by_seed(rows["label"]), by_seed(rows["agreement"])
    if (label != label[0]).any() or (agreement != agreement[0]).any():
        raise InputError(f"heads of {backbone}, {recipe}: not all seeds were measured on the same text; measure again")
    of_first_seed = rows.loc[rows["seed"] == seeds[0], "document_id"]
    document, names = pd.factorize(of_first_seed.iloc[:: len(exits)])
    tokens = HeldOutTokens(
        document=document,
        label=label[0],
        agreement=agreement[0],
        exits=exits,
        depth=costs["depth"],
        half=quality.halves(list(names), seed),
    )
    return [
        HeadConfidences(
            backbone=backbone,
            recipe=recipe,
            name=name,
            kind=kind,
            check=_check(costs, name),
            tokens=tokens,
            confidence=by_seed(rows[f"confidence_{name}"]),
        )
        for name, kind in kinds.items()
    ]


def _check(costs: Mapping[str, Any], head: str) -> float:
    """One check of a head in blocks. A block's attention scores, which grow with the context, are not counted."""
    check, block = (part["linear"] + part["recurrence"] for part in (costs["heads"][head], costs["block"]))
    return check / block


def statistics(head: HeadConfidences, seed: int, resamples: int) -> Statistics:
    """All METRICS of a head at each of its exits and at ANY. Heads measured on the same text see the same draws."""
    drawn = quality.draws(head.tokens.half, seed, resamples)
    return {
        exit_name: quality.statistics(head.tokens, head.confidence, places, drawn, head.check)
        for exit_name, places in _exit_places(head.tokens)
    }


def _exit_places(tokens: HeldOutTokens) -> list[tuple[str, list[int]]]:
    """Each exit by name with its index, and ANY with all of them."""
    return [*((str(block), [k]) for k, block in enumerate(tokens.exits)), (ANY, list(range(len(tokens.exits))))]


def heads(
    measured: Sequence[HeadConfidences], by_head: Sequence[Statistics], seed: int, resamples: int
) -> pd.DataFrame:
    """heads.csv: one row per head and exit with HEADS_COLUMNS, after the reference rows of each backbone.

    `by_head` are the heads' statistics, in the same order. A reference has no seeds, which `seeds` shows as 0.
    """
    rows, seen = [], set()
    for head, of_head in zip(measured, by_head, strict=True):
        if head.backbone not in seen:
            seen.add(head.backbone)
            rows += _reference_rows(head, seed, resamples)
        for exit_name, statistics_at in of_head.items():
            rows.append(_head_row(head, len(head.confidence), exit_name, statistics_at, seed))
    return pd.DataFrame(rows, columns=list(HEADS_COLUMNS))


def _reference_rows(head: HeadConfidences, seed: int, resamples: int) -> list[dict[str, Any]]:
    """The rows of `majority` and `oracle` (see the module), on the tokens of a head; they cost nothing to ask."""
    drawn, rows = quality.draws(head.tokens.half, seed, resamples), []
    for exit_name, places in _exit_places(head.tokens):
        for name, statistics_at in _references(head.tokens, places, drawn).items():
            reference = replace(head, recipe="", name=name, check=0.0)
            rows.append(_head_row(reference, 0, exit_name, statistics_at, seed))
    return rows


def _references(
    tokens: HeldOutTokens, places: list[int], drawn: np.ndarray
) -> dict[str, dict[str, ResampledStatistic]]:
    """METRICS of `majority` and of `oracle` at some exits."""
    rate = np.repeat(tokens.label.mean(1, keepdims=True), tokens.label.shape[1], axis=1)
    agreeing = tokens.agreement.astype(float)
    lots = np.random.default_rng(0).permutation(tokens.label.shape[1]) / tokens.label.shape[1] / 2
    agreeing[places[-1]] = np.where(tokens.agreement[places[-1]], 1.0, lots)  # who else may leave is drawn by lot
    majority, by_label, by_agreement = (
        quality.statistics(tokens, scores[None], places, drawn, 0.0)
        for scores in (rate, tokens.label.astype(float), agreeing)
    )
    savings = {metric: value for metric, value in by_agreement.items() if "_at_" in metric}
    return {"majority": majority, "oracle": by_label | savings}


def _head_row(
    head: HeadConfidences, seeds: int, exit_name: str, statistics_at: Mapping[str, ResampledStatistic], seed: int
) -> dict[str, Any]:
    row = {
        "backbone": head.backbone,
        "recipe": head.recipe,
        "head": head.name,
        "exit": exit_name,
        "seeds": seeds,
        "documents": head.tokens.documents,
        "tokens": len(head.tokens.document),
        "check_percent": 100 * head.check,
    }
    for metric, statistic in statistics_at.items():
        low, high = statistic.interval(seed)
        row |= {metric: statistic.value, f"{metric}_low": low, f"{metric}_high": high}
    return row


def differences(measured: Sequence[HeadConfidences], by_head: Sequence[Statistics], seed: int) -> pd.DataFrame:
    """head_differences.csv: head minus other for COMPARED_HEADS of one backbone, a row per pair, exit and metric, with
    DIFFERENCES_COLUMNS.

    Differences are paired: both heads were measured on the same documents, and their first trainings share a seed, and
    so on. `differs` says that the 95 % interval does not contain zero. `by_head` is as in `heads`.
    """
    rows = []
    for (head, of_head), (other, of_other) in product(zip(measured, by_head, strict=True), repeat=2):
        if head.backbone != other.backbone or (head.kind, other.kind) not in COMPARED_HEADS:
            continue
        for exit_name, metric in product(of_head, COMPARED_METRICS):
            difference = of_head[exit_name][metric].minus(of_other[exit_name][metric])
            low, high = difference.interval(seed)
            rows.append(
                {
                    "backbone": head.backbone,
                    "head": _label(head, measured),
                    "other": _label(other, measured),
                    "exit": exit_name,
                    "metric": metric,
                    "seeds": len(difference.values),
                    "difference": difference.value,
                    "low": low,
                    "high": high,
                    "differs": low > 0 or high < 0,
                }
            )
    return pd.DataFrame(rows, columns=list(DIFFERENCES_COLUMNS))


def _label(head: HeadConfidences, measured: Iterable[HeadConfidences]) -> str:
    """A head's name, after its recipe's if several recipes of the backbone have a head of this name."""
    namesakes = [other for other in measured if (other.backbone, other.name) == (head.backbone, head.name)]
    return head.name if len(namesakes) == 1 else f"{head.recipe}/{head.name}"


def reliability(measured: Sequence[HeadConfidences]) -> pd.DataFrame:
    """reliability.csv: the diagram of every head and exit, the tokens of all seeds together; empty bins have no row."""
    frames = [pd.DataFrame(columns=list(RELIABILITY_COLUMNS))]
    for head in measured:
        for k, block in enumerate(head.tokens.exits):
            label = np.tile(head.tokens.label[k], len(head.confidence))
            bins = pd.DataFrame(quality.reliability(head.confidence[:, k].ravel(), label))
            names = {"backbone": head.backbone, "recipe": head.recipe, "head": head.name, "exit": block}
            frames.append(bins[bins["tokens"] > 0].assign(**names))
    return pd.concat(frames[1:] or frames, ignore_index=True)[list(RELIABILITY_COLUMNS)]
