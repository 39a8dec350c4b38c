"""How files come into being and are read again: whole or not at all, and with the bytes that were written.

A file is written under a temporary name and moved into place, so a half-written one never looks whole. A hand-over
file, which another rule reads, has its SHA-256 in a small file beside it, as `sha256sum --check` reads it: the one
guard that is the same for Parquet, JSON, CSV and weights, and leaves their formats as they are. A file without one (a
model's config.json, results that were copied without it) is taken as it is.
"""

import errno
import fcntl
import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from early_exit.base.errors import InputError

ROOT = Path(__file__).resolve().parents[4]  # the repository: relative sources in a config start here
FULL = (errno.ENOSPC, errno.EDQUOT)
UNLOCKED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # a file system that knows no locks


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


def kept(path: str | Path) -> Path:
    """Where the job that makes `path` keeps what it has done so far, to go on from if it is killed.

    It is no declared output: Snakemake deletes those of a job that failed, and those of one that ended well without its
    knowledge (it was killed itself). So the job leaves it, and it goes when the whole run has succeeded.
    """
    return Path(path).with_suffix(".partial")


@contextmanager
def alone(lock: str | Path, made: str) -> Iterator[None]:
    """Holds a lock while the block, and so the process, lives; InputError if another process holds it.

    A job lives on when its Snakemake is killed, on a cluster even on another node; beside the one that the next
    Snakemake starts it would write the same files. And of several runs in one folder the first that ends takes the
    locks of all away (Snakemake 9.27). `lock` is where the lock's file lies, `made` what the job makes.
    """
    path = Path(lock)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise InputError(
                f"{made}: {file.read().strip()} is still at it, started by another Snakemake or one that "
                "was killed; wait for its end, or kill it, and run again"
            ) from error
        except OSError as error:
            if error.errno not in UNLOCKED:
                raise
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


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
