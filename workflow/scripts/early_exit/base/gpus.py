"""A GPU of its own for each job on a machine with several.

A local run starts as many jobs as `--resources gpu=N` allows, and all of them see all GPUs. (Slurm shows each job its
own.) So a job locks the first GPU that no other job of this user has locked, and hides the others from CUDA. The lock
ends with the process.
"""

import fcntl
import logging
import os
import tempfile
from collections.abc import Sequence
from io import TextIOBase
from pathlib import Path

log = logging.getLogger("early_exit")
VARIABLE = "CUDA_VISIBLE_DEVICES"
_locks: list[TextIOBase] = []  # of this process, open until it ends


def claim_device() -> None:
    """Hide all GPUs but a free one, before CUDA starts; where all are in use they stay visible, with a warning."""
    devices = visible()
    if _locks or len(devices) < 2:
        return
    folder = Path(tempfile.gettempdir(), f"early-exit-gpus-{os.getuid()}")
    free = lock_first(devices, folder)
    if free is None:
        log.warning("all of %d GPUs are in use by other jobs (%s); this one shares the first", len(devices), folder)
    else:
        os.environ[VARIABLE] = free
        log.info("GPU %s of %s", free, ", ".join(devices))


def visible() -> list[str]:
    """The GPUs that CUDA would see, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get(VARIABLE)
    if named is None:
        return [str(k) for k in range(torch.cuda.device_count())]  # by NVML, which leaves CUDA alone
    return [name.strip() for name in named.split(",") if name.strip()]


def lock_first(devices: Sequence[str], folder: Path) -> str | None:
    """Lock the first of `devices` that is not locked, until this process ends; None if all are."""
    folder.mkdir(parents=True, exist_ok=True)
    for device in devices:
        file = (folder / f"{device.replace('/', '-')}.lock").open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            _locks.append(file)
            return device
    return None
