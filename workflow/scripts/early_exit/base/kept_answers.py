"""Answers kept by what they depend on, so that none is computed twice.

A backbone's answers to a dataset lie in one folder, as JSON lines. Each job appends to a file of its own and reads all
files of the folder, so that it also finds what jobs of another division into shards have answered. A line is the
CRC-32 of its JSON in hex, a space, and the JSON: `key`, a digest of all that an answer depends on beside its example
and prompt (see `decoding.answer_keys`), and `row`, the answer. A line that is not whole, or that a disk has changed, is
skipped with a warning, and its answer is computed again.

The files are undeclared: Snakemake deletes the outputs of a job that it runs again or that fails. The last line of a
job that ended well names the keys that it needed; `clean` drops answers with other keys, and a job does so itself
where they take more than it was allowed.
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

from early_exit.base import files, job

MIB = 2**20
Row = dict[str, Any]


class KeptAnswers:
    """The kept answers that one job can use, and those that it adds; a context, which writes what is left at its end.

    Args:
        path: the job's file; its folder is created.
        keys: those of the job's answers.
        examples: the names of the job's examples.
        every: answers per write, which is how many a killed job loses at most.

    `added` counts the answers that were computed. InputError if the disk is full.
    """

    def __init__(self, path: str | Path, keys: Collection[str], examples: Collection[str], every: int):
        self.path, self.every, self.added = Path(path), every, 0
        self._keys, self._unwritten = set(keys), []
        self._rows: dict[tuple[str, str, str], Row] = {}
        examples = set(examples)
        for file in sorted(self.path.parent.glob("*.jsonl"), key=lambda file: (file != self.path, file)):
            for entry in _entries(file):
                if entry.get("key") in self._keys and entry["row"]["example_id"] in examples:
                    place = entry["key"], entry["row"]["example_id"], entry["row"]["prompt_sha256"]
                    if place not in self._rows and file != self.path:
                        self._unwritten.append(_line(entry))
                    self._rows[place] = entry["row"]

    def __enter__(self) -> "KeptAnswers":
        return self

    def __exit__(self, *error) -> None:
        self._write()

    def get(self, key: str, example_id: str, prompt_sha256: str) -> Row | None:
        """The answer of an earlier job, or of an earlier attempt at this one."""
        return self._rows.get((key, example_id, prompt_sha256))

    def add(self, key: str, row: Row) -> None:
        """Keep an answer: text, numbers, and lists of them, with `example_id` and `prompt_sha256` among them."""
        self.added += 1
        self._unwritten.append(_line({"key": key, "row": row}))
        if len(self._unwritten) >= self.every:
            self._write()

    def finish(self, spare_mb: float) -> None:
        """Note which keys the job needed; drop other answers from its file if they take more than `spare_mb` MiB."""
        self._unwritten.append(_line({"needed": sorted(self._keys)}))
        self._write()
        if _unneeded(self.path) > spare_mb * MIB:
            clean(self.path)

    def _write(self) -> None:
        if not self._unwritten:
            return
        with files.naming_full_disk(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                if file.tell() and not _ends_line(file):  # a kill left half a line
                    file.write(b"\n")
                file.writelines(self._unwritten)
                file.flush()
                os.fsync(file.fileno())
        self._unwritten = []


def clean(path: str | Path) -> int:
    """Drop the answers that the last job of a file did not need; returns by how many bytes the file has shrunk.

    A file whose last job did not end well stays as it is.
    """
    entries, before = list(_entries(path)), Path(path).stat().st_size
    if not entries or "needed" not in entries[-1]:
        return 0
    needed = set(entries[-1]["needed"])
    with files.whole_file(path) as temporary, temporary.open("wb") as file:
        file.writelines(_line(entry) for entry in entries if entry.get("key") in needed)
        file.write(_line(entries[-1]))
    return before - Path(path).stat().st_size


def _unneeded(path: Path) -> int:
    """Bytes of a file's answers that its last job did not need."""
    entries = list(_entries(path))
    needed = set(entries[-1]["needed"])
    return sum(len(_line(entry)) for entry in entries if "key" in entry and entry["key"] not in needed)


def _entries(path: str | Path) -> Iterator[dict[str, Any]]:
    """The entries of a file's whole lines, in order."""
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            check, _, content = line.rstrip(b"\n").partition(b" ")
            if check == _checksum(content):
                yield json.loads(content)
            elif content or check:
                job.log.warning("%s: line %d is broken; what it held is computed again", path, number)


def _line(entry: Mapping[str, Any]) -> bytes:
    content = json.dumps(entry).encode()
    return _checksum(content) + b" " + content + b"\n"


def _checksum(content: bytes) -> bytes:
    return f"{crc32(content):08x}".encode()


def _ends_line(file) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
