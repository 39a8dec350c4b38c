"""Checkpoints of a training, saved beside its outputs, so that a killed training resumes instead of starting over.

The file is undeclared (see `files.partial`) and replaced as a whole by each checkpoint. Reading it runs no code from
it. A checkpoint belongs to one training: its fingerprint covers all that determines the result, and one with another
fingerprint, or one that cannot be read, is ignored with a warning in the log.
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
    """Returns a SHA-256 over the contents of files, in any order, and of settings, which JSON must be able to hold."""
    hashes = []
    for path in files:
        with Path(path).open("rb") as file:
            hashes.append(f"{Path(path).name}:{hashlib.file_digest(file, 'sha256').hexdigest()}")
    return hashlib.sha256(json.dumps([sorted(hashes), settings], sort_keys=True).encode()).hexdigest()


class Checkpoint:
    """The checkpoint file of one training.

    Args:
        path: the file.
        fingerprint: of all that determines the training's result.
        seconds: from one checkpoint until the next is due; 0 means after every step.
    """

    def __init__(self, path: str | Path, fingerprint: str, seconds: float):
        self.path, self.fingerprint, self.seconds = Path(path), fingerprint, seconds
        self._last = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self._last >= self.seconds

    def save(self, state: Mapping[str, Any]) -> None:
        """Saves a state of tensors, numbers, text, lists and dicts."""
        with whole_file(self.path) as temporary, temporary.open("wb") as file:  # given a path, torch hides a full disk
            torch.save({"fingerprint": self.fingerprint, "state": dict(state)}, file)
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Returns the state saved last, its tensors on the CPU; None if there is none of this training."""
        if not self.path.exists():
            return None
        try:
            with ZipFile(self.path) as file:  # torch's format is a zip file, but torch does not verify its checksums
                if file.testzip():
                    raise BadZipFile("its checksum is wrong")
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            if saved["fingerprint"] == self.fingerprint:
                return saved["state"]
        except Exception as error:  # a broken file can make the readers raise anything
            what = " ".join(str(error).split())[:200] or type(error).__name__
            job.log.warning("%s: cannot be read (%s); training starts over", self.path, what)
        else:
            job.log.warning("%s: is of other settings, code or data; training starts over", self.path)
        return None
