"""Products of a few rows with a large weight on a CPU: what a decoding pass is made of.

`x @ W.T` with one to seven rows leaves most of a CPU idle in the library's routines: of a matrix times one row only
one core works, and two rows take longer than one. `(W @ x.T).T` is the same product with the weight as its tall side,
whose rows are shared out among the cores. Measured on two cores of an AMD EPYC (Zen 4) with MKL, SmolLM2's blocks, in
milliseconds a pass, library against this: 1 row 37 and 25, 2 rows 55 and 24, 4 rows 49 and 21, 16 rows 55 and 44.
On one core it pays up to three rows. Elsewhere it is the same product, at whatever speed.

Sums are taken in another order, so that a product may differ in its last bits, as between any two batch sizes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGE = 10**5  # entries of a weight; the call of a smaller one takes as long as its product
FEW = 3  # rows that pay on one core
PAYS = (*range(1, 8), *range(16, 33))  # rows that pay on several


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`: (..., in) and (out, in) to (..., out); by the faster way if that is known."""
    rows = x.numel() // x.shape[-1]
    if not (weight.dtype == torch.float32 and weight.is_cpu and weight.numel() >= LARGE and _pays(rows)):
        return F.linear(x, weight, bias)
    flat = x.reshape(rows, -1)
    tall = torch.mm(
        weight, (flat if rows > 1 else flat.repeat(2, 1)).t()
    )  # one column would be the library's way again
    y = tall.t()[:rows].reshape(*x.shape[:-1], -1)
    return y if bias is None else y + bias


def _pays(rows: int) -> bool:
    return rows in PAYS if torch.get_num_threads() > 1 else 0 < rows <= FEW


class Linear(nn.Linear):
    """A linear layer of the library's, with its weight, that multiplies as above."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def ours(module: nn.Module) -> nn.Module:
    """The module itself, its linear layers multiplying as above from now on."""
    return _become(module, nn.Linear, Linear)


@contextmanager
def as_loaded(module: nn.Module) -> Iterator[None]:
    """The module as the library made it, to compare with; nothing else may use it meanwhile."""
    _become(module, Linear, nn.Linear)
    try:
        yield
    finally:
        _become(module, nn.Linear, Linear)


def _become(module: nn.Module, kind: type[nn.Linear], other: type[nn.Linear]) -> nn.Module:
    for layer in module.modules():
        if type(layer) is kind:
            layer.__class__ = other
    return module
