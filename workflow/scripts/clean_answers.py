"""Rule clean_answers: drops the kept answers that no finished job of this config needed."""

from pathlib import Path

from early_exit.base import job, kept_answers

with job.logged(snakemake):
    params, freed = snakemake.params, 0
    for path in sorted(Path(params.folder).rglob("*.jsonl")):
        if path.as_posix() in params.used:
            freed += kept_answers.clean(path)
        else:
            freed += path.stat().st_size
            path.unlink()
    print(f"{params.folder}: {freed / kept_answers.MIB:.1f} MiB freed")
