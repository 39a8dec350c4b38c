"""Proof that training, held-out, calibration and test text do not overlap.

What is compared are the corpus's documents, CoQA's stories, and the questions of the other sets. Two texts are the same
if their words are (`base.words`, which ignores case, punctuation and spaces), so the SHA-256 of its words identifies a
text. A corpus document may also contain an evaluated question or story among other text; see `leaks`.

The corpus is compared with all question sets, and the splits of one set with each other. Different sets are not
compared: each has thresholds of its own, so one set's calibration may know another's test.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import pandas as pd

from early_exit.base.errors import InputError
from early_exit.base.words import text_key, words
from early_exit.data.questions import sha256

# What ends a sentence in living scripts (of Unicode's Sentence_Terminal), an ellipsis, and the ends of lines.
_ENDS = ".!?…‼‽⁇⁈⁉。．！？｡﹒﹖﹗\u037e՜՞։؝؞؟۔।॥၊။።፧፨។៕།༎᠃᠉\n\r\v\f\x85\u2028\u2029"
# Also a semicolon behind Greek, its question mark, and a space in Thai and Lao, which have no other end of a sentence.
_END = re.compile(rf"[{_ENDS}]+|(?<=[\u0370-\u03ff\u1f00-\u1fff]);|(?<=[\u0e00-\u0eff])\s+(?=[\u0e00-\u0eff])")
# Of a line: marks of lists, quotes and headings, then a label.
_OPENING = re.compile(r"^\s*(?:(?:#+|[>|*•–—-]+)\s+)*(?:\*\*)?(?:(?:Question|Answer|Q|A)(?:: |：))?", re.MULTILINE)

Hashes = dict[str, str]  # from the hash of a text to the id that names it in messages


def prove(corpus: pd.DataFrame, datasets: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Returns what was compared (see disjoint.schema.yaml); InputError with the ids if texts overlap.

    `corpus` are rows of `records.CORPUS`, each of `datasets`, by name, rows of `records.EXAMPLES`.
    """
    splits = {("corpus", split): _corpus_texts(rows) for split, rows in corpus.groupby("split")}
    for name, examples in datasets.items():
        splits |= {(name, split): _question_texts(rows) for split, rows in examples.groupby("split")}
    compared = [pair for pair in combinations(splits, 2) if _is_compared(*pair)]
    for one, other in compared:
        _refuse_shared(one, splits[one], other, splits[other])
    for name, examples in datasets.items():
        _refuse_ids(name, examples)
        refuse_leaks(corpus, examples)
    return {
        "splits": {
            "/".join(split): {"documents": len(hashes), "sha256": sha256("\n".join(sorted(hashes)))}
            for split, hashes in splits.items()
        },
        "compared": [["/".join(one), "/".join(other)] for one, other in compared],
        "searched": {"documents": len(corpus), "examples": sum(map(len, datasets.values()))},
    }


def leaks(corpus: pd.DataFrame, examples: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Yields (document_id, example_id) where a document contains an example's whole question, or in CoQA its story.

    Both are cut into sentences, which are compared by their words; the example's sentences must follow each other in
    the document. A question that is only a part of a longer sentence does not count.
    """
    starts: dict[str, list[tuple[list[str], str]]] = {}
    for example in examples.itertuples():
        sentences = _sentences(example.story or example.question)
        if sentences:
            starts.setdefault(sentences[0], []).append((sentences, example.example_id))
    for document in corpus.itertuples():
        sentences = _sentences(document.text)
        for i, sentence in enumerate(sentences):
            for needle, example_id in starts.get(sentence, ()):
                if sentences[i : i + len(needle)] == needle:
                    yield document.document_id, example_id


def refuse_leaks(corpus: pd.DataFrame, examples: pd.DataFrame) -> None:
    """Raise an InputError with the ids if a corpus document contains a calibration or test question (see `leaks`)."""
    pairs = list(leaks(corpus, examples))
    if pairs:
        names = ", ".join(f"{document} contains {example}" for document, example in pairs[:5])
        raise InputError(f"corpus: documents contain evaluated questions ({len(pairs)}: {names}); set corpus.exclude")


def _is_compared(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Returns whether two splits are of one source, or one of them is of the corpus."""
    return one[0] == other[0] or "corpus" in (one[0], other[0])


def _corpus_texts(rows: pd.DataFrame) -> Hashes:
    return {sha256(text_key(text)): name for name, text in zip(rows["document_id"], rows["text"], strict=True)}


def _question_texts(rows: pd.DataFrame) -> Hashes:
    texts = rows["story"].where(rows["story"] != "", rows["question"])
    return {sha256(text_key(text)): name for name, text in zip(rows["example_id"], texts, strict=True)}


def _refuse_shared(one: tuple[str, str], mine: Hashes, other: tuple[str, str], others: Hashes) -> None:
    shared = sorted(mine.keys() & others.keys(), key=lambda digest: mine[digest])
    if shared:
        names = ", ".join(f"{mine[digest]} = {others[digest]}" for digest in shared[:5])
        remedy = "set corpus.exclude" if one[0] == "corpus" else f"remove them from datasets.{one[0]}'s source"
        raise InputError(f"{'/'.join(one)} and {'/'.join(other)} share text ({len(shared)}: {names}); {remedy}")


def _refuse_ids(name: str, examples: pd.DataFrame) -> None:
    """Raise an InputError if an example or a group is in more than one split."""
    for column in ("example_id", "group_id"):
        spread = examples.groupby(column)["split"].nunique()
        if (spread > 1).any():
            raise InputError(f"datasets.{name}: {column} {spread.idxmax()} is in more than one split; make ids unique")


def _sentences(text: str) -> list[str]:
    """Returns the words of each sentence, without labels (`Q: `) and marks of lists and headings before it."""
    return [sentence for part in _END.split(_OPENING.sub("", text)) if any(map(str.isalnum, sentence := words(part)))]
