"""How far a run is: which jobs are done, which run or were cut short, which are still to come."""

from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

COLUMNS = ("rule", "done", "running", "missing")


def table(jobs: Mapping[str, Sequence[str]], records: str | Path) -> pd.DataFrame:
    """Jobs of each rule by their state, in the order of `jobs`; columns COLUMNS.

    A job is done if its file is there, unless Snakemake has a mark that it is being written: then it is running, or was
    killed. What has neither is missing. Whether a file that is there is up to date, a dry run says.

    Args:
        jobs: for each rule the file of each of its jobs, as paths from where Snakemake runs.
        records: Snakemake's own folder, `.snakemake`.
    """
    marked = unfinished(Path(records))
    rows = []
    for rule, files in jobs.items():
        running = [file for file in files if file in marked]
        done = [file for file in files if file not in marked and Path(file).exists()]
        rows.append((rule, len(done), len(running), len(files) - len(done) - len(running)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def unfinished(records: Path) -> set[str]:
    """The outputs that Snakemake has marked as being written, by files named with the base64 of a path, in parts."""
    marks = records / "incomplete"
    names = ("".join(part.removeprefix("@") for part in file.relative_to(marks).parts)
             for file in marks.rglob("*") if file.is_file())  # fmt: skip
    return {urlsafe_b64decode(name).decode() for name in names if not name.endswith("migration_underway")}
