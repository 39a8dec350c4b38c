"""Mamba-1's scans."""


def selective_scan_fn(u, delta, A, B, C, *rest, **options):
    raise RuntimeError("Expected u.is_cuda() to be true")


def mamba_inner_fn(xz, *rest, **options):
    raise RuntimeError("Expected xz.is_cuda() to be true")
