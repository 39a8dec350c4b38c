"""What each block of a backbone is worth on a text, before any is left out: the scores that `pruning` goes by.

All tokens count alike. The text is the corpus's training documents: that of the heads, and never a question that
anything is measured on.
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
def likenesses(backbone: Backbone, documents: Sequence[Document], batch_tokens: int) -> tuple[Tensor, Tensor]:
    """Means over all tokens of the cosine between the hidden states before blocks i + 1 and j + 1, and of their angle.

    Both (depth + 1, depth + 1) in float64, the angle in half turns (0..1); index `depth` is what the last block gives.
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
    """Mean cross-entropy of the next token, in nats, without block 1, without block 2, and so on.

    What lies before the block is run once for all.
    """
    totals, count = torch.zeros(backbone.depth).double(), 0
    for batch in batches(documents, batch_tokens, seed=0):
        ids, real = pad(batch, backbone.device)
        given = real[:, 1:]  # positions whose next token stands in the text
        _, hidden = backbone.run_prompt(ids, range(1, backbone.depth))
        for n, before in enumerate([backbone.embed(ids), *hidden.values()], 1):
            behind = replace(backbone, blocks=backbone.blocks[n:], layer_indices=backbone.layer_indices[n:])
            last, _ = behind.run_sequences(before)
            logits = backbone.logits(last[:, :-1][given])
            totals[n - 1] += F.cross_entropy(logits, ids[:, 1:][given], reduction="sum").double().cpu()
        count += int(given.sum())
    return (totals / count).tolist()


def one_by_one(
    backbone: Backbone, documents: Sequence[Document], batch_tokens: int, most: int
) -> list[tuple[int, int, float]]:
    """(blocks gone, block, loss) of every candidate: each block that is left, `most` times, the best going each time.

    Block numbers are the whole backbone's. It takes about `most` x depth / 2 passes over the text.
    """
    left, rows = list(range(1, backbone.depth + 1)), []
    for dropped in range(1, most + 1):
        gone = set(range(1, backbone.depth + 1)) - set(left)
        losses = losses_without(backbone.without(gone), documents, batch_tokens)
        rows += [(dropped, n, loss) for n, loss in zip(left, losses, strict=True)]
        left.remove(left[losses.index(min(losses))])
        job.log.info("%d of %d blocks gone one by one, loss %.4f", dropped, most, min(losses))
    return rows


def scores(
    backbone: Backbone, documents: Sequence[Document], batch_tokens: int, measure: str, most: int | None = None
) -> list[dict[str, Any]]:
    """The rows of a backbone's table, columns `pruning.SCORES` but for its name.

    `measure` is `likeness`, which gives block-influence and angular, or `loss`: `most` blocks go one by one.
    """
    if measure == "loss":
        rows = [("one-by-one", *row) for row in one_by_one(backbone, documents, batch_tokens, most)]
    else:
        cosines, angles = likenesses(backbone, documents, batch_tokens)
        rows = [("block-influence", 1, n, 1 - float(cosines[n - 1, n])) for n in range(1, backbone.depth + 1)]
        rows += [
            ("angular", length, first, float(angles[first - 1, first - 1 + length]))
            for length in range(1, backbone.depth)
            for first in range(1, backbone.depth - length + 2)
        ]
    return [dict(zip(("by", "dropped", "block", "score"), row, strict=True)) for row in rows]
