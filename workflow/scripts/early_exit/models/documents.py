"""Tokenised documents of a corpus, and their batches."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor


@dataclass(frozen=True)
class Document:
    """One text as token ids; they are all that stays in memory of a corpus, four bytes a token."""

    document_id: str
    token_ids: Sequence[int] | np.ndarray


def tokenise(corpus: pd.DataFrame, tokenizer, max_tokens: int, rows: int = 64) -> list[Document]:
    """Tokenise corpus rows (`document_id, text`), `rows` of them at a time; cut each text after `max_tokens`.

    A text without tokens is left out.
    """
    documents = []
    for start in range(0, len(corpus), rows):
        part = corpus.iloc[start : start + rows]
        encoded = tokenizer(list(part["text"]), truncation=True, max_length=max_tokens)["input_ids"]
        pairs = zip(part["document_id"], encoded, strict=True)
        documents += [Document(name, np.array(ids, np.int32)) for name, ids in pairs if ids]
    return documents


def batches(documents: Sequence[Document], batch_tokens: int, seed: int) -> Iterator[list[Document]]:
    """Yield batches of about `batch_tokens` tokens, padding included: one pass over the documents.

    A batch has documents of similar length; the order of the batches is random and depends on the seed only.
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
    """Return all batches of a training, in order: `epochs` passes, each in its own random order.

    The last batch is the one that brings the number of tokens, without padding, to `max_training_tokens`.
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
    """Return token ids padded on the right, and the mask of real tokens, both (rows, length of the longest)."""
    longest = max(len(document.token_ids) for document in documents)
    ids = torch.zeros(len(documents), longest, dtype=torch.long)
    real = torch.zeros(len(documents), longest, dtype=torch.bool)
    for row, document in enumerate(documents):
        ids[row, : len(document.token_ids)] = torch.as_tensor(document.token_ids)
        real[row, : len(document.token_ids)] = True
    return ids.to(device), real.to(device)
