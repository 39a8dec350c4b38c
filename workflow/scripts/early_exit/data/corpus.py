"""The distillation corpus: the documents that heads are trained on, and those held out to measure them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from early_exit.base.errors import InputError
from early_exit.base.records import CORPUS
from early_exit.data.questions import sha256
from early_exit.sources.readers import Row
from early_exit.sources.rows import open_source


def load_corpus(spec: Mapping[str, Any], seed: int, root: str | Path = ".") -> pd.DataFrame:
    """Returns the first `documents` + `held_out` different texts of the source, in its order, as `records.CORPUS`.

    `spec` is the config's entry `corpus`; a relative source starts at `root`. `seed` draws the documents that are held
    out. A row needs a column `text` and may have an `id`. Blank texts, exact repeats and the ids in `exclude` are
    skipped. A source on the hub is streamed, so that no more is downloaded than is read. The frame's `attrs` are the
    source's provenance. InputError if there are too few texts, or if two texts have one id.
    """
    source = open_source("corpus", spec, root)
    split = source.split(spec.get("split"), "corpus.split")
    needed = spec["documents"] + spec["held_out"]
    texts: dict[str, tuple[str, str]] = {}
    ids: set[str] = set()
    for row in source.rows(split, streaming=True):
        text = _text(row)
        digest = sha256(text)
        if digest in texts or not text.strip():
            continue
        document_id = _identity(row) or digest[:16]
        if document_id in spec.get("exclude", ()):
            continue
        if document_id in ids:
            raise InputError(f"{row.where}: id {document_id} stands for two different texts")
        ids.add(document_id)
        texts[digest] = (document_id, text)
        if len(texts) == needed:
            break
    if len(texts) < needed:
        raise InputError(f"corpus: documents + held_out is {needed}, but {source.source} has {len(texts)} texts")
    held_out = set(sorted(texts, key=lambda digest: sha256(f"{seed}:{digest}"))[: spec["held_out"]])
    rows = [
        (document_id, "held_out" if digest in held_out else "train", text, digest)
        for digest, (document_id, text) in texts.items()
    ]
    frame = pd.DataFrame(rows, columns=CORPUS.names)
    frame.attrs = source.provenance({split})
    return frame


def _text(row: Row) -> str:
    if "text" not in row.values:
        raise InputError(f"{row.where}: a corpus needs a column `text`; there are {', '.join(map(repr, row.values))}")
    text = row.values["text"]
    if not isinstance(text, str):
        kind = "null" if text is None else type(text).__name__
        raise InputError(f"{row.where}: `text` is no text but {kind}; write a text there, or remove the row")
    return text


def _identity(row: Row) -> str:
    """Returns the row's `id`; empty if it has none."""
    value = row.values.get("id")
    if isinstance(value, list | dict | bool):
        raise InputError(f"{row.where}: `id` is no text or number but {type(value).__name__}; correct or remove it")
    return "" if value is None else str(value)
