"""Tables of how good heads are: each head at each exit, heads against each other, reliability. Frames in and out.

The exit `any` stands for all exits asked one after another, as in decoding. Each backbone has two rows without a
recipe: `majority` gives every token the exit's share of positive labels, as good as one can say without looking at it,
so that all tokens leave at the last exit that keeps to the error, or none; `oracle` knows the label, and for the
savings the agreement: it lets all leave that agree, at the first exit where they do, and then others up to the error.
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
from early_exit.evaluation.head_quality import METRICS, Estimate, Tokens

ANY = "any"
HEADS_COLUMNS = (
    "backbone", "recipe", "head", "exit", "seeds", "documents", "tokens", "check_percent",
    *(f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")),
)  # fmt: skip
COMPARED_METRICS = (
    "auroc", "average_precision", "ece", "leave_at_1", "saved_at_1", "leave_at_5", "saved_at_5",
)  # fmt: skip
DIFFERENCES_COLUMNS = (
    "backbone", "head", "other", "exit", "metric", "seeds", "difference", "low", "high", "differs",
)  # fmt: skip
RELIABILITY_COLUMNS = (
    "backbone", "recipe", "head", "exit", "bin_low", "tokens", "confidence", "positive_rate",
)  # fmt: skip


Found = Mapping[str, Mapping[str, Estimate]]  # a head's estimates by exit and metric


@dataclass(frozen=True)
class Measured:
    """One head of one recipe and backbone, measured: `confidence` is (seeds, exits, tokens), `check` in blocks."""

    backbone: str
    recipe: str
    name: str
    kind: str
    check: float
    tokens: Tokens
    confidence: np.ndarray


def read(
    rows: pd.DataFrame, backbone: str, recipe: str, kinds: Mapping[str, str], costs: Mapping[str, Any], seed: int
) -> list[Measured]:
    """The heads of one recipe out of `head_outputs.measure`'s rows.

    Args:
        kinds: each head's kind, by name.
        costs: the backbone's cost table.
        seed: deals the documents out to two halves.
    """
    seeds, exits = rows["seed"].unique(), tuple(sorted(rows["exit"].unique().tolist()))
    one = rows[rows["seed"] == seeds[0]]

    def cut(values: pd.Series) -> np.ndarray:  # rows go through seeds, tokens and exits
        return values.to_numpy().reshape(len(seeds), -1, len(exits)).transpose(0, 2, 1)

    label, agreement = cut(rows["label"]), cut(rows["agreement"])
    if (label != label[0]).any() or (agreement != agreement[0]).any():
        raise InputError(f"heads of {backbone}, {recipe}: not all seeds were measured on the same text; measure again")
    document, names = pd.factorize(one["document_id"].iloc[:: len(exits)])
    half = quality.halves(list(names), seed)
    tokens = Tokens(document, label[0], agreement[0], exits, costs["depth"], half)
    return [
        Measured(backbone, recipe, name, kind, _check(costs, name), tokens, cut(rows[f"confidence_{name}"]))
        for name, kind in kinds.items()
    ]


def _check(costs: Mapping[str, Any], head: str) -> float:
    """One check of a head in blocks; attention scores, which grow with the context, are left out of the block."""
    check, block = (part["linear"] + part["recurrence"] for part in (costs["heads"][head], costs["block"]))
    return check / block


def estimate(head: Measured, seed: int, resamples: int) -> Found:
    """All METRICS of a head at each of its exits and at ANY. On the same text all heads see the same draws."""
    drawn = quality.draws(head.tokens.half, seed, resamples)
    return {
        name: quality.estimates(head.tokens, head.confidence, places, drawn, head.check)
        for name, places in _places(head.tokens)
    }


def _places(tokens: Tokens) -> list[tuple[str, list[int]]]:
    return [*((str(block), [k]) for k, block in enumerate(tokens.exits)), (ANY, list(range(len(tokens.exits))))]


def heads(measured: Sequence[Measured], found: Sequence[Found], seed: int, resamples: int) -> pd.DataFrame:
    """One row per head and exit with HEADS_COLUMNS, after the reference rows of each backbone.

    `found` are the heads' estimates, in the same order; a reference has no seeds, which `seeds` shows as 0.
    """
    rows, seen = [], set()
    for head, of_head in zip(measured, found, strict=True):
        if head.backbone not in seen:
            seen.add(head.backbone)
            drawn = quality.draws(head.tokens.half, seed, resamples)
            for place, exits in _places(head.tokens):
                for name, estimates in _references(head.tokens, exits, drawn).items():
                    rows.append(_row(replace(head, recipe="", name=name, check=0.0), 0, place, estimates, seed))
        for place, estimates in of_head.items():
            rows.append(_row(head, len(head.confidence), place, estimates, seed))
    return pd.DataFrame(rows, columns=list(HEADS_COLUMNS))


def _references(tokens: Tokens, places: list[int], drawn: np.ndarray) -> dict[str, dict[str, Estimate]]:
    """The estimates of `majority` and `oracle` (see the module), which cost nothing to ask."""
    rate = np.repeat(tokens.label.mean(1, keepdims=True), tokens.label.shape[1], axis=1)
    agreeing = tokens.agreement.astype(float)
    lots = np.random.default_rng(0).permutation(tokens.label.shape[1]) / tokens.label.shape[1] / 2
    agreeing[places[-1]] = np.where(tokens.agreement[places[-1]], 1.0, lots)  # who else may leave is drawn by lot
    majority, by_label, by_agreement = (
        quality.estimates(tokens, scores[None], places, drawn, 0.0)
        for scores in (rate, tokens.label.astype(float), agreeing)
    )
    savings = {metric: value for metric, value in by_agreement.items() if "_at_" in metric}
    return {"majority": majority, "oracle": by_label | savings}


def _row(head: Measured, seeds: int, place: str, estimates: Mapping[str, Estimate], seed: int) -> dict[str, Any]:
    row = {"backbone": head.backbone, "recipe": head.recipe, "head": head.name, "exit": place, "seeds": seeds,
           "documents": head.tokens.documents, "tokens": len(head.tokens.document),
           "check_percent": 100 * head.check}  # fmt: skip
    for metric, estimated in estimates.items():
        low, high = estimated.interval(seed)
        row |= {metric: estimated.value, f"{metric}_low": low, f"{metric}_high": high}
    return row


def differences(measured: Sequence[Measured], found: Sequence[Found], seed: int) -> pd.DataFrame:
    """Head minus other, by COMPARED_HEADS of one backbone: a row per pair, exit and metric, DIFFERENCES_COLUMNS.

    Paired: both were measured on the same documents, and the first trainings of both share a seed, and so on.
    `differs` says that the 95 % interval leaves zero out.
    """
    rows = []
    for (head, of_head), (other, of_other) in product(zip(measured, found, strict=True), repeat=2):
        if head.backbone != other.backbone or (head.kind, other.kind) not in COMPARED_HEADS:
            continue
        for place, metric in product(of_head, COMPARED_METRICS):
            difference = of_head[place][metric].minus(of_other[place][metric])
            low, high = difference.interval(seed)
            rows.append([head.backbone, _name(head, measured), _name(other, measured), place, metric,
                         len(difference.values), difference.value, low, high, low > 0 or high < 0])  # fmt: skip
    return pd.DataFrame(rows, columns=list(DIFFERENCES_COLUMNS))


def _name(head: Measured, measured: Iterable[Measured]) -> str:
    """A head's name, with its recipe's where that alone is not enough."""
    namesakes = [other for other in measured if (other.backbone, other.name) == (head.backbone, head.name)]
    return head.name if len(namesakes) == 1 else f"{head.recipe}/{head.name}"


def reliability(measured: Sequence[Measured]) -> pd.DataFrame:
    """The reliability diagram of every head and exit, tokens of all seeds together; empty bins have no row."""
    frames = []
    for head in measured:
        for k, block in enumerate(head.tokens.exits):
            label = np.tile(head.tokens.label[k], len(head.confidence))
            bins = pd.DataFrame(quality.reliability(head.confidence[:, k].ravel(), label))
            names = {"backbone": head.backbone, "recipe": head.recipe, "head": head.name, "exit": block}
            frames.append(bins[bins["tokens"] > 0].assign(**names))
    empty = pd.DataFrame(columns=list(RELIABILITY_COLUMNS))
    return pd.concat(frames, ignore_index=True)[list(RELIABILITY_COLUMNS)] if frames else empty
