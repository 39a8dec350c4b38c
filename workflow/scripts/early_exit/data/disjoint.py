"""Proof that training, held-out, calibration and test text never overlap, by hashes of documents.

The document is a text of the corpus, in CoQA the story, elsewhere the question. Two documents are the same if their
words are (`questions.words`: case, punctuation and spaces aside), so each is known by the SHA-256 of its words. A
corpus document may also *hold* an evaluated question or story among others; see `datasets.leaks`.

Only splits with different tasks are held against each other: two question sets may share calibration questions, and one
set's calibration may know another's test, since every set has thresholds of its own.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pandas as pd

from early_exit.base.errors import InputError
from early_exit.data.datasets import check_disjoint
from early_exit.data.questions import sha256, words

Hashes = dict[str, str]  # of each document, to an id by which it can be found


def prove(corpus: pd.DataFrame, datasets: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """What was compared and that nothing overlaps, as JSON; InputError with names if something does.

    `corpus` is a frame of `records.CORPUS`, each of `datasets`, by name, one of `records.EXAMPLES`.
    """
    splits = {("corpus", split): _documents(rows) for split, rows in corpus.groupby("split")}
    for name, examples in datasets.items():
        splits |= {(name, split): _asked(rows) for split, rows in examples.groupby("split")}
    compared = [pair for pair in combinations(splits, 2) if _is_compared(*pair)]
    for one, other in compared:
        _refuse_shared(one, splits[one], other, splits[other])
    for name, examples in datasets.items():
        _refuse_ids(name, examples)
        check_disjoint(corpus, examples)
    return {
        "splits": {
            "/".join(split): {"documents": len(hashes), "sha256": sha256("\n".join(sorted(hashes)))}
            for split, hashes in splits.items()
        },
        "compared": [["/".join(one), "/".join(other)] for one, other in compared],
        "searched": {"documents": len(corpus), "examples": sum(map(len, datasets.values()))},
    }


def _is_compared(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Splits of one source, and the corpus with everything."""
    return one[0] == other[0] or "corpus" in (one[0], other[0])


def _documents(rows: pd.DataFrame) -> Hashes:
    return {sha256(words(text)): name for name, text in zip(rows["document_id"], rows["text"], strict=True)}


def _asked(rows: pd.DataFrame) -> Hashes:
    texts = rows["story"].where(rows["story"] != "", rows["question"])
    return {sha256(words(text)): name for name, text in zip(rows["example_id"], texts, strict=True)}


def _refuse_shared(one: tuple[str, str], mine: Hashes, other: tuple[str, str], others: Hashes) -> None:
    shared = sorted(mine.keys() & others.keys(), key=lambda digest: mine[digest])
    if shared:
        names = ", ".join(f"{mine[digest]} = {others[digest]}" for digest in shared[:5])
        cure = "set corpus.exclude" if one[0] == "corpus" else f"take them out of datasets.{one[0]}'s source"
        raise InputError(f"{'/'.join(one)} and {'/'.join(other)} share text ({len(shared)}: {names}); {cure}")


def _refuse_ids(name: str, examples: pd.DataFrame) -> None:
    """InputError if an example or a group (a story's turns) is in more than one split."""
    for column in ("example_id", "group_id"):
        spread = examples.groupby(column)["split"].nunique()
        if (spread > 1).any():
            raise InputError(
                f"datasets.{name}: {column} {spread.idxmax()} is in more than one split; give ids of its own"
            )
