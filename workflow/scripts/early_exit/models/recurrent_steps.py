"""A Mamba-2 mixer's steps where no kernel is installed: what mamba-ssm and causal-conv1d have, in PyTorch.

The library's own fallback for the recurrent state spells the decay out for every channel and state, though Mamba-2 has
one number a head (arXiv 2405.21060, sec. 7.1), and goes over the state eight times; this goes over it three times. Its
fallback for convolutions is torch's general one; this adds the kernel's few taps up. Sums are taken in float32 at
least, as the kernels take them. What there is beside single tokens and convolutions, the scan of a whole sequence,
stays the library's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.models.mamba2 import modeling_mamba2 as library


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
    # As a row: with a column the same product took torch two to seven times as long on a CPU (five shapes).
    out = torch.matmul(c[..., None, :], state.transpose(-1, -2))[..., 0, :]
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


def convolve(new: Tensor, window: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    """The library's call for one token: the window moves on by it, in place, and is convolved.

    Args:
        new: (rows, channels, 1).
        window: the convolution's last inputs, (rows, channels, kernel); fastest where channels are next to each other.
        weight, bias: (channels, kernel) and (channels,).
        activation: its name.

    Returns:
        (rows, channels, 1), in the number format of `new`.
    """
    for k in range(window.shape[-1] - 1):
        window[..., k] = window[..., k + 1]
    window[..., -1] = new[..., 0]
    taps = _taps(weight)
    out = window[..., 0].to(taps.dtype) * taps[0]
    for k, tap in enumerate(taps[1:], start=1):
        out.addcmul_(window[..., k].to(taps.dtype), tap)
    return _activated(out, weight, bias, activation)[..., None].to(new.dtype)


def convolve_sequence(
    new: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, **options
) -> Tensor:
    """The library's call for whole sequences: (rows, channels, T), what is before them taken as zeros, to the same.

    Fastest where channels are next to each other, as projections leave them. The rest as in `convolve`.
    """
    taps, inputs = _taps(weight), new.mT
    out = inputs.to(taps.dtype) * taps[-1]
    for back, tap in enumerate(taps[:-1].flip(0), start=1):
        out[:, back:].addcmul_(inputs[:, :-back].to(taps.dtype), tap)
    return _activated(out, weight, bias, activation).mT.to(new.dtype)


def _taps(weight: Tensor) -> Tensor:
    """(kernel, channels), in float32 or better."""
    return weight.T.to(torch.promote_types(weight.dtype, torch.float32)).contiguous()


def _activated(sums: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    """Sums (..., channels) with their bias, in the weights' number format, through the activation."""
    out = (sums if bias is None else sums + bias.to(sums.dtype)).to(weight.dtype)
    return out if activation is None else ACT2FN[activation](out)


# What the library's mixers call, what takes its place, and the package that has a kernel; tests hold the names.
STEPS = (
    ("mamba2_selective_state_update", advance, "mamba_ssm"),
    ("causal_conv1d_update", convolve, "causal_conv1d"),
    ("causal_conv1d_fn", convolve_sequence, "causal_conv1d"),
)
HAS_KERNEL = {name: find_spec(package) is not None for name, _, package in STEPS}


@contextmanager
def ours() -> Iterator[None]:
    """Meanwhile the library's Mamba-2 mixers take these steps, where they have no kernel.

    Outside the library is as it was made, so that its own `generate` stays something to compare with.
    """
    made = {name: getattr(library, name) for name, _, _ in STEPS}
    try:
        for name, step, _ in STEPS:
            if not HAS_KERNEL[name]:
                setattr(library, name, step)
        yield
    finally:
        for name, step in made.items():
            setattr(library, name, step)
