"""What exit heads learn: labels from the full model, and the weights of exits and classes in the loss.

A head learns whether the token predicted after its exit is good enough for the full model, the oracle (DYNAMAX, arXiv
2504.20922, sec. III): 2-class cross-entropy at every position and exit, with exits weighted by depth. The frozen
backbone is the teacher: one pass over a batch yields hidden states and labels for all heads of a recipe.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from early_exit.base.errors import InputError
from early_exit.models.backbone import Backbone
from early_exit.models.documents import Document, pad

LABELS = ("exit-in-oracle-topk", "oracle-in-exit-topk")
EXIT_WEIGHTS = ("linear", "uniform")
CLASS_BALANCES = ("none", "balanced")


def labels(exit_logits: Tensor, oracle_logits: Tensor, rule: str, k: int) -> Tensor:
    """Return whether the remaining blocks may be skipped: logits (..., vocabulary) of both to bool (...).

    `exit-in-oracle-topk` (the paper's wording): the exit's most probable token is among the oracle's k most probable.
    `oracle-in-exit-topk` (the authors' earlier code): the reverse. A token is among the k most probable if fewer than
    k are more probable, so a tie with the k-th counts as in. InputError for another rule.
    """
    if rule not in LABELS:
        raise InputError(f"distillation.label: '{rule}' is unknown; use {' or '.join(LABELS)}")
    one, many = (exit_logits, oracle_logits) if rule == LABELS[0] else (oracle_logits, exit_logits)
    best = one.argmax(-1, keepdim=True)
    return (many > many.gather(-1, best)).sum(-1) < k


def exit_weights(rule: str | Sequence[float], exits: int) -> list[float]:
    """Return one loss weight per exit, summing to 1.

    `linear` in depth ([1, 2, 3, 4] / 10 for four exits), `uniform`, or a list with one weight per exit; InputError if
    the list has another length.
    """
    raw = {"linear": range(1, exits + 1), "uniform": [1] * exits}[rule] if isinstance(rule, str) else rule
    if len(raw) != exits:
        raise InputError(f"distillation.exit_weights: {list(raw)} has {len(raw)} weights; give one per exit ({exits})")
    return [weight / sum(raw) for weight in raw]


def class_weights(counts: Tensor) -> Tensor:
    """Return weights that balance the two classes, from how often each was seen: (..., 2) to (..., 2).

    Inverse frequency, n / 2n_c, with one example added to each class, so that none has infinite weight.
    """
    counts = counts + 1
    return counts.sum(-1, keepdim=True) / (2 * counts)


@torch.no_grad()
def hidden_and_labels(
    backbone: Backbone, documents: Sequence[Document], exits: Sequence[int], rule: str, k: int
) -> tuple[dict[int, Tensor], dict[int, Tensor], Tensor]:
    """Run documents; return per exit hidden states (rows, T, hidden) and labels (rows, T), and the mask of real tokens.

    The mask (rows, T) is False at padding.
    """
    ids, real = pad(documents, backbone.device)
    last, hidden = backbone.run_prompt(ids, exits)
    oracle = backbone.logits(last)
    return hidden, {n: labels(backbone.logits(hidden[n]), oracle, rule, k) for n in exits}, real
