"""How much memory a batch takes beside the weights, and how many rows fit a budget.

Predicted from shapes before anything is allocated. Counted: the rows' caches, allocated once for the longest row; the
largest prompt pass (its cache, and the tensors that one block holds at a time); one step's logits. Tests check that
measured peaks are below the prediction and above half of it.
"""

import os
from dataclasses import dataclass
from math import ceil

import torch
from torch import nn

from early_exit.decoding.prefix_cache import PROMPT_TOKENS
from early_exit.models.backbone import Backbone

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """The most rows that run at once, and the bytes that a batch may take beside the weights."""

    rows: int
    budget: int


@dataclass(frozen=True)
class Shape:
    """What one row may need.

    Args:
        prompt: tokens of the longest prompt.
        new_tokens: tokens generated at most.
        exits_read: blocks whose hidden states of the prompt are held for heads that read it.
        drafted: tokens of a row that are verified with its last one; each has logits, and its own states in a Mamba.
        asks_lm_head: whether a policy computes logits at exits: those of rows that left wait for the step's end.
    """

    prompt: int
    new_tokens: int
    exits_read: int = 0
    drafted: int = 0
    asks_lm_head: bool = False


def peak(backbone: Backbone, rows: int, shape: Shape) -> int:
    """Bytes that a batch of `rows` takes at most; prompts run together as far as PROMPT_TOKENS lets them."""
    prompt, drafted = shape.prompt, shape.drafted
    size, hidden = backbone.model.dtype.itemsize, backbone.hidden_size
    wide = max(size, 4)  # logits and scans are float32
    together = min(rows, max(1, PROMPT_TOKENS // prompt))
    logits = rows * (1 + drafted) * backbone.vocabulary * (size + (5 if shape.asks_lm_head else 2) * wide)
    # The residual stream, its normed input, the output and the embedding, and what heads read.
    stream = together * prompt * hidden * size * (4 + shape.exits_read)
    if backbone.family == "transformer":
        caches = rows * cache(backbone, prompt + shape.new_tokens) + together * cache(backbone, prompt)
        block = together * prompt * size * _transformer_width(backbone.blocks[0])
    else:
        mixer = backbone.blocks[0].mixer
        caches = cache(backbone, prompt) * (rows * (2 + drafted if drafted else 1) + together)
        block = together * _scan(mixer, prompt, wide) + together * prompt * size * 2 * mixer.in_proj.out_features
    return caches + stream + block + logits


def cache(backbone: Backbone, tokens: int) -> int:
    """Bytes of what all blocks keep of one sequence."""
    size = backbone.model.dtype.itemsize
    if backbone.family == "transformer":
        return len(backbone.blocks) * 2 * backbone.blocks[0].self_attn.k_proj.out_features * size * tokens
    mixer = backbone.blocks[0].mixer
    recurrent = mixer.intermediate_size * mixer.ssm_state_size * max(size, 4)
    return len(backbone.blocks) * (recurrent + mixer.conv1d.in_channels * mixer.conv_kernel_size * size)


def stored_prompt(backbone: Backbone, tokens: int, exits_read: int) -> int:
    """Bytes that a prompt takes which has run and is stored: its caches, its last logits, and what heads read of it."""
    size = backbone.model.dtype.itemsize
    # A pass pads its prompts up to a quarter.
    padded = ceil(1.25 * tokens)
    return cache(backbone, padded) + exits_read * padded * backbone.hidden_size * size + 4 * backbone.vocabulary


def rows_that_fit(limits: Limits, backbone: Backbone, shape: Shape, stored: int = 0) -> int:
    """The most rows up to `limits.rows` whose predicted peak is within the budget; at least one, fit or not.

    `stored` bytes of the budget are taken already.
    """
    left = limits.budget - stored
    fitting = (rows for rows in range(limits.rows, 0, -1) if peak(backbone, rows, shape) <= left)
    return next(fitting, 1)


def budget(setting: str | float, job_mib: float, device: torch.device) -> int:
    """Bytes for a batch: `setting` in MiB, or with `auto` what the device has free (GPU) or the job has left (CPU)."""
    if setting != "auto":
        return int(setting * MIB)
    if device.type == "cuda":
        return int(0.9 * torch.cuda.mem_get_info(device)[0])
    with open("/proc/self/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return max(0, int(job_mib * MIB) - resident)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed, on a GPU or in main memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def release(device: torch.device) -> None:
    """Give cached GPU memory back, after a batch."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _transformer_width(block: nn.Module) -> int:
    """Numbers that one token of a prompt has in flight at most in a block: attention's, or the FFN's."""
    attention = block.self_attn
    return max(
        3 * attention.q_proj.out_features + 2 * attention.k_proj.out_features, 3 * block.mlp.up_proj.out_features
    )


def _scan(mixer: nn.Module, prompt: int, wide: int) -> int:
    """Bytes of the library's scan over one prompt, in pure PyTorch (the fused kernels take less)."""
    inner, state = mixer.intermediate_size, mixer.ssm_state_size
    if not hasattr(mixer, "num_heads"):  # Mamba-1: the discretised A and B x, and the states, for each position
        return 4 * wide * inner * state * prompt
    chunks = ceil(prompt / mixer.chunk_size)
    scores = 4 * chunks * mixer.chunk_size**2 * mixer.num_heads  # C B, decay, and their product
    states = 3 * chunks * inner * state
    grouped = 6 * chunks * mixer.chunk_size * mixer.num_heads * state  # B and C of every head, decayed, in chunks
    return wide * (scores + states + grouped + 6 * prompt * inner)
