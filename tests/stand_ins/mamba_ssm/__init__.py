"""A stand-in for the kernels of mamba-ssm, which refuse tensors on a CPU."""
