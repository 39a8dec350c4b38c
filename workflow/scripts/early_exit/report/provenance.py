"""The provenance page: the code, models, data, config and machine that the results come from, and what they took.

Paths of this machine are made relative before they reach the page.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from early_exit.base.job import HARDWARE
from early_exit.base.records import METRICS, Manifest
from early_exit.costs.passes import CostTable
from early_exit.evaluation.tables import metric_name, with_interval
from early_exit.report import pages

NOT_MEASURED = ("-", "NA")  # what Snakemake writes for a job too short to be measured
FACTS = ("source", "revision", "family", "depth", "dtype", "context", "sha256")  # of a backbone
RESULT_HEADER = (
    "agreement (%)", "degenerate (%)", "tokens per answer", "blocks per pass", "FLOPs per token", "FLOPs saved (%)",
    "on blocks alone (%)", "with prompt (%)", "seconds per token",
)  # fmt: skip

Benchmarks = Mapping[str, Mapping[str, pd.DataFrame | None]]


@dataclass(frozen=True)
class Origin:
    """Where the results of a run come from.

    Args:
        config: the resolved config, with relative paths (see `relative`).
        manifests: of every backbone, as fetch_backbone wrote them, with relative paths.
        costs: the cost table of each backbone, by name.
        disjoint: disjoint.json, the proof that no text is in two splits.
        benchmarks: by rule and path, Snakemake's benchmark table of a job; None for a job that did not run here.
        pipeline: its version and commit (see `job.pipeline`).
        versions: of the packages where the page is written.
        hardware: by rule, what its jobs ran on, as `read_hardware` returns it.
    """

    config: Mapping[str, Any]
    manifests: Sequence[Mapping[str, Any]]
    costs: Mapping[str, CostTable]
    disjoint: Mapping[str, Any]
    benchmarks: Benchmarks
    pipeline: Mapping[str, str]
    versions: Mapping[str, str]
    hardware: Mapping[str, Mapping[str, int]]


def page(origin: Origin, results: pd.DataFrame) -> str:
    """The page as HTML; `results` is results.csv."""
    config = origin.config
    times, unmeasured = _times(origin.benchmarks)
    return pages.render(
        "provenance",
        title=f"Provenance of the results of {config['name']}",
        seeds={"seed": str(config["seed"]), "bootstrap resamples": str(config["bootstrap"]["resamples"])},
        versions=origin.versions,
        pipeline=origin.pipeline,
        hardware=[[rule, jobs, place] for rule, places in origin.hardware.items() for place, jobs in places.items()],
        manifests=[_manifest(manifest, origin.costs[manifest["name"]]) for manifest in origin.manifests],
        sources=_sources(config),
        disjoint=origin.disjoint,
        splits=[[name, split["documents"], split["sha256"]] for name, split in origin.disjoint["splits"].items()],
        times=times,
        unmeasured=unmeasured,
        results=[_results(str(dataset), rows) for dataset, rows in results.groupby("dataset", sort=False)],
        config=yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True),
    )


def relative(value: Any, roots: Sequence[Path]) -> Any:
    """`value` (nested lists and dicts) with every absolute path relative to the first root that it lies under.

    Of a path under no root only the last part remains, since it would tell where a user's files lie.
    """
    if isinstance(value, Mapping):
        return {key: relative(part, roots) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [relative(part, roots) for part in value]
    if isinstance(value, str) and (os.path.isabs(value) or value.startswith("~")):
        path = Path(value)
        inside = (str(path.relative_to(root)) for root in roots if path.is_relative_to(root))
        return next(inside, f".../{path.name}")
    return value


def read_hardware(benchmarks: Iterable[str | Path]) -> Counter[str]:
    """How many jobs ran on which hardware, as the logs beside their benchmarks say it."""
    found = Counter()
    for path in map(Path, benchmarks):
        log = Path(*("logs" if part == "benchmarks" else part for part in path.with_suffix(".log").parts))
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        said = [line.partition(HARDWARE)[2] for line in lines if HARDWARE in line]
        found.update(", ".join(f"{key} {value}" for key, value in json.loads(line).items()) for line in said[:1])
    return found


def read_benchmark(path: str | Path) -> pd.DataFrame | None:
    """Snakemake's benchmark table of a job; None where the job did not run here."""
    if not Path(path).exists():
        return None
    table = pd.read_csv(path, sep="\t", na_values=NOT_MEASURED)
    return table.assign(max_rss=table["max_rss"].where(table["max_rss"] > 0))  # 0: it ended before it was looked at


def _manifest(manifest: Manifest, costs: CostTable) -> dict[str, Any]:
    """Name, facts and files of a backbone."""
    facts = {key: manifest.get(key) for key in FACTS}
    facts = {key: value if value is None else str(value) for key, value in facts.items()}
    counters = ", ".join(f"{counter} {flops:,}" for counter, flops in costs["counted"].items())
    facts["FLOPs a token of a block's products"] = f"{costs['block']['linear']:,}; counted: {counters}"
    return {"name": manifest["name"], "facts": facts, "files": sorted(manifest["files"].items())}


def _sources(config: Mapping[str, Any]) -> list[list[str]]:
    """Name, source, subset and revision of every dataset and of the corpus; a local source has no revision."""
    sources = [*config["datasets"].items(), ("corpus", config["corpus"])]
    return [[name, s["source"], s.get("name") or "", s.get("revision") or "local"] for name, s in sources]


def _times(benchmarks: Benchmarks) -> tuple[list[list[Any]], list[str]]:
    """Rows of rule, jobs, summed and longest seconds, highest memory; and the paths of jobs without a benchmark."""
    rows, unmeasured = [], []
    for rule, jobs in benchmarks.items():
        unmeasured += [path for path, table in jobs.items() if table is None]
        measured = [table for table in jobs.values() if table is not None]
        if measured:
            table = pd.concat(measured)
            rows.append([rule, len(measured), table["s"].sum(), table["s"].max(), table["max_rss"].max()])
    return rows, unmeasured


def _results(dataset: str, rows: pd.DataFrame) -> dict[str, Any]:
    """Header and rows of the results on one dataset, with the metrics that it has."""
    metrics = next(metrics for metrics in METRICS.values() if rows[list(metrics)].notna().any(axis=None))
    header = ["backbone", "policy", "setting", "promises kept", *map(metric_name, metrics), *RESULT_HEADER]
    cells = [
        [
            row["backbone"],
            row["policy"],
            "full depth" if row["fallback"] else f"{row['setting']:g}",
            row["promises"] if row["calibrated"] else "",
            *(with_interval(row, metric) for metric in metrics),
            with_interval(row, "agreement", 100),
            100 * row["degenerate"],
            row["mean_tokens"],
            row["mean_blocks"],
            row["flops_per_token"],
            with_interval(row, "flops_saved", 100),
            100 * row["flops_saved_blocks"],
            100 * row["flops_saved_with_prompt"],
            row["seconds_per_token"],
        ]
        for _, row in rows.iterrows()
    ]
    return {"dataset": dataset, "header": header, "rows": cells}
