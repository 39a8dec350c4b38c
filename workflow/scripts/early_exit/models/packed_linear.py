"""Linear layers on a CPU with weights in oneDNN's own layout, as torch's compiler does with frozen weights.

A decoding pass multiplies a few rows with every large weight of the model. `torch.nn.functional.linear` leaves such
products to MKL, which takes as long for two rows as for twenty. The same products on packed weights, for all blocks of
SmolLM2-135M on two cores of an AMD EPYC (Zen 4), in milliseconds, library against this: 1 row 22 and 15, 4 rows 29
and 12, 16 rows 33 and 19, 1,024 rows 790 and 690. So the cost of a pass follows the rows that are still running.

Packed weights are stored beside the loaded ones, which doubles the memory of these layers. Sums are taken in another
order, so a product may differ in its last bits, as it does between any two numbers of rows.
"""

import torch
from torch import Tensor, nn

LARGE = 2**16  # entries of a weight; for a smaller one the call takes as long as the product


class PackedLinear(nn.Linear):
    """A linear layer with a packed copy of its weight, which must not change any more."""

    packed: Tensor

    def forward(self, x: Tensor) -> Tensor:
        plain = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")  # a packed product has one number format
        if plain or x.dtype != torch.float32 or not x.is_cpu:  # or it was moved since
            return super().forward(x)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def pack_linears(module: nn.Module) -> None:
    """Turn the large float32 linear layers of a module on the CPU into `PackedLinear`s, in place."""
    if not torch.backends.mkldnn.is_available():
        return
    for layer in module.modules():
        if type(layer) is nn.Linear and _is_large(layer.weight):
            layer.__class__ = PackedLinear
            layer.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())


def _is_large(weight: Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.is_cpu and weight.numel() >= LARGE
