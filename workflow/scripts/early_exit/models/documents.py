"""What exit heads are distilled from: documents, batches, labels and the weights of the loss. `training` trains.

A head learns whether the token predicted after its exit is good enough for the full model, the oracle (paper,
sec. III): 2-class cross-entropy at every position of every exit, exits weighted by depth. The backbone is frozen and
is its own teacher: one pass over a batch gives hidden states and labels for all heads of a recipe.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from early_exit.base.errors import InputError
from early_exit.models.backbone import Backbone

LABELS = ("exit-in-oracle-topk", "oracle-in-exit-topk")
EXIT_WEIGHTS = ("linear", "uniform")
CLASS_BALANCES = ("none", "balanced")


@dataclass(frozen=True)
class Document:
    """Token ids are the one thing kept of a whole corpus: four bytes a token."""

    document_id: str
    token_ids: Sequence[int] | np.ndarray


def tokenise(corpus: pd.DataFrame, tokenizer, max_tokens: int, rows: int = 64) -> list[Document]:
    """Corpus rows (`document_id, text`) as documents, cut after `max_tokens`; `rows` of them at a time.

    A text without a token is left out.
    """
    documents = []
    for start in range(0, len(corpus), rows):
        part = corpus.iloc[start : start + rows]
        encoded = tokenizer(list(part["text"]), truncation=True, max_length=max_tokens)["input_ids"]
        pairs = zip(part["document_id"], encoded, strict=True)
        documents += [Document(name, np.array(ids, np.int32)) for name, ids in pairs if ids]
    return documents


def labels(exit_logits: Tensor, oracle_logits: Tensor, rule: str, k: int) -> Tensor:
    """Whether the rest of the blocks may be skipped: (..., vocabulary) twice to bool (...).

    `exit-in-oracle-topk` (the paper's wording): the exit's most probable token is among the oracle's k most
    probable. `oracle-in-exit-topk` (the authors' earlier code): the other way round. A token is among the k most
    probable if fewer than k are more probable, so ties count as in.
    """
    if rule not in LABELS:
        raise InputError(f"distillation.label: '{rule}' is unknown; use {' or '.join(LABELS)}")
    one, many = (exit_logits, oracle_logits) if rule == LABELS[0] else (oracle_logits, exit_logits)
    best = one.argmax(-1, keepdim=True)
    return (many > many.gather(-1, best)).sum(-1) < k


def exit_weights(rule: str | Sequence[float], exits: int) -> list[float]:
    """Loss weight per exit, summing to 1: `linear` in depth ([1, 2, 3, 4] / 10 for four exits), `uniform`, or given."""
    raw = {"linear": range(1, exits + 1), "uniform": [1] * exits}[rule] if isinstance(rule, str) else rule
    if len(raw) != exits:
        raise InputError(f"distillation.exit_weights: {list(raw)} are not one for each of {exits} exits")
    return [weight / sum(raw) for weight in raw]


def class_weights(seen: Tensor) -> Tensor:
    """Weights that make up for a rare class, from how often each was seen: (..., 2) to the same shape.

    Inverse frequency, n / 2n_c, with one example of each class added, so that none is without weight.
    """
    seen = seen + 1
    return seen.sum(-1, keepdim=True) / (2 * seen)


def batches(documents: Sequence[Document], batch_tokens: int, seed: int) -> Iterator[list[Document]]:
    """One pass over the documents in a seeded order, in batches of about `batch_tokens` with their padding.

    Documents of like length go together; the order of the batches is random.
    """
    rng = random.Random(seed)
    order = sorted(documents, key=lambda document: (len(document.token_ids), rng.random()))
    groups, group = [], []
    for document in order:
        if group and (len(group) + 1) * len(document.token_ids) > batch_tokens:
            groups.append(group)
            group = []
        group.append(document)
    groups.append(group)
    rng.shuffle(groups)
    yield from groups


def schedule(
    documents: Sequence[Document], batch_tokens: int, seed: int, epochs: int, max_training_tokens: int | None = None
) -> list[list[Document]]:
    """The batches of a whole training, in order: `epochs` passes, each in an order of its own.

    It ends early with the batch that brings the number of tokens, without padding, to `max_training_tokens`.
    """
    steps, tokens = [], 0
    for epoch in range(epochs):
        for batch in batches(documents, batch_tokens, seed + epoch):
            steps.append(batch)
            tokens += sum(len(document.token_ids) for document in batch)
            if max_training_tokens is not None and tokens >= max_training_tokens:
                return steps
    return steps


def pad(documents: Sequence[Document], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids padded on the right, and which positions are real: both (rows, longest)."""
    longest = max(len(document.token_ids) for document in documents)
    ids = torch.zeros(len(documents), longest, dtype=torch.long)
    real = torch.zeros(len(documents), longest, dtype=torch.bool)
    for row, document in enumerate(documents):
        ids[row, : len(document.token_ids)] = torch.as_tensor(document.token_ids)
        real[row, : len(document.token_ids)] = True
    return ids.to(device), real.to(device)


@torch.no_grad()
def targets(
    backbone: Backbone, documents: Sequence[Document], exits: Sequence[int], rule: str, k: int
) -> tuple[dict[int, Tensor], dict[int, Tensor], Tensor]:
    """Hidden states (rows, T, hidden) and labels (rows, T) per exit, and which positions are real (rows, T)."""
    ids, real = pad(documents, backbone.device)
    last, hidden = backbone.run_prompt(ids, exits)
    oracle = backbone.logits(last)
    return hidden, {n: labels(backbone.logits(hidden[n]), oracle, rule, k) for n in exits}, real
