"""What every job shares: log file, one-line errors, progress, seeds, device and dtype, versions."""

import gc
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata

from early_exit.base import files, redaction
from early_exit.base.errors import InputError

log = logging.getLogger("early_exit")
PACKAGES = ("snakemake", "torch", "transformers", "mamba-ssm", "causal-conv1d", "datasets", "pandas", "numpy",
            "pyarrow", "matplotlib", "sacrebleu", "rouge-score", "mapie", "schedulefree", "tokenizers",
            "safetensors")  # fmt: skip

if hasattr(sys.modules["__main__"], "snakemake"):
    # A job of Snakemake, not a user's interpreter. Importing torch and transformers makes hundreds of thousands of
    # objects that stay; collecting garbage among them at the default rate takes about a second of every such job.
    gc.set_threshold(50_000)


@contextmanager
def logged(snakemake) -> Iterator[logging.Logger]:
    """Log to the rule's log file; an InputError also ends the job with its one line on the terminal.

    Neither the file nor what is printed of an error holds tokens (see `redaction`).
    """
    path = str(snakemake.log[0])
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(redaction.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, force=True, handlers=[handler])
    logging.captureWarnings(True)
    sys.excepthook = redaction.excepthook
    logging.raiseExceptions = False  # a log that cannot be written must not bury the job's own error
    made = snakemake.output[0] if snakemake.output else snakemake.rule
    try:
        with files.exclusive(f"{path}.lock", made), files.naming_full_disk(made):
            yield log
    except InputError as error:
        log.error("%s", error)
        sys.exit(redaction.redact(f"Error in {snakemake.rule}: {error}"))
    except BaseException:
        log.exception("%s failed", snakemake.rule)
        raise


def progress(
    items: Iterable, total: int, label: str, every: float = 10.0, note: Callable[[], str] | None = None
) -> Iterator:  # fmt: skip
    """Yield the items; a tqdm bar on a terminal, else a plain line in the log every `every` seconds.

    `note` says, after an item, what else the bar or line shall hold.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(items, total=total, desc=label) as bar:
            for item in bar:
                yield item
                if note:
                    bar.set_postfix_str(note(), refresh=False)
        return
    begin = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= every or done == total:
            last = now
            rest = f", {note()}" if note else ""
            log.info("%s: %d/%d, %.1f per second%s", label, done, total, done / max(now - begin, 1e-9), rest)


def device_name(device: str) -> str:
    """What a config's `device` is on this machine: cpu or cuda."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def prepare_torch(seed: int, device: str, dtype: str, threads: int):
    """Seed torch, fix its threads, and give (torch.device, torch.dtype). `device` may be auto, cpu or cuda."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    name = device_name(device)
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda, but torch sees no GPU here; set device: auto or cpu")
    return torch.device(name), getattr(torch, dtype)


def versions() -> dict[str, str]:
    """Versions of Python and of every package whose code may change a number; absent ones say so."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware() -> dict[str, str]:
    """Processor, cores and memory, for the provenance page."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"machine": platform.machine(), "system": platform.system(), "cores": str(os.cpu_count()),
            "memory_gib": f"{memory:.0f}"}  # fmt: skip
