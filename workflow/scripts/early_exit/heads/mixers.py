"""Mixers of Mamba heads: the library's, with an output projection of another width.

The scan is the library's: in plain PyTorch, or by the `mamba_ssm` kernels where they are installed.
"""

import math
from dataclasses import dataclass, fields

from torch import nn
from transformers import Mamba2Config, MambaConfig, PreTrainedConfig
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from early_exit.base.errors import InputError
from early_exit.costs.parts import Cost, Mamba1, Mamba2


@dataclass(frozen=True)
class Mamba2Shape:
    """Sizes of the library's Mamba-2 mixer (arXiv 2405.21060)."""

    expand: int = 2
    head_dim: int = 64
    state_size: int = 128
    n_groups: int = 8
    conv_kernel: int = 4
    chunk_size: int = 64  # tokens per chunk of the scan; changes speed, not results

    def heads(self, width: int) -> int:
        """Return the number of heads at a width; InputError if the channels do not split into heads of equal groups."""
        inner = self.expand * width
        if inner % self.head_dim or (inner // self.head_dim) % self.n_groups:
            why = f"does not split expand x width = {inner} channels into heads of equal groups (n_groups)"
            raise InputError(f"head_dim: {self.head_dim} {why} {self.n_groups}")
        return inner // self.head_dim

    def build(self, width: int, layer_idx: int, exits: int, outputs: int) -> tuple[nn.Module, PreTrainedConfig]:
        """Return the mixer, (rows, T, width) to (rows, T, outputs), and the library's config for all exits' caches."""
        config = Mamba2Config(
            hidden_size=width,
            num_hidden_layers=exits,
            expand=self.expand,
            head_dim=self.head_dim,
            num_heads=self.heads(width),
            state_size=self.state_size,
            n_groups=self.n_groups,
            conv_kernel=self.conv_kernel,
            chunk_size=self.chunk_size,
        )
        mixer = Mamba2Mixer(config, layer_idx)
        mixer.out_proj = nn.Linear(self.expand * width, outputs)
        return mixer, config

    def cost(self, width: int, outputs: int) -> Cost:
        """Return what one token costs."""
        sizes = (self.heads(width), self.head_dim, self.state_size, self.n_groups, self.conv_kernel)
        return Mamba2(width, *sizes).step(outputs)


@dataclass(frozen=True)
class Mamba1Shape:
    """Sizes of the library's Mamba-1 mixer (arXiv 2312.00752)."""

    expand: int = 2
    state_size: int = 16
    conv_kernel: int = 4

    def build(self, width: int, layer_idx: int, exits: int, outputs: int) -> tuple[nn.Module, PreTrainedConfig]:
        """Return the mixer and the config, as for Mamba-2."""
        config = MambaConfig(
            hidden_size=width,
            num_hidden_layers=exits,
            expand=self.expand,
            state_size=self.state_size,
            conv_kernel=self.conv_kernel,
        )
        mixer = MambaMixer(config, layer_idx)
        mixer.out_proj = nn.Linear(self.expand * width, outputs)
        mixer.use_bias = True  # otherwise the training kernels omit the bias of the output projection
        return mixer, config

    def cost(self, width: int, outputs: int) -> Cost:
        """Return what one token costs."""
        rank = math.ceil(width / 16)
        return Mamba1(width, self.expand * width, self.state_size, rank, self.conv_kernel).step(outputs)


MIXERS = {"mamba2": Mamba2Shape, "mamba1": Mamba1Shape}


def mixer_shape(*, mixer: str = "mamba2", **options) -> Mamba2Shape | Mamba1Shape:
    """Return the sizes from a Mamba head's options; InputError if the mixer is unknown or has no such option."""
    if mixer not in MIXERS:
        raise InputError(f"mixer: '{mixer}' is unknown; use {' or '.join(MIXERS)}")
    known = [field.name for field in fields(MIXERS[mixer])]
    for option in options:
        if option not in known:
            raise InputError(f"{option}: is no option of mixer {mixer}, which has {', '.join(known)}")
    return MIXERS[mixer](**options)


def slim_shape(*, mixer: str = "mamba2", **options) -> Mamba2Shape | Mamba1Shape:
    """Return the same for few channels: B and C have one group unless `n_groups` says otherwise."""
    one_group = {"n_groups": 1} if mixer == "mamba2" else {}
    return mixer_shape(mixer=mixer, **one_group | options)
