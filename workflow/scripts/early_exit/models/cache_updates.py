"""What a block stores of a token, computed without the rest of the block: keys and values, or a mixer's states.

The state fill `propagate` stores this for the blocks that a token skips. The check at load compares it with what the
blocks themselves store, for architectures that the tests do not run.
"""

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from early_exit.models import recurrent_steps


def keys_and_values(block: nn.Module, hidden: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return what an attention block stores of tokens: its norm, its projections and the rotation, nothing else.

    Args:
        block: the library's, with `input_layernorm` and `self_attn`.
        hidden: the block's input, (rows, T, hidden).
        rotation: cosines and sines of the tokens' positions.

    Returns:
        Keys and values, each (rows, key/value heads, T, head_dim).
    """
    attention, normed = block.self_attn, block.input_layernorm(hidden)
    keys, values = (
        project(normed).view(*hidden.shape[:2], -1, attention.head_dim)
        for project in (attention.k_proj, attention.v_proj)
    )
    if hasattr(attention, "k_norm"):  # Qwen3
        keys = attention.k_norm(keys)
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    keys = keys.transpose(1, 2)
    return rotate(keys, keys, *rotation)[1], values.transpose(1, 2)


def mixer_states(block: nn.Module, hidden: Tensor, window: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states of a Mamba block's mixer after one more token per row.

    Args:
        block: the library's, with `norm` and a Mamba-1, Falcon-Mamba or Mamba-2 `mixer`.
        hidden: the block's input, (rows, hidden).
        window: the last inputs of the convolution, (rows, channels, kernel).
        recurrent: (rows, inner, state) for Mamba-1, (rows, heads, head_dim, state) for Mamba-2; may be changed.

    Returns:
        The new window and recurrent state, of the same shapes.
    """
    normed = block.norm(hidden.to(block.norm.weight.dtype))
    step = mamba2_states if hasattr(block.mixer, "num_heads") else mamba1_states
    return step(block.mixer, normed, window, recurrent)


def mamba1_states(mixer: nn.Module, normed: Tensor, window: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states of a Mamba-1 or Falcon-Mamba mixer after one more token, without the mixer's output.

    Only what the states need: in_proj's x half (not the gate), its convolution, x_proj's dt and B rows (not C),
    dt_proj, and the state update in float32 as the library has it. `normed` is the mixer's input, (rows, hidden); the
    rest as in `mixer_states`.
    """
    inner, rank, size = mixer.intermediate_size, mixer.time_step_rank, mixer.ssm_state_size
    bias = None if mixer.in_proj.bias is None else mixer.in_proj.bias[:inner]
    x = F.linear(normed, mixer.in_proj.weight[:inner], bias)
    window, x = _convolve(mixer, window, x, inner)
    dt, b = F.linear(x, mixer.x_proj.weight[: rank + size]).split([rank, size], dim=-1)
    if hasattr(mixer, "dt_layernorm"):  # Falcon-Mamba
        dt, b = mixer.dt_layernorm(dt), mixer.b_layernorm(b)
    dt = F.linear(dt, mixer.dt_proj.weight)
    dt = F.softplus(dt + mixer.dt_proj.bias.to(dt.dtype)).float()[..., None]  # (rows, inner, 1)
    decay = torch.exp(dt * -torch.exp(mixer.A_log.float()))
    added = dt * b.float()[:, None] * x.float()[..., None]
    return window, (recurrent.float() * decay + added).to(recurrent.dtype)


def mamba2_states(mixer: nn.Module, normed: Tensor, window: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states of a Mamba-2 mixer after one more token, without the mixer's output.

    Only what the states need: in_proj's x, B, C and dt columns (not the gate), the convolution of x and B (C only
    enters the window), and the state update. `normed` is the mixer's input, (rows, hidden); `recurrent` is changed in
    place; the rest as in `mixer_states`.
    """
    inner, channels, groups, size = mixer.intermediate_size, mixer.conv_dim, mixer.n_groups, mixer.ssm_state_size
    bias = None if mixer.in_proj.bias is None else mixer.in_proj.bias[inner:]
    x_b_c, dt = F.linear(normed, mixer.in_proj.weight[inner:], bias).split([channels, mixer.num_heads], dim=-1)

    window, x_b = _convolve(mixer, window, x_b_c, inner + groups * size)
    x, b = x_b.split([inner, groups * size], dim=-1)

    x, b = x.view(-1, mixer.num_heads, mixer.head_dim), b.view(-1, groups, size)
    rate = -torch.exp(mixer.A_log.to(recurrent.dtype))
    recurrent_steps.update_state(recurrent, x, dt, mixer.dt_bias, rate, b)
    return window, recurrent


def _convolve(mixer: nn.Module, window: Tensor, new: Tensor, used: int) -> tuple[Tensor, Tensor]:
    """Return the window (rows, channels, kernel) shifted by `new` (rows, channels), and its first `used` convolved."""
    window = torch.cat([window[:, :, 1:], new[:, :, None]], dim=-1)
    bias = None if mixer.conv1d.bias is None else mixer.conv1d.bias[:used]
    convolved = F.conv1d(window[:, :used], mixer.conv1d.weight[:used], bias, groups=used)
    return window, mixer.act(convolved[:, :, 0])
