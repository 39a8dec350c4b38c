"""Rows of a data source: a hub id at a pinned revision, a local folder in the hub's layout, or one local file.

Accepted files are JSON lines, JSON (a list of records, or CoQA's object with such a list under `data`), CSV with a
header, Parquet, and text (one row per line, in the column `text`), all in UTF-8. `split_files` assigns a folder's
files to splits; a single file is one split, which is read whatever split is named. An InputError names the file and
the line, record or row that cannot be read.
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from early_exit.base.errors import InputError
from early_exit.sources import readers, split_files
from early_exit.sources.readers import READERS, Row, first_line

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


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
            where = f"{self.source}, split {split}"
            if streaming and (files := _parquet_files(builder, split)):
                yield from _streamed_rows(files, where)
                return
            if streaming:
                data = builder.as_streaming_dataset(split)
            else:
                builder.download_and_prepare()
                data = builder.as_dataset(split)
            for number, values in enumerate(data, 1):
                yield Row(f"{where}, row {number}", values)

    def provenance(self, splits: Collection[str]) -> dict[str, str]:
        """Returns source, subset and revision."""
        return {"source": self.source, "name": self.name or "", "revision": self.revision}

    @contextmanager
    def _one_line_errors(self):
        """Turns every error of the hub's libraries, which are of many types, into an InputError."""
        try:
            yield
        except (InputError, MemoryError):
            raise
        except Exception as error:
            at = f"{self.source} at revision {self.revision}"
            gated = "gated" in str(error)
            hint = "; accept its terms on its page, and set HF_TOKEN in the environment" if gated else ""
            raise InputError(f"{self.key}: {at} cannot be read from the hub ({first_line(error)}){hint}") from error


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
            yield from readers.read(file)

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


def _parquet_files(builder: Any, split: str) -> list[str]:
    """Returns the addresses of a split's files on the hub if all are Parquet, else none."""
    files = {str(name): list(map(str, files)) for name, files in (builder.config.data_files or {}).items()}
    return files[split] if split in files and all(file.endswith(".parquet") for file in files[split]) else []


def _streamed_rows(files: list[str], where: str) -> Iterator[Row]:
    """Yields the rows of Parquet files on the hub; a row group is downloaded when its first row is read.

    No threads read ahead: as `datasets` starts them, they abort the interpreter if it ends before they do (its issue
    7467).
    """
    import fsspec

    number = 1
    for address in files:
        with fsspec.open(address, "rb") as stream, pq.ParquetFile(stream, pre_buffer=False) as file:
            yield from readers.parquet_rows(file, where, number)
            number += file.metadata.num_rows
