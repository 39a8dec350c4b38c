"""A Mamba-2 mixer's steps in PyTorch, where the kernels of mamba-ssm and causal-conv1d are not, and on every CPU.

They replace the library's own fallbacks, which are slower. Its state update spells the decay out for every channel and
state, though Mamba-2 has one number per head (arXiv 2405.21060, sec. 7.1), and reads the state eight times; this one
reads it three times. Its convolution is torch's general one; this one adds up the kernel's few taps. Sums are taken in
float32 or better, as the kernels take them. The scan of a whole sequence remains the library's.
"""

import inspect
from collections.abc import Callable
from types import FunctionType

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.models.mamba2 import modeling_mamba2 as library

from early_exit.models import mamba_kernels


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    decay_rate: Tensor,
    into: Tensor,
    out_of: Tensor,
    skip: Tensor,
    *,
    dt_bias: Tensor,
    **options,
) -> Tensor:
    """Take one token per row into the state and read the output; arguments in the order of the library's call.

    Args:
        state: (rows, heads, head_dim, state), changed in place; in float32 whatever the model is in.
        x: (rows, heads, head_dim).
        dt, dt_bias: steps before softplus, one per head: (rows, heads, head_dim) and (heads, head_dim), expanded.
        decay_rate: A, negative, one per head: (heads, head_dim, state), expanded.
        into, out_of: B and C, (rows, groups, state).
        skip: D, one per head: (heads, head_dim), expanded.

    Returns:
        (rows, heads, head_dim), in the number format of `x`.
    """
    wide = state.dtype
    update_state(state, x, dt[..., 0], dt_bias[:, 0], decay_rate[:, 0, 0], into)
    c = out_of.to(wide).repeat_interleave(state.shape[1] // out_of.shape[1], dim=1)  # (rows, heads, state)
    # As a row: with a column the same product took torch two to seven times as long on a CPU (five shapes).
    out = torch.matmul(c[..., None, :], state.transpose(-1, -2))[..., 0, :]
    return (out + x.to(wide) * skip.to(wide)).to(x.dtype)


def update_state(state: Tensor, x: Tensor, dt: Tensor, dt_bias: Tensor, decay_rate: Tensor, into: Tensor) -> None:
    """Take one token per row into the state, in place, without reading an output.

    `state`, `x` and `into` as in `selective_state_update`; dt (rows, heads), dt_bias and decay_rate (heads,).
    """
    wide = state.dtype
    b = into.to(wide).repeat_interleave(state.shape[1] // into.shape[1], dim=1)  # (rows, heads, state)
    step = F.softplus(dt.to(wide) + dt_bias.to(wide))  # (rows, heads)
    state.mul_(torch.exp(step * decay_rate.to(wide))[..., None, None])
    state.addcmul_((x.to(wide) * step[..., None])[..., None], b[:, :, None])


def convolve_token(new: Tensor, window: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    """Shift the window by one token per row, in place, and return its convolution.

    It replaces the library's `causal_conv1d_update`.

    Args:
        new: (rows, channels, 1).
        window: the convolution's last inputs, (rows, channels, kernel); fastest where channels are contiguous.
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
    """Return the causal convolution of whole sequences, with zeros before them.

    It replaces the library's `causal_conv1d_fn`. `new` and the result are (rows, channels, T); fastest where channels
    are contiguous, as projections leave them. The rest as in `convolve_token`.
    """
    taps, inputs = _taps(weight), new.mT
    out = inputs.to(taps.dtype) * taps[-1]
    for back, tap in enumerate(taps[:-1].flip(0), start=1):
        out[:, back:].addcmul_(inputs[:, :-back].to(taps.dtype), tap)
    return _activated(out, weight, bias, activation).mT.to(new.dtype)


def _taps(weight: Tensor) -> Tensor:
    """Return the kernel as (kernel, channels), in float32 or better."""
    return weight.T.to(torch.promote_types(weight.dtype, torch.float32)).contiguous()


def _activated(sums: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    """Return sums (..., channels) plus bias, in the weights' number format, through the activation."""
    out = (sums if bias is None else sums + bias.to(sums.dtype)).to(weight.dtype)
    return out if activation is None else ACT2FN[activation](out)


# By the name that the library's mixer calls: the step that replaces it.
STEPS = {
    "mamba2_selective_state_update": selective_state_update,
    "causal_conv1d_update": convolve_token,
    "causal_conv1d_fn": convolve_sequence,
}


def _chosen(name: str) -> Callable:
    """Return our step of a name, which leaves tensors on a GPU to the library's kernel if there is one."""
    kernel = getattr(getattr(library, name), "kernel", None)
    return mamba_kernels.by_device(kernel, STEPS[name]) if kernel else STEPS[name]


REPLACED = {name: _chosen(name) for name in STEPS}


class PlainStepMixer(library.Mamba2Mixer):
    """The library's Mamba-2 mixer; where no kernel can take them, its forward calls the steps of this module.

    The forward is the library's code with other global names, so that no other mixer is affected.
    """

    _library = inspect.unwrap(library.Mamba2Mixer.forward)
    forward = FunctionType(
        _library.__code__, {**_library.__globals__, **REPLACED}, "forward", _library.__defaults__, _library.__closure__
    )


def use_plain_steps(module: nn.Module) -> None:
    """Turn the Mamba-2 mixers of a module into `PlainStepMixer`s, in place; weights stay as they are."""
    for layer in module.modules():
        if type(layer) is library.Mamba2Mixer:
            layer.__class__ = PlainStepMixer
