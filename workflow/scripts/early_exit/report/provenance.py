"""The provenance page: from which code, models, data, config and machine the results come, and what they took.

One HTML page without scripts and outside assets. All text is escaped, paths of this machine are made relative, and
equal inputs give equal bytes.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from early_exit.base.records import METRICS
from early_exit.evaluation.tables import metric_name, with_interval

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; color: #222; }
h1, h2, h3 { line-height: 1.2; margin-top: 1.6em; }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: .25em .7em; text-align: left; vertical-align: top; }
td { white-space: nowrap; }
th { background: #f4f4f4; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: #f7f7f7; padding: 1em; overflow-x: auto; font-size: 12px; }
code { font-size: 12px; overflow-wrap: anywhere; }
"""
BENCHMARK_NONE = ("-", "NA")  # what Snakemake writes for a job too short to be measured


def page(
    *, config: Mapping[str, Any], manifests: Iterable[Mapping[str, Any]], results: pd.DataFrame,
    disjoint: Mapping[str, Any], benchmarks: Mapping[str, Mapping[str, pd.DataFrame | None]],
    versions: Mapping[str, str], hardware: Mapping[str, str],
) -> str:  # fmt: skip
    """The page as HTML.

    Args:
        config: the resolved config, with relative paths (see `relative`).
        manifests: of every backbone, as fetch_backbone wrote them, with relative paths.
        results: results.csv.
        disjoint: disjoint.json, the proof that no text is in two splits.
        benchmarks: by rule and path, Snakemake's benchmark table of a job; None for a job that did not run here.
        versions, hardware: of the machine that writes the page.
    """
    sections = {
        "Seeds": _pairs({"seed": config["seed"], "bootstrap resamples": config["bootstrap"]["resamples"]}),
        "Versions": _pairs(versions),
        "Hardware": "<p>The machine that wrote this page.</p>\n" + _pairs(hardware),
        "Backbones": "".join(map(_backbone, manifests)),
        "Data": _data(config) + _disjoint(disjoint),
        "Time per rule": _times(benchmarks),
        "Results": _results(results),
        "Config": f"<pre>{escape(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))}</pre>",
    }
    title = f"Provenance of the results of {escape(str(config['name']))}"
    body = "".join(f"<h2>{escape(name)}</h2>\n{content}\n" for name, content in sections.items())
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    )


def relative(value: Any, roots: Sequence[Path]) -> Any:
    """`value` (nested lists and dicts) with every absolute path relative to the first root that it lies under.

    Of a path under no root, only the last part is kept: where a user's files lie is nobody's business.
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


def read_benchmark(path: str | Path) -> pd.DataFrame | None:
    """Snakemake's benchmark table of a job; None where the job did not run here."""
    return pd.read_csv(path, sep="\t", na_values=BENCHMARK_NONE) if Path(path).exists() else None


def _backbone(manifest: Mapping[str, Any]) -> str:
    facts = {key: manifest.get(key) for key in ("source", "revision", "family", "depth", "dtype", "context", "sha256")}
    files = sorted(manifest["files"].items())
    return f"<h3>{escape(manifest['name'])}</h3>\n{_pairs(facts)}{_table(['file', 'sha256'], files)}"


def _data(config: Mapping[str, Any]) -> str:
    """Source and revision of every dataset and of the corpus; a local source has no revision."""
    sources = [*config["datasets"].items(), ("corpus", config["corpus"])]
    rows = [[name, s["source"], s.get("name") or "", s.get("revision") or "local"] for name, s in sources]
    return _table(["data", "source", "subset", "revision"], rows)


def _disjoint(proof: Mapping[str, Any]) -> str:
    """What was held against what, and the hash of each split (see `disjoint`)."""
    searched, pairs = proof["searched"], len(proof["compared"])
    rows = [[name, split["documents"], split["sha256"]] for name, split in proof["splits"].items()]
    return (
        f"<p>Pairs of splits found to share no text, by the SHA-256 of its words: {pairs}. None of the corpus's "
        f"{searched['documents']} documents holds the question or story of one of the {searched['examples']} "
        "examples.</p>\n" + _table(["split", "different texts", "sha256 of all"], rows)
    )


def _times(benchmarks: Mapping[str, Mapping[str, pd.DataFrame | None]]) -> str:
    """Per rule: jobs, summed and longest wall-clock seconds, highest memory; then the jobs without a benchmark."""
    rows, absent = [], []
    for rule, jobs in benchmarks.items():
        absent += [path for path, table in jobs.items() if table is None]
        found = [table for table in jobs.values() if table is not None]
        if found:
            table = pd.concat(found)
            rows.append([rule, len(found), table["s"].sum(), table["s"].max(), table["max_rss"].max()])
    listed = "".join(f"<li><code>{escape(path)}</code></li>" for path in absent)
    note = f"<p>Not run here:</p>\n<ul>{listed}</ul>\n" if absent else ""
    return _table(["rule", "jobs", "all jobs (s)", "longest job (s)", "most memory (MB)"], rows) + note


def _results(results: pd.DataFrame) -> str:
    """A table per dataset, with the metrics that it has."""
    return "<p>Brackets: 95 % bootstrap intervals.</p>\n" + "".join(
        f"<h3>{escape(str(dataset))}</h3>\n{_dataset(rows)}" for dataset, rows in results.groupby("dataset", sort=False)
    )


def _dataset(rows: pd.DataFrame) -> str:
    metrics = next(metrics for metrics in METRICS.values() if rows[list(metrics)].notna().any(axis=None))
    header = ["backbone", "policy", "threshold", "promises kept", *map(metric_name, metrics), "agreement (%)",
              "degenerate (%)", "tokens per answer", "blocks per pass", "FLOPs per token", "FLOPs saved (%)",
              "on blocks alone (%)", "with prompt (%)", "seconds per token"]  # fmt: skip
    cells = [
        [
            row["backbone"], row["policy"], "full depth" if row["fallback"] else f"{row['threshold']:g}",
            row["promises"] if row["calibrated"] else "",
            *(with_interval(row, metric) for metric in metrics), with_interval(row, "agreement", 100),
            100 * row["degenerate"], row["mean_tokens"], row["mean_blocks"], row["flops_per_token"],
            with_interval(row, "flops_saved", 100), 100 * row["flops_saved_blocks"],
            100 * row["flops_saved_with_prompt"], row["seconds_per_token"],
        ]
        for _, row in rows.iterrows()
    ]  # fmt: skip
    return _table(header, cells)


def _pairs(values: Mapping[str, Any]) -> str:
    return _table([], [[key, "-" if value is None else str(value)] for key, value in values.items()])


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["".join(f"<th>{escape(name)}</th>" for name in header)] if header else []
    lines += ["".join(map(_cell, row)) for row in rows]
    return "<table>\n" + "".join(f"<tr>{line}</tr>\n" for line in lines) + "</table>\n"


def _cell(value: Any) -> str:
    """A table cell with its text escaped; a number stands right, with four digits, a dash where there is none."""
    if isinstance(value, Real):
        return f'<td class="number">{"-" if pd.isna(value) else f"{value:.4g}"}</td>'
    return f"<td>{escape(str(value))}</td>"
