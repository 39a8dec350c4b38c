"""One token through a Mamba-2 state, where no kernel is installed: what `mamba_ssm` has in Triton, in PyTorch.

The library's own fallback spells the decay out for every channel and state, though Mamba-2 has one number a head
(arXiv 2405.21060, sec. 7.1), and goes over the state eight times. This goes over it three times. 192 rows of the
embedded model (4 heads of 64, state 32), one thread of a small server: 32 and 3.0 ms a block; 8 rows of Codestral
Mamba's block (128 heads of 64, state 128): 188 and 18 ms. Sums are taken in the state's number format, float32, as the
kernel takes them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.mamba2 import modeling_mamba2 as library

NAME = "mamba2_selective_state_update"  # what the library's mixers call; tests hold that they still do
HAS_KERNEL = find_spec("mamba_ssm") is not None


def advance(
    state: Tensor, x: Tensor, dt: Tensor, decay_rate: Tensor, into: Tensor, out_of: Tensor, skip: Tensor, *,
    dt_bias: Tensor, **options,
) -> Tensor:  # fmt: skip
    """The library's call, in the order of its arguments (its A, B, C and D have names here).

    Args:
        state: (rows, heads, head_dim, state), changed in place; in float32 whatever the model is in.
        x: (rows, heads, head_dim).
        dt, dt_bias: steps before softplus, one a head: (rows, heads, head_dim) and (heads, head_dim), expanded.
        decay_rate: A, negative, one a head: (heads, head_dim, state), expanded.
        into, out_of: B and C, (rows, groups, state).
        skip: D, one a head: (heads, head_dim), expanded.

    Returns:
        (rows, heads, head_dim), in the number format of `x`.
    """
    wide = state.dtype
    update(state, x, dt[..., 0], dt_bias[:, 0], decay_rate[:, 0, 0], into)
    c = out_of.to(wide).repeat_interleave(state.shape[1] // out_of.shape[1], dim=1)  # (rows, heads, state)
    out = torch.matmul(state, c[..., None])[..., 0]
    return (out + x.to(wide) * skip.to(wide)).to(x.dtype)


def update(state: Tensor, x: Tensor, dt: Tensor, dt_bias: Tensor, decay_rate: Tensor, into: Tensor) -> None:
    """The state's part of a step, in place: it decays and takes a token in; nothing is read out.

    `state`, `x` and `into` as in `advance`; dt (rows, heads), dt_bias and decay_rate (heads,).
    """
    wide = state.dtype
    b = into.to(wide).repeat_interleave(state.shape[1] // into.shape[1], dim=1)  # (rows, heads, state)
    step = F.softplus(dt.to(wide) + dt_bias.to(wide))  # (rows, heads)
    state.mul_(torch.exp(step * decay_rate.to(wide))[..., None, None])
    state.addcmul_((x.to(wide) * step[..., None])[..., None], b[:, :, None])


@contextmanager
def single_tokens() -> Iterator[None]:
    """Meanwhile the library's Mamba-2 mixers take single tokens through `advance`, unless they have a kernel.

    Outside the library is as it was made, so that its own `generate` stays something to compare with.
    """
    if HAS_KERNEL:
        yield
        return
    made = getattr(library, NAME)
    setattr(library, NAME, advance)
    try:
        yield
    finally:
        setattr(library, NAME, made)
