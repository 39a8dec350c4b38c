"""Atomic writes and verified reads.

A file is written under a temporary name and then renamed, so that a half-written file never has the real name. For a
hand-over file, which another rule reads, the SHA-256 is saved beside it in `.NAME.sha256`, in the format of
`sha256sum --check`. It catches what renaming cannot: a file that was copied in part (a CSV file cut at the end of a
line looks whole), pages that a power cut left as zeros, a flipped bit. Parquet's page checksums do not replace it: they
leave out the footer, where one flipped bit drops rows from the table or changes its metadata without an error.

A file without a saved SHA-256 (a model's config.json, results copied without hidden files) is read unverified.
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

ROOT = Path(__file__).resolve().parents[4]  # the repository: relative paths in a config start here
FULL = (errno.ENOSPC, errno.EDQUOT)
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # the file system does not support locks


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which is renamed to `path` if the block ends without an error.

    Folders are created. InputError if the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with naming_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def hand_over(path: str | Path) -> Iterator[Path]:
    """`whole_file` for a file that another rule reads: also saves its SHA-256."""
    path = Path(path)
    with whole_file(path) as temporary:
        yield temporary
        with temporary.open("rb") as file, whole_file(_checksum(path)) as checksum:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            checksum.write_text(f"{digest}  {path.name}\n", encoding="utf-8")


def read(path: str | Path) -> bytes:
    """Returns all bytes of a file; InputError if it cannot be read or has not the SHA-256 that `hand_over` saved."""
    path, checksum = Path(path), _checksum(Path(path))
    try:
        content = path.read_bytes()
        saved = checksum.read_text(encoding="utf-8", errors="replace").split()[:1] if checksum.exists() else None
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error
    if saved is not None and saved != [hashlib.sha256(content).hexdigest()]:
        raise unreadable(path, "its SHA-256 is not the one it was written with")
    return content


def partial(output: str | Path) -> Path:
    """Returns the path at which the job that makes `output` saves unfinished work, to resume from after a kill.

    It is no declared output: Snakemake deletes those of a failed job, and those of a job that ended well after
    Snakemake itself was killed. The file stays when the job ends and is deleted when the whole run has succeeded.
    """
    return Path(output).with_suffix(".partial")


@contextmanager
def exclusive(lock: str | Path, output: str) -> Iterator[None]:
    """Holds a lock during the block; InputError if another process holds it.

    A job survives when its Snakemake is killed, on a cluster even on another node, and would write the same files as
    the job that the next Snakemake starts. Snakemake's own locks do not prevent that: of several runs in one folder,
    the first to end deletes the locks of all (Snakemake 9.27).

    Args:
        lock: path of the lock file; its folder is created.
        output: what the job makes, for the message.
    """
    path = Path(lock)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise InputError(
                f"{output}: {file.read().strip()} is still making it, started by another Snakemake or one that was "
                "killed; wait until it ends, or kill it, and run again"
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def unreadable(path: str | Path, reason: object) -> InputError:
    """Returns the error for a hand-over file that cannot be used; it says what to do."""
    return InputError(f"{path}: cannot be read ({' '.join(str(reason).split())}); delete it and run again")


@contextmanager
def naming_full_disk(path: str | Path) -> Iterator[None]:
    """Turns the error of a full disk, or a used-up quota, into an InputError that names `path`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if number := _full_disk(error):
            reason = os.strerror(number).lower()
            raise InputError(f"{path}: {reason}; free some (nothing half-written is left) and run again") from error
        raise


def _checksum(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _full_disk(error: BaseException | None) -> int | None:
    """Returns the errno of a full disk, which libraries may hide in errors of their own; None for other errors."""
    while error is not None:
        for number in FULL:
            if getattr(error, "errno", None) == number or f"(os error {number})" in str(error):
                return number
        error = error.__cause__ or error.__context__
    return None
