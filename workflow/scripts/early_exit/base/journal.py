"""The answers that a job has given so far, in a file beside its output, so that a killed one asks only for the others.

The file is no declared output (see `files.kept`). It grows by a line for each answer, with a checksum before it, after
a first line with the fingerprint of all that determines the answers (see `checkpoints`). What a killed job left
half-written, and all after it, is cut off; a file of another fingerprint is passed over. Both are said in the log.
"""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from early_exit.base import files, job


class Journal:
    """The file of one job.

    Args:
        path: where it lies.
        fingerprint: of what determines the answers.
        every: how many answers may be lost: so many are written at a time.

    `rows` are the answers of an earlier try, in the order in which they were given.
    """

    def __init__(self, path: str | Path, fingerprint: str, every: int):
        self.path, self.every = Path(path), every
        self.rows: list[dict[str, Any]] = []
        self._waiting: list[bytes] = []
        whole = self._read(fingerprint) if self.path.exists() else 0
        if self.rows:
            job.log.info("%s: going on after %d answers", self.path, len(self.rows))
        with files.room_for(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.truncate(whole)
        if not whole:
            self._append([_line({"fingerprint": fingerprint})])

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep an answer: text, numbers, booleans and lists of them."""
        self._waiting.append(_line(row))
        if len(self._waiting) >= self.every:
            self._append(self._waiting)
            self._waiting = []

    def _append(self, lines: list[bytes]) -> None:
        with files.room_for(self.path), self.path.open("ab") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())

    def _read(self, fingerprint: str) -> int:
        """Take what is whole into `rows`; the bytes up to where the file is."""
        whole = 0
        with self.path.open("rb") as file:
            for line in file:
                if (entry := _entry(line)) is None:
                    job.log.warning("%s: broken after %d answers; those are kept", self.path, len(self.rows))
                    break
                if not whole and entry != {"fingerprint": fingerprint}:
                    job.log.warning("%s: is of other settings, code or data; starting over", self.path)
                    break
                if whole:
                    self.rows.append(entry)
                whole += len(line)
        return whole


def _line(entry: Mapping[str, Any]) -> bytes:
    text = json.dumps(entry).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line holds; None if it is not whole."""
    checksum, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    return json.loads(text)
