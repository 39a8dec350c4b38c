"""Linear layers on a CPU whose weights oneDNN has laid out for itself, as torch's compiler does with frozen weights.

A decoding pass multiplies a few rows with every large weight of the model. `torch.nn.functional.linear` leaves such
products to MKL, which takes as long for two rows as for twenty. The same products on packed weights, for all blocks of
SmolLM2-135M on two cores of an AMD EPYC (Zen 4), in milliseconds, library against this: 1 row 22 and 15, 4 rows 29
and 12, 16 rows 33 and 19, 1,024 rows 790 and 690. So what a pass costs follows the rows that are still running.

Packed weights are kept beside those that were loaded, whose memory so doubles. Sums are taken in another order, so that
a product may differ in its last bits, as it does between any two numbers of rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LARGE = 2**16  # entries of a weight; of a smaller one the call takes as long as the product


class Linear(nn.Linear):
    """A linear layer of the library's, with its weight, which must not change any more, and a packed copy of it."""

    packed: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.dtype != torch.float32 or not x.is_cpu:  # or it was moved since
            return super().forward(x)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def ours(module: nn.Module) -> nn.Module:
    """The module itself, its large linear layers multiplying as above from now on; on a GPU none of them does."""
    if torch.backends.mkldnn.is_available():
        for layer in module.modules():
            if type(layer) is nn.Linear and _pays(layer.weight):
                layer.__class__ = Linear
                layer.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
    return module


def _pays(weight: Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.is_cpu and weight.numel() >= LARGE


@contextmanager
def as_loaded(module: nn.Module) -> Iterator[None]:
    """The module as the library made it, to compare with; nothing else may use it meanwhile."""
    layers = [layer for layer in module.modules() if type(layer) is Linear]
    for layer in layers:
        layer.__class__ = nn.Linear
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = Linear
