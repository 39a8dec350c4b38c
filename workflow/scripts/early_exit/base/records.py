"""The hand-over files between rules: Parquet schemas, JSON manifests, CSV tables, and how they are written and read.

What is half-written or was changed never looks whole (see `files`); a file that does not have its schema is refused
with its name. Shares (`agreement`, `degenerate`) are 0..1, metrics 0..100.
"""

import json
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from early_exit.base import files
from early_exit.base.errors import InputError

EXAMPLES = pa.schema(
    {
        "example_id": pa.string(),
        "group_id": pa.string(),  # what the bootstrap resamples: the conversation in CoQA, else the example
        "conversation_id": pa.string(),  # in CoQA, else the example
        "turn": pa.int32(),  # of the conversation, from 1
        "split": pa.string(),  # calibration | test
        "story": pa.string(),  # CoQA's, else empty
        "question": pa.string(),
        "prompt": pa.string(),  # after the gold answers to the turns before
        "prompt_sha256": pa.string(),
        "prompt_parts": pa.list_(pa.string()),  # with own history: the prompt, cut where the model's answers go
        "stop_strings": pa.list_(pa.string()),  # the first of them ends an answer
        "references": pa.list_(pa.string()),  # aliases, human answers, or correct answers
        "incorrect": pa.list_(pa.string()),  # TruthfulQA's incorrect answers, else empty
    }
)
CORPUS = pa.schema(
    {"document_id": pa.string(), "split": pa.string(), "text": pa.string(), "sha256": pa.string()}
)  # split: train | held_out
GENERATIONS = pa.schema(
    {
        "example_id": pa.string(),
        "threshold": pa.float64(),
        "prompt_sha256": pa.string(),  # of the text, before any cut
        "prompt_tokens": pa.int32(),
        "prompt_cut": pa.int32(),  # tokens that the backbone's window had no room for
        "token_ids": pa.list_(pa.int32()),
        "exit_blocks": pa.list_(pa.int16()),  # blocks run for each generated token; depth = full
        "drafted": pa.list_(pa.int16()),  # tokens drafted in each round of self-speculation, else empty
        "accepted": pa.list_(pa.int16()),  # those of them that are in the answer
        "text": pa.string(),
        "stop_reason": pa.string(),  # eos | stop | length
        "degenerate": pa.bool_(),
        "repetition_penalty": pa.float64(),  # 1: none
        "seed": pa.int64(),
    }
)
FLOPS = pa.schema(
    {
        "example_id": pa.string(),
        "threshold": pa.float64(),
        "passes": pa.int32(),  # decode passes: generated tokens after the first, which the prompt pass gives
        "blocks": pa.int64(),  # up to where the passes left, summed; `deferred` may run more, which the FLOPs count
        "flops": pa.float64(),  # decode passes: blocks, heads checked, state fill, final norm, LM head
        "flops_full": pa.float64(),  # the same tokens by the full model
        "flops_blocks": pa.float64(),  # decode passes, blocks alone
        "flops_blocks_full": pa.float64(),
        "prompt_flops": pa.float64(),
        "prompt_flops_full": pa.float64(),
    }
)
LOSSES = pa.schema(
    {
        "policy": pa.string(),
        "example_id": pa.string(),
        "group_id": pa.string(),
        "threshold": pa.float64(),
        "disagreement": pa.float64(),  # losses, 0..1: see `risks`
        "metric-drop": pa.float64(),
        "degenerate": pa.float64(),
        "flops": pa.float64(),  # as in FLOPS
        "flops_full": pa.float64(),
    }
)

# The questions that heads are there to answer, by kind: does a memory of earlier tokens help (a hybrid is an ffn-slim
# with one, and nothing else), does a cheap head do?
COMPARED_HEADS = (
    ("mamba", "ffn"), ("mamba", "calm"), ("hybrid", "ffn-slim"), ("mamba-slim", "ffn-slim"), ("mamba-slim", "mamba"),
    ("ffn-slim", "ffn"), ("hybrid", "mamba"),
)  # fmt: skip
METRICS = {
    "triviaqa": ("em", "f1"),
    "coqa": ("em", "f1"),
    "truthfulqa": tuple(f"{m}_{k}" for m in ("bleu", "rouge1", "rouge2", "rougeL") for k in ("max", "diff", "acc")),
}
MAIN_METRIC = {"triviaqa": "em", "coqa": "f1", "truthfulqa": "bleu_acc"}
ALL_METRICS = tuple(dict.fromkeys(metric for metrics in METRICS.values() for metric in metrics))
COMPARISON = ("agreement", "token_agreement", "rougeL_full", "degenerate", "mean_tokens")  # beside every metric

RESULTS_COLUMNS = (
    "preset", "backbone", "family", "dataset", "policy", "head", "state_fill", "threshold", "calibrated", "promises",
    "fallback", "examples", "tokens", "rules", "score_version",
    *(f"{name}{end}" for name in (*ALL_METRICS, *COMPARISON) for end in ("", "_low", "_high")), "mean_blocks",
    "flops_per_token", "flops_saved", "flops_saved_low", "flops_saved_high", "flops_saved_blocks",
    "flops_saved_with_prompt", "oracle_share", "acceptance_rate", "tokens_per_round", "seconds_per_token",
)  # fmt: skip


def confidences_schema(heads: Iterable[str]) -> pa.Schema:
    """What heads, trained from several seeds, say of held-out text: a row per seed, token and exit, in this order."""
    fields = {"seed": pa.int64(), "document_id": pa.string(), "position": pa.int32(), "exit": pa.int16()}
    fields |= {"label": pa.bool_(), "agreement": pa.bool_()}  # whether the exit's best token is the full model's
    return pa.schema(fields | {f"confidence_{head}": pa.float32() for head in heads})


def scores_schema(kind: str) -> pa.Schema:
    """Scores of one run: the dataset kind's metrics (0..100) and the comparison with the full model (0..1), per row."""
    fields = {"example_id": pa.string(), "group_id": pa.string(), "threshold": pa.float64()}
    fields |= {"rules": pa.string(), "score_version": pa.int32()}  # how the metrics were found
    fields |= dict.fromkeys(METRICS[kind], pa.float64())
    fields |= {"agreement": pa.bool_(), "token_agreement": pa.float64(), "rougeL_full": pa.float64()}
    fields |= {"degenerate": pa.bool_(), "tokens": pa.int32()}
    return pa.schema(fields)


def write_table(rows: pd.DataFrame, path: str | Path, schema: pa.Schema, metadata: Mapping[str, str] | None = None):
    """Write a frame as Parquet; ValueError if a column is missing, too many, or of another type."""
    if set(rows.columns) != set(schema.names):
        raise ValueError(f"{path}: columns {sorted(rows.columns)} are not the schema's {sorted(schema.names)}")
    table = pa.Table.from_pandas(rows, schema=schema, preserve_index=False, safe=True)
    table = table.replace_schema_metadata({k: str(v) for k, v in sorted((metadata or {}).items())})
    with files.hand_over(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_table(path: str | Path, schema: pa.Schema) -> pd.DataFrame:
    """Read a hand-over file; InputError if it is broken or not of its schema. List columns come as Python lists."""
    table = _open(path)
    if not table.schema.remove_metadata().equals(schema):
        raise InputError(f"{path}: not the schema of this hand-over file; delete it and run again")
    frame = table.to_pandas(ignore_metadata=True)
    for field in schema:
        if pa.types.is_list(field.type):
            frame[field.name] = frame[field.name].map(list)
    return frame


def read_metadata(path: str | Path) -> dict[str, str]:
    """What `write_table` was given as metadata."""
    return {k.decode(): v.decode() for k, v in (_open(path).schema.metadata or {}).items()}


def _open(path: str | Path) -> pa.Table:
    content = files.read(path)
    try:
        return pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise files.unreadable(path, error) from error


def write_csv(rows: pd.DataFrame, path: str | Path, float_format: str = "%.8g") -> None:
    """Write a frame as CSV, without its index."""
    with files.hand_over(path) as temporary:
        rows.to_csv(temporary, index=False, float_format=float_format, lineterminator="\n")


def read_csv(path: str | Path) -> pd.DataFrame:
    """Read what `write_csv` wrote; InputError if it is broken."""
    content = files.read(path)
    try:
        return pd.read_csv(BytesIO(content))
    except ValueError as error:
        raise files.unreadable(path, error) from error


def write_json(value: Any, path: str | Path, schema: str | Path | None = None) -> None:
    """Sorted, indented JSON with a final line end, so that equal values are equal bytes.

    With a JSON schema in YAML, a value that does not keep to it raises jsonschema's ValidationError.
    """
    if schema:
        import yaml
        from jsonschema import Draft202012Validator

        Draft202012Validator(yaml.safe_load(Path(schema).read_text(encoding="utf-8"))).validate(value)
    with files.hand_over(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """A JSON file's value; InputError if it is broken."""
    content = files.read(path)
    try:
        return json.loads(content)
    except ValueError as error:
        raise files.unreadable(path, error) from error


def read_thresholds(paths: Iterable[str | Path]) -> dict[tuple[str, str, str], dict[str, float | None]]:
    """By (backbone, dataset, policy) what rule calibrate chose for each promise; None where no threshold keeps it."""
    return {
        (found["backbone"], found["dataset"], policy): {name: kept["threshold"] for name, kept in promises.items()}
        for found in map(read_json, paths)
        for policy, promises in found["policies"].items()
    }
