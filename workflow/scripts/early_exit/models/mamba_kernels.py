"""Mamba's CUDA kernels (packages mamba-ssm and causal-conv1d): which are in use, and what may reach them.

The library takes them when it is imported, for every tensor and of every layout, and stays silent if a package is
installed but broken. Here a step goes to its kernel only on a GPU, and in a layout that the kernel takes.
"""

import functools
import inspect
from collections.abc import Callable
from types import FunctionType, ModuleType

from torch import Tensor
from transformers.models.falcon_mamba import modeling_falcon_mamba
from transformers.models.mamba import modeling_mamba
from transformers.models.mamba2 import modeling_mamba2

LIBRARY = (modeling_mamba, modeling_falcon_mamba, modeling_mamba2)
MULTIPLE = 8  # by causal-conv1d's source, of channels and strides, if a token's channels lie next to each other
TAPS = range(2, 5)  # of the convolutions that it has


def is_bound(step: Callable) -> bool:
    """Return whether the library took a kernel for one of its steps, which it decides by importing it."""
    return inspect.getclosurevars(step).nonlocals.get("is_new_implementation", False)


def by_device(step: Callable, plain: Callable) -> Callable:
    """Return a step that calls the library's `step`, so its kernel, on a GPU, and `plain` elsewhere.

    `plain` takes over too where the kernel has no such convolution.
    """
    named = inspect.signature(plain).parameters

    @functools.wraps(plain)
    def chosen(first: Tensor, *rest, **options):
        if on_gpu(first) and not _is_refused(step.__name__, first, *rest):
            return step(_laid_out(step.__name__, first), *rest, **options)
        return plain(first, *rest, **{name: value for name, value in options.items() if name in named})

    chosen.kernel = step
    return chosen


def on_gpu(tensor: Tensor) -> bool:
    """Return whether a kernel can take a tensor."""
    return tensor.is_cuda


def guard(module: ModuleType) -> None:
    """Make a module of the library call its kernels by device and layout, and its own PyTorch code otherwise."""
    for name, step in list(vars(module).items()):
        if isinstance(step, FunctionType) and is_bound(step):
            setattr(module, name, by_device(step, inspect.unwrap(step)))


def _is_refused(name: str, first: Tensor, *rest) -> bool:
    """Return whether the kernel of a step takes none of these arguments, in whatever layout."""
    if name == "mamba2_split_conv1d_scan_combined":  # convolves a part of `first`, which has its strides
        channels, taps = rest[0].shape
        return bool(first.shape[-1] % MULTIPLE or channels % MULTIPLE) or taps not in TAPS
    if name == "causal_conv1d_fn":
        return rest[0].shape[-1] not in TAPS
    return name == "causal_conv1d_update" and rest[1].shape[-1] not in TAPS


def _laid_out(name: str, first: Tensor) -> Tensor:
    """Return the sequences (rows, channels, T) of a convolution in a layout that the kernel takes."""
    if name == "causal_conv1d_fn" and any(n % MULTIPLE for n in (first.shape[1], first.stride(0), first.stride(2))):
        return first.contiguous()
    return first


for library_module in LIBRARY:
    guard(library_module)
