"""Records of local data files: JSON lines, JSON, CSV, Parquet and text, by their suffix.

At this edge every failure is an InputError of one line, which names the file and the line, record or row, and says what
to do: files are written by other programs, and the libraries that parse them raise errors of many types.
"""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from early_exit.base.errors import InputError

LFS_POINTER = b"version https://git-lfs"
LONGEST_CELL = 2**31 - 1  # characters of a CSV field; Python's own limit is 131072
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # an escape in JSON that may be half of a surrogate pair


class Row(NamedTuple):
    """One record, and its place in the source for messages."""

    where: str
    values: dict[str, Any]


def read(path: Path) -> Iterator[Row]:
    """Yields the records of a file; its suffix is one of READERS."""
    where = str(path)
    try:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise InputError(f"{path}: a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
        for row in READERS[path.suffix](path):
            where = f"{path}, after {row.where.removeprefix(f'{path}, ')}"
            yield row
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{where}: cannot be read ({first_line(error)}); repair or replace the file") from error


def parquet_rows(file: pq.ParquetFile, where: str, first: int = 1) -> Iterator[Row]:
    """Yields the rows of an open Parquet file, numbered from `first`; a row group is read when its first row is."""
    for group in range(file.num_row_groups):  # of all together, a batch would span several
        for batch in file.iter_batches(batch_size=1024, row_groups=[group], use_threads=False):
            for number, values in enumerate(_python_rows(batch, where, first), first):
                yield Row(f"{where}, row {number}", values)
            first += batch.num_rows


def refuse_half_pairs(value: Any, where: str, key: str = "") -> None:
    """Raise an InputError that names the key if a text in a record is no whole text: half of a surrogate pair."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = ascii(value[error.start])[1:-1]
            what = f"{key or 'the text'} has half of a surrogate pair ({half})"
            raise InputError(f"{where}: {what}; write the whole character, or remove it") from error
    elif isinstance(value, dict):
        for name, item in value.items():
            refuse_half_pairs(name, where, f"a name in {key or 'the record'}")
            name = repr(name)[1:-1]  # in one line
            refuse_half_pairs(item, where, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for item in value:
            refuse_half_pairs(item, where, key)


def parse_json(text: str) -> Any:
    """Returns the value of a JSON text; JSONDecodeError, with its place, also for what Python cannot hold."""

    def integer(digits: str) -> int:
        try:
            return int(digits)
        except ValueError as error:
            what = f"a number of {len(digits.removeprefix('-'))} digits"
            raise json.JSONDecodeError(what, text, text.index(digits)) from error

    try:
        return json.loads(text, parse_int=integer)
    except RecursionError as error:
        raise json.JSONDecodeError("lists or objects nested too deep", text, 0) from error


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, or its type if there is none."""
    return next(filter(None, str(error).splitlines()), type(error).__name__)


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                reason = f"not UTF-8 text ({error.reason})"
                raise InputError(f"{path}, line {number}: {reason}; save the file as UTF-8") from error


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                value = parse_json(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{where}: not JSON ({error.msg}); correct or remove the line") from error
            yield _record(value, where, may_have_half_pairs=bool(_HALF_PAIR.search(line)))


def _json_rows(path: Path) -> Iterator[Row]:
    """Yields records from a list, from CoQA's {"data": [...]}, or from JSON lines, which the hub allows here too."""
    text = "".join(_lines(path))
    try:
        value = parse_json(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and error.lineno == 2:
            yield from _jsonl_rows(path)
            return
        raise InputError(f"{path}, line {error.lineno}: not JSON ({error.msg}); correct the file") from error
    records = value.get("data", [value]) if isinstance(value, dict) else value
    if not isinstance(records, list):
        raise InputError(f"{path}: neither a list of records nor an object with such a list under `data`")
    for number, values in enumerate(records, 1):
        yield _record(values, f"{path}, record {number}", may_have_half_pairs=bool(_HALF_PAIR.search(text)))


def _record(value: Any, where: str, *, may_have_half_pairs: bool) -> Row:
    if not isinstance(value, dict):
        raise InputError(f"{where}: a record must be a JSON object")
    if may_have_half_pairs:
        refuse_half_pairs(value, where)
    return Row(where, value)


def _csv_rows(path: Path) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.DictReader(_lines(path), strict=True)
    try:
        names = list(filter(None, reader.fieldnames or ()))
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"{path}, line 1: column {twice[0]!r} stands there twice; rename or remove one")
        for values in reader:
            if None in values or None in values.values():  # DictReader marks too many and too few columns with None
                raise InputError(f"{path}, line {reader.line_num}: not as many columns as the header has")
            yield Row(f"{path}, line {reader.line_num}", values)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.reader.line_num}: not CSV ({error})") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        yield from parquet_rows(file, str(path))


def _python_rows(batch: pa.RecordBatch, where: str, first: int) -> list[dict[str, Any]]:
    """Returns the rows of a batch; InputError with row and column if a value is none that Python has."""
    try:
        return batch.to_pylist()
    except Exception as error:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            for number, value in enumerate(column, first):
                try:
                    value.as_py()
                except Exception as cause:
                    place = f"{where}, row {number}: {name!r}"
                    raise InputError(f"{place} cannot be read ({first_line(cause)}); correct the row") from cause
        raise InputError(f"{where}, from row {first}: cannot be read ({first_line(error)})") from error


def _txt_rows(path: Path) -> Iterator[Row]:
    """Yields every line as a text, as the hub does."""
    for number, line in enumerate(_lines(path), 1):
        yield Row(f"{path}, line {number}", {"text": line.rstrip("\r\n")})


READERS = {".jsonl": _jsonl_rows, ".json": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows, ".txt": _txt_rows}
