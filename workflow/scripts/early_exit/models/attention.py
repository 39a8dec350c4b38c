"""Attention over cached rows that are scattered over the slots, through the library's extension point for attention.

Once rows have left a step, those that go on are no longer adjacent. On a CPU, gathering their keys and values costs
more than attention itself if rows are long: for 8 of 16 rows of 600 positions in a block of SmolLM2's shape, one
thread, 1.6 against 0.9 ms. Such queries attend to their own row in place. Short rows are gathered (96 of 192 rows of
100 positions in a block of the embedded Transformer: 1.3 against 3.5 ms), and on a GPU all rows are, because one launch
per row would take longer.
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
GATHERED_BYTES = 64 * 1024  # largest row of keys to gather: break-even at 75 KiB, 1.2 times as long at 150


@dataclass(frozen=True)
class ScatteredRows:
    """Keys or values of rows that are not adjacent: per query, (1, key/value heads, positions, head_dim)."""

    rows: Sequence[Tensor]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor | ScatteredRows,
    value: Tensor | ScatteredRows,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options,
) -> tuple[Tensor, None]:
    """Attend, as the library calls it: query (rows, heads, T, head_dim) to (rows, T, heads, head_dim).

    T is 1 for scattered rows. The second value, attention weights, is always None.
    """
    if not isinstance(key, ScatteredRows):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    # Query heads that share a key/value head become queries of that head, so that its keys are read once.
    rows, heads, _, width = query.shape
    grouped = query.view(rows, key.rows[0].shape[1], -1, width)
    out = [
        F.scaled_dot_product_attention(grouped[k : k + 1], *pair, scale=scaling)
        for k, pair in enumerate(zip(key.rows, value.rows, strict=True))
    ]
    return torch.cat(out).view(rows, 1, heads, -1), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
