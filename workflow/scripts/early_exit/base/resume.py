"""Where a training is, in a file beside its outputs, so that a killed one goes on instead of starting over.

The file is no declared output (see `files.kept`). It is moved into place whole, read without running anything that is
in it, and belongs to one training: its fingerprint is of all that determines the result. What does not fit is passed
over, with a line in the log.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch

from early_exit.base import job
from early_exit.base.files import whole_file


def fingerprint(files: Iterable[str | Path], settings: Mapping[str, Any]) -> str:
    """SHA-256 over the contents of files, in any order, and of settings, which JSON can hold."""
    hashes = []
    for path in files:
        with Path(path).open("rb") as file:
            hashes.append(f"{Path(path).name}:{hashlib.file_digest(file, 'sha256').hexdigest()}")
    return hashlib.sha256(json.dumps([sorted(hashes), settings], sort_keys=True).encode()).hexdigest()


class Checkpoint:
    """The file of one training.

    Args:
        path: where it lies; `path` is replaced, never appended to.
        fingerprint: of what determines the training's result.
        seconds: how long after the last one the next is due; 0 means after every step.
    """

    def __init__(self, path: str | Path, fingerprint: str, seconds: float):
        self.path, self.fingerprint, self.seconds = Path(path), fingerprint, seconds
        self._last = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self._last >= self.seconds

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep a state of tensors, numbers, text, lists and dicts."""
        with whole_file(self.path) as temporary, temporary.open("wb") as file:  # given a path, torch hides a full disk
            torch.save({"fingerprint": self.fingerprint, "state": dict(state)}, file)
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state that was kept last, its tensors on the CPU; None if there is none of this very training."""
        if not self.path.exists():
            return None
        try:
            with ZipFile(self.path) as file:  # torch's format is a zip file, whose checksums torch does not look at
                if file.testzip():
                    raise BadZipFile("its checksum is wrong")
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            if saved["fingerprint"] == self.fingerprint:
                return saved["state"]
        except Exception as error:  # there is nothing that a broken file might not make a reader raise
            what = " ".join(str(error).split())[:200] or type(error).__name__
            job.log.warning("%s: cannot be read (%s); training starts over", self.path, what)
        else:
            job.log.warning("%s: is of other settings, code or data; training starts over", self.path)
        return None
