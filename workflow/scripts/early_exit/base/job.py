"""What every job needs: its log, one-line errors, progress, torch's seed, device and threads, and versions.

A job is one run of a rule's script, in a process of its own. It reads hand-over files, writes its outputs as a whole
(see `files`) and logs to the rule's log file. A script consists of one block `with job.logged(snakemake) as log:`.
"""

import gc
import json
import logging
import os
import platform
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from early_exit.base import files, gpus, kernels, redaction
from early_exit.base.errors import InputError

log = logging.getLogger("early_exit")
PACKAGES = (
    "snakemake",
    "torch",
    "transformers",
    "mamba-ssm",
    "causal-conv1d",
    "datasets",
    "pandas",
    "numpy",
    "pyarrow",
    "matplotlib",
    "sacrebleu",
    "rouge-score",
    "mapie",
    "schedulefree",
    "tokenizers",
    "safetensors",
)

HARDWARE = "hardware: "  # how the line of a log begins that says what its job ran on
IS_JOB = hasattr(sys.modules["__main__"], "snakemake")
if IS_JOB:
    # A job of Snakemake, not a user's interpreter. Importing torch and transformers makes hundreds of thousands of
    # objects that stay; collecting garbage among them at the default rate takes about a second of every such job.
    gc.set_threshold(50_000)


@contextmanager
def logged(snakemake) -> Iterator[logging.Logger]:
    """Yields the logger of a job, which writes to the rule's log file.

    An InputError ends the job with its one line on the terminal. No other process can make the same outputs during the
    block (see `files.exclusive`). Tokens are redacted in the log and in printed errors (see `redaction`).
    """
    path = str(snakemake.log[0])
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(redaction.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, force=True, handlers=[handler])
    logging.captureWarnings(True)
    sys.excepthook = redaction.excepthook
    logging.raiseExceptions = False  # a log that cannot be written must not hide the job's own error
    output = snakemake.output[0] if snakemake.output else snakemake.rule
    try:
        with files.exclusive(f"{path}.lock", output), files.naming_full_disk(output):
            yield log
    except InputError as error:
        log.error("%s", error)
        sys.exit(redaction.redact(f"Error in {snakemake.rule}: {error}"))
    except BaseException:
        log.exception("%s failed", snakemake.rule)
        raise


def progress(
    items: Iterable, total: int, label: str, every: float = 10.0, note: Callable[[], str] | None = None
) -> Iterator:
    """Yields the items, with a tqdm bar on a terminal, else with a line in the log every `every` seconds.

    `note`, called after an item, returns text to show behind the counts.
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
    """Returns cpu or cuda for a config's `device`, which may also be auto. A job that may use a GPU claims one."""
    import torch

    if IS_JOB and device != "cpu":
        gpus.claim_device()
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def prepare_torch(seed: int, device: str, dtype: str, threads: int):
    """Seed torch and set its number of threads; returns (torch.device, torch.dtype).

    `device` is auto, cpu or cuda; InputError if it is cuda and there is no GPU.
    """
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    name = device_name(device)
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda, but torch sees no GPU here; set device: auto or cpu")
    used = hardware() | (gpu_hardware() if name == "cuda" else {})
    log.info("%s%s", HARDWARE, json.dumps(used))
    return torch.device(name), getattr(torch, dtype)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of all packages whose code can change a number, `not installed` if absent."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware() -> dict[str, str]:
    """Returns what a job runs on: processor, system, cores and memory in GiB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count()),
        "memory_gib": f"{memory:.0f}",
    }


def gpu_hardware() -> dict[str, str]:
    """Returns the name of the GPU that a job runs on, and of each package of Mamba's kernels whether it is in use."""
    import torch

    return {"gpu": torch.cuda.get_device_name(), **kernels.states()}


def pipeline() -> dict[str, str]:
    """Returns the pipeline's version, its commit, and whether files of the working tree differ from it."""
    project = tomllib.loads((files.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    commit, changes = (_git(*words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain")))
    tree = "unknown" if changes is None else "changed" if changes else "clean"
    return {"version": project["version"], "commit": commit or "unknown: no git repository", "working tree": tree}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=files.ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    """The processor's name, where the system says it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
