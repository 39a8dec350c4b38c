"""Attention over cached rows that do not lie side by side, through the library's extension point for attention.

Once rows have left a step, the keys and values of those that go on are scattered over the slots. On a CPU, bringing
them together costs more than attention itself where rows are long: for 8 of 16 rows of 600 positions in a block of
SmolLM2's shape, one thread, 1.6 against 0.9 ms. So there each query attends where its row lies, to its own positions
only. Short rows are gathered (96 of 192 rows of 100 positions in a block of the embedded Transformer: 1.3 against 3.5
ms), and all rows are on a GPU, which would wait for the launches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "early_exit"  # as `attn_implementation`
GATHERED_BYTES = 64 * 1024  # of a row's keys, at most; about even at 75 KiB, 1.2 times as long at 150


@dataclass(frozen=True)
class Apart:
    """For each query its row's keys or values, (1, key/value heads, positions, head_dim)."""

    rows: Sequence[Tensor]


def attend(
    module: nn.Module, query: Tensor, key: Tensor | Apart, value: Tensor | Apart, attention_mask: Tensor | None,
    scaling: float | None = None, **options,
) -> tuple[Tensor, None]:  # fmt: skip
    """The library's call: query (rows, heads, T, head_dim) to (rows, T, heads, head_dim); T is 1 for rows apart."""
    if not isinstance(key, Apart):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    # The query heads that share a key/value head stand as its queries: its keys are read once.
    rows, heads, _, width = query.shape
    grouped = query.view(rows, key.rows[0].shape[1], -1, width)
    out = [
        F.scaled_dot_product_attention(grouped[k : k + 1], *pair, scale=scaling)
        for k, pair in enumerate(zip(key.rows, value.rows, strict=True))
    ]
    return torch.cat(out).view(rows, 1, heads, -1), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
