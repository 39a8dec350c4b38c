"""Rows of a data source: a hub id at a pinned revision, a local folder in the hub's layout, or one local file.

Accepted files are JSON lines, JSON (a list of records, or CoQA's object with such a list under `data`), CSV with a
header, Parquet, and text (one row per line, in the column `text`), all in UTF-8. `split_files` assigns a folder's
files to splits; a single file is one split, which is read whatever split is named. An InputError names the file and
the line, record or row that cannot be read.
"""

import csv
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from early_exit.base.errors import InputError
from early_exit.sources import split_files

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Row(NamedTuple):
    """One record, and its place in the source for messages."""

    where: str
    values: dict[str, Any]


def open_source(key: str, spec: Mapping[str, Any], root: str | Path) -> "LocalSource | HubSource":
    """Returns the source of a config entry `spec` (keys source, name, revision); `key` is the entry's place.

    A relative path starts at `root`. InputError if the source is neither an existing path nor a hub id with a revision.
    """
    source, name, revision = spec["source"], spec.get("name"), spec.get("revision")
    path = Path(root, source)
    if path.exists():
        return LocalSource(key, source, path, name)
    if path.suffix in READERS or not _HUB_ID.fullmatch(source):
        raise InputError(f"{key}.source: {source} is no file or folder here, and no hub id (owner/name)")
    if not revision:
        raise InputError(f"{key}.revision: {source} is no local path; a hub id needs the commit to read it at")
    return HubSource(key, source, name, revision)


class HubSource:
    """A dataset on the Hugging Face hub, read by the library `datasets` through its cache, or streamed."""

    def __init__(self, key: str, source: str, name: str | None, revision: str):
        self.key, self.source, self.name, self.revision = key, source, name, revision

    def split(self, wanted: str | None, key: str) -> str:
        """Returns the split to read: `wanted`, or for null the only one; InputError if there are more."""
        if wanted is not None:
            return wanted
        from datasets import get_dataset_split_names

        with self._one_line_errors():
            return _only_split(get_dataset_split_names(self.source, self.name, revision=self.revision), self, key)

    def rows(self, split: str, streaming: bool = False) -> Iterator[Row]:
        """Yields the rows of a split; `streaming` downloads only as much as is read."""
        from datasets import load_dataset_builder

        with self._one_line_errors():
            builder = load_dataset_builder(self.source, self.name, revision=self.revision)
            if self.revision and builder.hash != self.revision:  # offline, `datasets` takes the cached revision
                raise ConnectionError(f"out of reach, and the cache has another revision, {builder.hash}")
            if streaming:
                data = builder.as_streaming_dataset(split)
            else:
                builder.download_and_prepare()
                data = builder.as_dataset(split)
            for number, values in enumerate(data, 1):
                yield Row(f"{self.source}, split {split}, row {number}", values)

    def provenance(self, splits: Collection[str]) -> dict[str, str]:
        """Returns source, subset and revision."""
        return {"source": self.source, "name": self.name or "", "revision": self.revision}

    @contextmanager
    def _one_line_errors(self):
        from datasets.exceptions import DatasetsError

        try:
            yield
        except (DatasetsError, OSError, RuntimeError, ValueError) as error:
            at = f"{self.source} at revision {self.revision}"
            raise InputError(f"{self.key}: {at} cannot be read from the hub ({_first_line(error)})") from error


class LocalSource:
    """A local file, or a local folder in the hub's layout."""

    def __init__(self, key: str, source: str, path: Path, name: str | None):
        self.key, self.source, self.path = key, source, path
        self.files = split_files.find(path, name, READERS) if path.is_dir() else {"": [path]}
        for file in (file for files in self.files.values() for file in files):
            if file.suffix not in READERS:
                raise InputError(f"{key}.source: {file} is none of {', '.join(READERS)}")
        if not self.files:
            where = f"nor in its folder {name or 'data'}, nor by a README.md that names any"
            raise InputError(f"{key}.source: no {', '.join(READERS)} file in {path}, {where}")

    def split(self, wanted: str | None, key: str) -> str:
        """Returns the split to read: `wanted`, or for null the only one; InputError if there is none such."""
        if wanted is None or self.path.is_file():
            return _only_split(list(self.files), self, key)
        if wanted not in self.files:
            raise InputError(f"{key}: {wanted} is no split of {self.source}; it has {', '.join(self.files)}")
        return wanted

    def rows(self, split: str, streaming: bool = False) -> Iterator[Row]:
        """Yields the rows of a split; files are always read as needed, so `streaming` changes nothing."""
        for file in self.files[split]:
            try:
                yield from READERS[file.suffix](file)
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{file}: cannot be read ({_first_line(error)})") from error

    def provenance(self, splits: Collection[str]) -> dict[str, str]:
        """Returns the source, and the SHA-256 of each file of these splits by its path in the folder."""
        hashes = {"source": self.source}
        for file in (file for split in sorted(splits) for file in self.files[split]):
            name = file.name if file == self.path else file.relative_to(self.path).as_posix()
            with file.open("rb") as stream:
                hashes[f"sha256:{name}"] = hashlib.file_digest(stream, "sha256").hexdigest()
        return hashes


def _only_split(names: list[str], source: LocalSource | HubSource, key: str) -> str:
    if len(names) != 1:
        raise InputError(f"{key}: null, but {source.source} has more than one split; name one of {', '.join(names)}")
    return names[0]


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{path}, line {number}: not UTF-8 text ({error.reason})") from error


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{where}: not JSON ({error.msg})") from error
            yield Row(where, _record(value, where))


def _json_rows(path: Path) -> Iterator[Row]:
    """Yields records from a list, from CoQA's {"data": [...]}, or from JSON lines, which the hub allows here too."""
    try:
        value = json.loads("".join(_lines(path)))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and error.lineno == 2:
            yield from _jsonl_rows(path)
            return
        raise InputError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    records = value.get("data", [value]) if isinstance(value, dict) else value
    if not isinstance(records, list):
        raise InputError(f"{path}: neither a list of records nor an object with such a list under `data`")
    for number, values in enumerate(records, 1):
        where = f"{path}, record {number}"
        yield Row(where, _record(values, where))


def _record(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: a record must be a JSON object")
    return value


def _csv_rows(path: Path) -> Iterator[Row]:
    reader = csv.DictReader(_lines(path), strict=True)
    try:
        for values in reader:
            if None in values or None in values.values():  # DictReader marks too many and too few columns with None
                raise InputError(f"{path}, line {reader.line_num}: not as many columns as the header has")
            yield Row(f"{path}, line {reader.line_num}", values)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.reader.line_num}: not CSV ({error})") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                yield Row(f"{path}, row {number}", values)


def _txt_rows(path: Path) -> Iterator[Row]:
    """Yields every line as a text, as the hub does."""
    for number, line in enumerate(_lines(path), 1):
        yield Row(f"{path}, line {number}", {"text": line.rstrip("\r\n")})


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


READERS = {".jsonl": _jsonl_rows, ".json": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows, ".txt": _txt_rows}
