"""The answers that a job has given so far, saved beside its output, so that a killed job resumes after them.

The file is JSON lines: first the fingerprint of all that determines the answers (`resume.fingerprint`), then one line
per answer. It is undeclared (see `files.partial`). Each batch of lines is flushed to the disk before the job goes on. A
kill or a power cut therefore leaves whole lines and, behind them, at most a part of a batch: half a line or zeros,
neither of which is JSON with a line end. Reading stops at the first such line, and the file is cut there.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from early_exit.base import files, job


class Journal:
    """The saved answers of one job.

    Args:
        path: the file; its folder is created.
        fingerprint: of all that determines the answers. A file with another fingerprint is replaced.
        every: answers per write, which is how many a killed job loses at most.

    `rows` are the answers of earlier attempts, in the order in which they were given. What was cut off or replaced is
    logged as a warning. InputError if the disk is full.
    """

    def __init__(self, path: str | Path, fingerprint: str, every: int):
        self.path, self.every = Path(path), every
        self.rows: list[dict[str, Any]] = []
        self._unwritten: list[bytes] = []
        length = self._read(fingerprint) if self.path.exists() else 0
        if self.rows:
            job.log.info("%s: going on after %d answers", self.path, len(self.rows))
        with files.naming_full_disk(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.truncate(length)
        if not length:
            self._append([_line({"fingerprint": fingerprint})])

    def add(self, row: Mapping[str, Any]) -> None:
        """Save an answer: a mapping of text, numbers, booleans and lists of them."""
        self._unwritten.append(_line(row))
        if len(self._unwritten) >= self.every:
            self._append(self._unwritten)
            self._unwritten = []

    def _append(self, lines: list[bytes]) -> None:
        with files.naming_full_disk(self.path), self.path.open("ab") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())

    def _read(self, fingerprint: str) -> int:
        """Fill `rows`; returns the length in bytes of the part of the file that can be used."""
        length = 0
        with self.path.open("rb") as file:
            for line in file:
                if (entry := _parse(line)) is None:
                    job.log.warning("%s: cut off after %d answers, where a line is broken", self.path, len(self.rows))
                    break
                if not length and entry != {"fingerprint": fingerprint}:
                    job.log.warning("%s: is of other settings, code or data; starting over", self.path)
                    break
                if length:
                    self.rows.append(entry)
                length += len(line)
        return length


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _parse(line: bytes) -> dict[str, Any] | None:
    """The entry of a line; None if the line is not whole."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
