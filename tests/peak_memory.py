"""The memory that a run takes, and models large enough to measure it."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

SHAPES = {
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(vocab_size=1000, hidden_size=128, intermediate_size=344, num_hidden_layers=4,
                    num_attention_heads=8, num_key_value_heads=4, head_dim=16)
    ),
    "mamba2": lambda: Mamba2ForCausalLM(
        Mamba2Config(vocab_size=1000, hidden_size=128, num_hidden_layers=4, expand=2, head_dim=32, num_heads=8,
                     state_size=64, n_groups=2, chunk_size=128)
    ),
    "mamba": lambda: MambaForCausalLM(MambaConfig(vocab_size=1000, hidden_size=64, num_hidden_layers=3)),
}  # fmt: skip


class PeakMemory(TorchDispatchMode):
    """The most bytes that tensors made under it held at one time."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.held = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, torch.Tensor) and (key := tensor.untyped_storage()._cdata) not in self.held:
                self.held[key] = tensor.untyped_storage().nbytes()
                self.now += self.held[key]
                self.peak = max(self.peak, self.now)
                weakref.finalize(tensor.untyped_storage(), self.drop, key)
        return out

    def drop(self, key):
        self.now -= self.held.pop(key, 0)
