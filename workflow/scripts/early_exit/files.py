"""How files come into being and are read again: whole or not at all, and with the bytes that were written.

A file is written under a temporary name and moved into place, so a half-written one never looks whole. A hand-over
file, which another rule reads, has its SHA-256 in a small file beside it, as `sha256sum --check` reads it: the one
guard that is the same for Parquet, JSON, CSV and weights, and leaves their formats as they are. A file without one (a
model's config.json, results that were copied without it) is taken as it is.
"""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)


class InputError(Exception):
    """Something the user gave (config, file, model) is wrong; the message is one line that says what to do."""


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; it takes the real name only if the block ends without an error."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with room_for(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def hand_over(path: str | Path) -> Iterator[Path]:
    """`whole_file` for what another rule reads: leaves the SHA-256 beside it."""
    path = Path(path)
    with whole_file(path) as temporary:
        yield temporary
        with temporary.open("rb") as file, whole_file(seal(path)) as beside:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            beside.write_text(f"{digest}  {path.name}\n", encoding="utf-8")


def read(path: str | Path) -> bytes:
    """All bytes of a file; InputError if it cannot be read, or was changed since `hand_over` wrote it."""
    path = Path(path)
    try:
        content = path.read_bytes()
        sealed = seal(path).read_text(encoding="utf-8", errors="replace").split()[:1] if seal(path).exists() else None
    except OSError as error:
        raise broken(path, error.strerror or str(error)) from error
    if sealed is not None and sealed != [hashlib.sha256(content).hexdigest()]:
        raise broken(path, "its SHA-256 is not the one it was written with")
    return content


def seal(path: Path) -> Path:
    """Where the SHA-256 of a hand-over file lies."""
    return path.with_name(f".{path.name}.sha256")


def broken(path: str | Path, why: object) -> InputError:
    """The error of a file that is no use, with the remedy."""
    return InputError(f"{path}: cannot be read ({' '.join(str(why).split())}); delete it and run again")


@contextmanager
def room_for(path: str | Path) -> Iterator[None]:
    """An InputError that names `path` where writing it fills the disk, or the user's part of it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if number := _full(error):
            reason = os.strerror(number).lower()
            raise InputError(f"{path}: {reason}; free some (nothing half-written is kept) and run again") from error
        raise


def _full(error: BaseException | None) -> int | None:
    """The number of the system's error if a disk was full; libraries may hide it in their own."""
    while error is not None:
        for number in FULL:
            if getattr(error, "errno", None) == number or f"(os error {number})" in str(error):
                return number
        error = error.__cause__ or error.__context__
    return None
