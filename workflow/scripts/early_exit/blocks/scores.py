"""Scores of a backbone's blocks on a text, by which `pruning` decides which ones to drop.

All tokens count the same. The text is the corpus's training documents, on which heads train, too; it has none of the
questions that anything is measured on.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from early_exit.base import job
from early_exit.models.backbone import Backbone
from early_exit.models.documents import Document, batches, pad

TOKENS = 256  # at a time in float64: a cosine near 1 says nothing of its angle in float32


@torch.no_grad()
def similarities(backbone: Backbone, documents: Sequence[Document], batch_tokens: int) -> tuple[Tensor, Tensor]:
    """Return mean cosine and mean angle between the hidden states before blocks i + 1 and j + 1, over all tokens.

    Both (depth + 1, depth + 1) in float64, the angle in half turns (0..1); index `depth` is the last block's output.
    """
    size = backbone.depth + 1
    cosines, angles, count = torch.zeros(size, size).double(), torch.zeros(size, size).double(), 0
    for batch in batches(documents, batch_tokens, seed=0):
        ids, real = pad(batch, backbone.device)
        _, hidden = backbone.run_prompt(ids, range(1, size))
        tokens = torch.stack([backbone.embed(ids), *hidden.values()], dim=2)[real]  # (tokens, depth + 1, hidden)
        for part in tokens.split(TOKENS):
            unit = F.normalize(part.double(), dim=-1)
            cosine = (unit @ unit.mT).clamp(-1, 1)
            cosines += cosine.sum(0).cpu()
            angles += cosine.arccos().sum(0).cpu() / torch.pi
        count += len(tokens)
    return cosines / count, angles / count


@torch.no_grad()
def losses_without(backbone: Backbone, documents: Sequence[Document], batch_tokens: int) -> list[float]:
    """Return the mean cross-entropy of the next token, in nats, without block 1, without block 2, and so on.

    The blocks before a dropped one are run once for all.
    """
    totals, count = torch.zeros(backbone.depth).double(), 0
    for batch in batches(documents, batch_tokens, seed=0):
        ids, real = pad(batch, backbone.device)
        given = real[:, 1:]  # positions whose next token is in the text
        _, hidden = backbone.run_prompt(ids, range(1, backbone.depth))
        for n, before in enumerate([backbone.embed(ids), *hidden.values()], 1):
            after = replace(backbone, blocks=backbone.blocks[n:], layer_indices=backbone.layer_indices[n:])
            last, _ = after.run_sequences(before)
            logits = backbone.logits(last[:, :-1][given])
            totals[n - 1] += F.cross_entropy(logits, ids[:, 1:][given], reduction="sum").double().cpu()
        count += int(given.sum())
    return (totals / count).tolist()


def greedy_losses(
    backbone: Backbone, documents: Sequence[Document], batch_tokens: int, most: int
) -> list[tuple[int, int, float]]:
    """Drop, `most` times, the block without which the loss is smallest.

    Returns (blocks dropped, block, loss) for every candidate of every step; block numbers are the whole backbone's. It
    takes about `most` x depth / 2 passes over the text.
    """
    left, rows = list(range(1, backbone.depth + 1)), []
    for dropped in range(1, most + 1):
        before = set(range(1, backbone.depth + 1)) - set(left)
        losses = losses_without(backbone.without(before), documents, batch_tokens)
        rows += [(dropped, n, loss) for n, loss in zip(left, losses, strict=True)]
        left.remove(left[losses.index(min(losses))])
        job.log.info("%d of %d blocks dropped one by one, loss %.4f", dropped, most, min(losses))
    return rows


def score_rows(
    backbone: Backbone, documents: Sequence[Document], batch_tokens: int, measure: str, most: int | None = None
) -> list[dict[str, Any]]:
    """Return the rows of a backbone's table: `pruning.SCORE_COLUMNS` without `backbone`.

    `measure` is `likeness`, for block-influence and angular, or `loss`, for one-by-one with `most` blocks dropped.
    """
    if measure == "loss":
        rows = [("one-by-one", *row) for row in greedy_losses(backbone, documents, batch_tokens, most)]
    else:
        cosines, angles = similarities(backbone, documents, batch_tokens)
        rows = [("block-influence", 1, n, 1 - float(cosines[n - 1, n])) for n in range(1, backbone.depth + 1)]
        rows += [
            ("angular", length, first, float(angles[first - 1, first - 1 + length]))
            for length in range(1, backbone.depth)
            for first in range(1, backbone.depth - length + 2)
        ]
    return [dict(zip(("by", "dropped", "block", "score"), row, strict=True)) for row in rows]
