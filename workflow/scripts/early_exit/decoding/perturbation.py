"""How a small change of one token's embedding grows or dies out at later positions.

`hidden`: the hidden states after every block. `state`: the recurrent states of every block of a Mamba model after the
position, which are what can run away; a Transformer keeps none. Both are followed in the model's own float32.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from early_exit.models.backbone import Backbone

LAGS = (1, 2, 4, 8, 16, 32, 64)  # positions after the changed one
RESOLUTION = 1e-6  # of the length of what is followed: below it float32 shows nothing
COLUMNS = ("followed", "block", "size", "lag", "log_distance")


@dataclass(frozen=True)
class Changes:
    """Which changes are made: `sizes` in lengths of the embedding, `draws` random directions of each, from `seed`."""

    sizes: Sequence[float]
    draws: int
    seed: int


@torch.inference_mode()
def follow(backbone: Backbone, token_ids: Sequence[int], changes: Changes) -> Iterator[Mapping[str, Any]]:
    """Rows of COLUMNS for a text: the natural logarithm of the distance, averaged over the directions.

    A third of the text precedes the changed token. A distance below RESOLUTION counts as RESOLUTION, which makes a
    decay look slower, never faster.
    """
    embedded = backbone.embed(torch.tensor([list(token_ids)], device=backbone.device))
    at = embedded.shape[1] // 3
    lags = [lag for lag in LAGS if at + lag < embedded.shape[1]]
    rows = torch.cat([embedded, *(_changed(embedded, at, size, changes) for size in changes.sizes)])
    hidden = backbone.run_sequences(rows, range(1, backbone.depth + 1))[1]
    for n, states in hidden.items():
        for lag in lags:
            yield from _distances("hidden", n, lag, states[:, at + lag], changes)
    if backbone.family == "mamba":
        for lag in lags:
            cache = backbone.new_prompt_cache()
            backbone.run_sequences(rows[:, : at + lag + 1], cache=cache)
            for n, index in enumerate(backbone.layer_indices, 1):
                yield from _distances("state", n, lag, cache.layers[index].recurrent_states[0].flatten(1), changes)


def _changed(embedded: Tensor, at: int, size: float, changes: Changes) -> Tensor:
    """(draws, T, hidden): the embedded text with position `at` moved by `size` times its own length."""
    generator = torch.Generator().manual_seed(changes.seed)
    directions = torch.randn(changes.draws, embedded.shape[-1], generator=generator).to(embedded)
    rows = embedded.repeat(changes.draws, 1, 1)
    rows[:, at] += size * embedded[0, at].norm() * directions / directions.norm(dim=-1, keepdim=True)
    return rows


def _distances(followed: str, block: int, lag: int, rows: Tensor, changes: Changes) -> Iterator[dict[str, Any]]:
    """A row for each size; the first of `rows` is unchanged, the others are the draws of each size."""
    least = (RESOLUTION * rows[0].double().norm()).clamp(min=torch.finfo(torch.float32).tiny)
    logs = (rows[1:].double() - rows[0].double()).norm(dim=-1).clamp(min=least).log()
    for size, mean in zip(changes.sizes, logs.view(len(changes.sizes), -1).mean(-1).tolist(), strict=True):
        yield {"followed": followed, "block": block, "size": size, "lag": lag, "log_distance": mean}
