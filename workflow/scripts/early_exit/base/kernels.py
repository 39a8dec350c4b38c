"""Whether the packages with Mamba's CUDA kernels can be used here, which only an import shows."""

import importlib

PACKAGES = ("mamba_ssm", "causal_conv1d")


def states() -> dict[str, str]:
    """Return for each package `in use on GPUs`, `not installed`, or why it cannot be imported."""
    found = {}
    for package in PACKAGES:
        try:
            importlib.import_module(package)
            found[package] = "in use on GPUs"
        except ModuleNotFoundError as error:
            found[package] = "not installed" if error.name == package else f"cannot be imported ({error})"
        except Exception as error:  # a library of another PyTorch or CUDA fails in many ways
            found[package] = f"cannot be imported ({type(error).__name__}: {' '.join(str(error).split())})"
    return found
