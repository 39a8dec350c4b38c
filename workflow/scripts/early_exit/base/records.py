"""The hand-over files between rules: their columns, and how they are written and read.

| file under results/NAME | written by | described here or in workflow/schemas |
| --- | --- | --- |
| data/DATASET.parquet | fetch_dataset | `EXAMPLES` |
| data/corpus.parquet | fetch_corpus | `CORPUS` |
| data/disjoint.json | check_disjoint | disjoint.schema.yaml |
| backbones/BACKBONE.json | fetch_backbone | backbone.schema.yaml |
| heads/BACKBONE/RECIPE/manifest.json | train_heads | heads.schema.yaml |
| costs/BACKBONE.json | layer_costs | costs.schema.yaml |
| answers/BACKBONE/DATASET/PART/SPLIT.parquet | answer_full, answer, answer_matched | `GENERATIONS` |
| precision/BACKBONE/DATASET/answers.parquet | measure_precision | `ANSWERS_IN_FORMATS` |
| adaptive/BACKBONE/DATASET.json | adapt | adaptive.schema.yaml |
| evaluated/BACKBONE/DATASET.parquet | evaluate | `evaluated_schema` |
| thresholds/BACKBONE/DATASET.json, losses/BACKBONE/DATASET.parquet | calibrate | thresholds.schema.yaml, `LOSSES` |
| confidences of heads on held-out text | measure_heads | `confidences_schema` |
| tables/results.csv | tables | `RESULTS_COLUMNS` |

In all of them: `setting` is the number that a policy ran at, and `setting_kind` what it is (a threshold, blocks
dropped, tokens drafted, ...: see `experiment.config.policies`). Shares (`agreement`, `degenerate`) are 0..1, metrics
0..100. A decode pass is a pass of one token through the model: each generated token needs one, but for the first,
which the pass over the prompt gives.

Files are written as a whole and verified when they are read (see `files`). One with other columns is refused by name.
"""

import json
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, TypedDict

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from early_exit.base import files
from early_exit.base.errors import InputError

# One row per question, or per turn of a CoQA conversation. Metadata: prompt profile, source, revision, file hashes.
EXAMPLES = pa.schema(
    {
        "example_id": pa.string(),
        "group_id": pa.string(),  # what the bootstrap resamples: the conversation in CoQA, else the example
        "conversation_id": pa.string(),  # in CoQA, else the example
        "turn": pa.int32(),  # of the conversation, from 1
        "split": pa.string(),  # calibration | test
        "story": pa.string(),  # CoQA's, else empty
        "question": pa.string(),
        "prompt": pa.string(),  # in CoQA with the human answers to the turns before
        "prompt_sha256": pa.string(),  # of the prompt in UTF-8, in hex
        "prompt_parts": pa.list_(pa.string()),  # with `history: own` the prompt, cut where the model's answers go
        "stop_strings": pa.list_(pa.string()),  # the first of them in the text ends an answer
        "references": pa.list_(pa.string()),  # aliases (TriviaQA), human answers (CoQA), correct answers (TruthfulQA)
        "incorrect": pa.list_(pa.string()),  # TruthfulQA's incorrect answers, else empty
    }
)
# One row per document. Metadata: source, revision, file hashes.
CORPUS = pa.schema(
    {
        "document_id": pa.string(),
        "split": pa.string(),  # train (heads are distilled on it) | held_out (heads are measured on it)
        "text": pa.string(),
        "sha256": pa.string(),  # of the text in UTF-8, in hex
    }
)
# One row per policy, example and setting, sorted by these.
GENERATIONS = pa.schema(
    {
        "policy": pa.string(),
        "example_id": pa.string(),
        "setting": pa.float64(),  # what the policy ran at: a threshold, a number of blocks, ...
        "setting_kind": pa.string(),  # what that number is: see `experiment.config.policies`
        "prompt_sha256": pa.string(),  # of the whole prompt
        "prompt_tokens": pa.int32(),  # that the backbone read
        "prompt_cut": pa.int32(),  # tokens cut off, for which the backbone's context had no room
        "token_ids": pa.list_(pa.int32()),  # generated
        "exit_blocks": pa.list_(pa.int16()),  # blocks run before each generated token was chosen; depth = full
        "drafted": pa.list_(pa.int16()),  # tokens drafted in each round of self-speculation, else empty
        "accepted": pa.list_(pa.int16()),  # of these, the tokens that are in the answer
        "text": pa.string(),  # of the generated tokens, up to the stop string
        "stop_reason": pa.string(),  # eos | stop | length
        "degenerate": pa.bool_(),  # whether the answer ran into a repetition loop
        "repetition_penalty": pa.float64(),  # 1: none
        "seed": pa.int64(),
    }
)
ANSWERS_IN_FORMATS = GENERATIONS.append(pa.field("format", pa.string()))  # of rule measure_precision
# Costs of an answer: sums over its decode passes or its prompt; 1 multiply-accumulate is 2 FLOPs.
COSTS = {
    "passes": pa.int32(),  # decode passes
    "blocks": pa.int64(),  # run before the decode passes left; what `deferred` runs later is only in the FLOPs
    "flops": pa.float64(),  # of decode passes: blocks, heads checked, state fill, LM head
    "flops_full": pa.float64(),  # of the full model on the same tokens
    "flops_blocks": pa.float64(),  # of decode passes, blocks only
    "flops_blocks_full": pa.float64(),
    "prompt_flops": pa.float64(),
    "prompt_flops_full": pa.float64(),
}
# One row per calibration answer: what each promise bounds (see `evaluation.risks`), and the compute.
LOSSES = pa.schema(
    {
        "policy": pa.string(),
        "example_id": pa.string(),
        "group_id": pa.string(),
        "setting": pa.float64(),
        "disagreement": pa.float64(),  # 0 or 1: another text than the full model's
        "metric-drop": pa.float64(),  # 0..1: how far the main metric is below the full model's
        "degenerate": pa.float64(),  # 0 or 1
        "flops": pa.float64(),  # as in COSTS
        "flops_full": pa.float64(),
    }
)

# Pairs of kinds of heads whose difference answers a question: does a memory of earlier tokens help (a hybrid is an
# ffn-slim with such a memory), and does a cheap head do as well?
COMPARED_HEADS = (
    ("mamba", "ffn"),
    ("mamba", "calm"),
    ("hybrid", "ffn-slim"),
    ("mamba-slim", "ffn-slim"),
    ("mamba-slim", "mamba"),
    ("ffn-slim", "ffn"),
    ("hybrid", "mamba"),
)
METRICS = {  # by the dataset's kind, in 0..100; `*_diff` -100..100
    "triviaqa": ("em", "f1"),
    "coqa": ("em", "f1"),
    "truthfulqa": tuple(f"{m}_{k}" for m in ("bleu", "rouge1", "rouge2", "rougeL") for k in ("max", "diff", "acc")),
}
MAIN_METRIC = {"triviaqa": "em", "coqa": "f1", "truthfulqa": "bleu_acc"}
ALL_METRICS = tuple(dict.fromkeys(metric for metrics in METRICS.values() for metric in metrics))
COMPARISON = (
    "agreement",  # whether the text equals the full model's
    "token_agreement",  # common prefix of the tokens, over the longer answer's length
    "rougeL_full",  # ROUGE-L F-measure against the full model's text
    "degenerate",
    "mean_tokens",
)

# One row per backbone, dataset, policy and setting. `_low` and `_high` are a 95 % bootstrap interval over groups.
RESULTS_COLUMNS = (
    "preset",
    "backbone",
    "family",  # transformer | mamba
    "dataset",
    "policy",
    "head",
    "state_fill",
    "setting",  # none in a fallback
    "setting_kind",  # as in GENERATIONS
    "calibrated",  # whether calibration chose this setting for a promise
    "promises",  # the names of these promises
    "fallback",  # whether the row stands for the full model, as no setting keeps a promise
    "examples",
    "tokens",  # generated, of all examples
    "rules",  # scoring rules: official | lm-eval
    "score_version",  # `metrics.VERSION`
    *(f"{name}{end}" for name in (*ALL_METRICS, *COMPARISON) for end in ("", "_low", "_high")),
    "mean_blocks",  # of a decode pass
    "flops_per_token",  # of a decode pass: blocks, heads checked, state fill, LM head
    "flops_saved",  # 1 - FLOPs of decode passes / the full model's on the same tokens
    "flops_saved_low",
    "flops_saved_high",
    "flops_saved_blocks",  # the same for blocks only
    "flops_saved_with_prompt",  # the same with the passes over the prompts
    "oracle_share",  # flops_saved over the oracle's
    "acceptance_rate",  # self-speculation: drafted tokens that are in the answers, 0..1
    "tokens_per_round",  # self-speculation
    "seconds_per_token",  # none where not measured
)


class Manifest(TypedDict):
    """Of a backbone: what was fetched, from where, and with which bytes (backbones/{backbone}.json)."""

    name: str  # in the config
    source: str  # as in the config
    revision: str | None  # commit on the hub
    gguf: str | None  # file that holds weights and tokenizer; None for the hub's format
    path: str | None  # where jobs load it from; None for the hub's cache
    family: str  # transformer | mamba
    depth: int  # blocks
    dtype: str | None  # of the stored weights
    context: int | None  # tokens of its window
    config: dict[str, Any]  # Hugging Face's, of the model
    files: dict[str, str]  # SHA-256 by name
    sizes: dict[str, int]  # bytes by name
    sha256: str  # of all files together


def confidences_schema(heads: Iterable[str]) -> pa.Schema:
    """Returns the columns of heads' confidences on held-out text: a row per seed, token and exit, in this order."""
    fields = {
        "seed": pa.int64(),  # that the heads were trained from
        "document_id": pa.string(),
        "position": pa.int32(),  # of the token in its document, from 0
        "exit": pa.int16(),  # block
        "label": pa.bool_(),  # what heads are trained to predict
        "agreement": pa.bool_(),  # whether the exit's most probable token is the full model's
    }
    return pa.schema(fields | {f"confidence_{head}": pa.float32() for head in heads})


def evaluated_schema(kind: str) -> pa.Schema:
    """Returns the columns of evaluated answers, a row per row of GENERATIONS; `kind` is the dataset's."""
    fields = {
        "policy": pa.string(),
        "example_id": pa.string(),
        "group_id": pa.string(),
        "setting": pa.float64(),
        "rules": pa.string(),  # scoring rules: official | lm-eval
        "score_version": pa.int32(),  # `metrics.VERSION`
    }
    fields |= dict.fromkeys(METRICS[kind], pa.float64())
    fields |= {
        "agreement": pa.bool_(),  # as in COMPARISON
        "token_agreement": pa.float64(),
        "rougeL_full": pa.float64(),
        "degenerate": pa.bool_(),
        "tokens": pa.int32(),  # generated
    }
    return pa.schema(fields | COSTS)


def write_table(rows: pd.DataFrame, path: str | Path, schema: pa.Schema, metadata: Mapping[str, str] | None = None):
    """Write a frame as Parquet; ValueError if columns or their types are not the schema's."""
    if set(rows.columns) != set(schema.names):
        raise ValueError(f"{path}: columns {sorted(rows.columns)} are not the schema's {sorted(schema.names)}")
    table = pa.Table.from_pandas(rows, schema=schema, preserve_index=False, safe=True)
    table = table.replace_schema_metadata({k: str(v) for k, v in sorted((metadata or {}).items())})
    with files.hand_over(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_table(path: str | Path, schema: pa.Schema) -> pd.DataFrame:
    """Returns the frame of a Parquet file, list columns as lists; InputError if it is broken or has other columns."""
    table = _open(path)
    if not table.schema.remove_metadata().equals(schema):
        raise InputError(f"{path}: has not the columns of this hand-over file; delete it and run again")
    frame = table.to_pandas(ignore_metadata=True)
    for field in schema:
        if pa.types.is_list(field.type):
            frame[field.name] = frame[field.name].map(list)
    return frame


def read_answers(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Returns answers of several jobs (`GENERATIONS`) in one frame, as one job would have written them.

    InputError if two of the jobs have the same answer.
    """
    key = ["policy", "example_id", "setting"]
    frames = [read_table(path, GENERATIONS) for path in paths]
    joined = pd.concat(frames).sort_values(key, ignore_index=True)
    twice = joined[joined.duplicated(key)]
    if len(twice):
        policy, example = twice[["policy", "example_id"]].iloc[0]
        raise InputError(f"example {example} was answered twice with policy {policy}; delete the answers and run again")
    return joined


def read_metadata(path: str | Path) -> dict[str, str]:
    """Returns the metadata that `write_table` wrote; InputError if the file is broken."""
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
    """Returns the frame that `write_csv` wrote; InputError if the file is broken."""
    content = files.read(path)
    try:
        return pd.read_csv(BytesIO(content))
    except ValueError as error:
        raise files.unreadable(path, error) from error


def write_json(value: Any, path: str | Path, schema: str | Path | None = None) -> None:
    """Write sorted and indented JSON, so that equal values are equal bytes.

    `schema` is the path of a JSON schema in YAML; jsonschema's ValidationError if the value does not fit it.
    """
    if schema:
        import yaml
        from jsonschema import Draft202012Validator

        Draft202012Validator(yaml.safe_load(Path(schema).read_text(encoding="utf-8"))).validate(value)
    with files.hand_over(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Returns the value of a JSON file; InputError if the file is broken."""
    content = files.read(path)
    try:
        return json.loads(content)
    except ValueError as error:
        raise files.unreadable(path, error) from error


def read_thresholds(paths: Iterable[str | Path]) -> dict[tuple[str, str, str], dict[str, float | None]]:
    """Returns calibrated thresholds by (backbone, dataset, policy) and promise; None stands for the full model."""
    return {
        (table["backbone"], table["dataset"], policy): {name: chosen["threshold"] for name, chosen in promises.items()}
        for table in map(read_json, paths)
        for policy, promises in table["policies"].items()
    }
