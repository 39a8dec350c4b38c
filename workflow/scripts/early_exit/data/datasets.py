"""The question sets and the distillation corpus as hand-over tables, with nothing shared that must not be.

The example is the unit of scoring: a question, or one turn of a CoQA conversation after the gold turns before it. The
group is the unit of chance: all examples of one question text or story. Shots, calibration and test share no group.
"""

import itertools
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from early_exit.base.errors import InputError
from early_exit.base.records import CORPUS, EXAMPLES
from early_exit.data import prompts
from early_exit.data.questions import Example, read_examples, sha256, words
from early_exit.sources.rows import open_source

ROLES = ("shots", "test", "calibration")
# What the config's schema fills in: the prompt's profile, and of a conversation which turns are asked, after whose
# answers to the turns before: the human ones (gold) or the model's own.
OPTIONS = {"prompt": "official", "turns": "all", "history": "gold"}


def load(name: str, spec: Mapping[str, Any], seed: int, root: str | Path = ".") -> pd.DataFrame:
    """The calibration and test examples of a dataset with their prompts: a frame of `records.EXAMPLES`.

    `spec` is the config's entry (kind, source, name, revision, splits, shots, examples, and prompt, turns and history,
    see `OPTIONS`); a relative source counts from `root`. The frame's `attrs` hold the prompt profile, the source, its
    revision and the hashes of local files. InputError if the source cannot be read, has another schema, or too few
    examples, or if the prompt has no room for shots.
    """
    key = f"datasets.{name}"
    spec = OPTIONS | spec
    _check_options(key, spec)
    source = open_source(key, spec, root)
    splits = {role: source.split(spec["splits"][role], f"{key}.splits.{role}") for role in ROLES}
    examples = {split: read_examples(spec["kind"], source.rows(split)) for split in dict.fromkeys(splits.values())}
    if spec["turns"] == "last":
        examples = {split: _last_turns(turns) for split, turns in examples.items()}
    roles = assign_roles(key, examples, splits, {"shots": spec["shots"], **spec["examples"]}, seed)
    form = prompts.PROFILES[spec["prompt"]][spec["kind"]]
    shots = [(shot.question, form.shown(shot.answer, shot.references)) for shot in roles["shots"]]
    rows = [
        _example_row(key, role, example, shots, form, own_history=spec["history"] == "own")
        for role in ("calibration", "test")
        for example in roles[role]
    ]
    frame = pd.DataFrame(rows, columns=EXAMPLES.names)
    frame.attrs = {"prompt": spec["prompt"], **source.provenance(set(splits.values()))}
    return frame


def assign_roles(
    key: str, examples: Mapping[str, list[Example]], splits: Mapping[str, str], counts: Mapping[str, int | None],
    seed: int,
) -> dict[str, list[Example]]:  # fmt: skip
    """Deal the examples of each split out to its roles: whole groups, in the order of their seeded hashes.

    Of a split that roles share, shots come first and test follows; calibration comes from the back, so that neither
    count moves the other's rows. A count of None is all that the others leave. What is also in the test split becomes
    no shot and no calibration, and what is in the calibration split becomes no shot. InputError if examples run out.
    """
    dealt: dict[str, list[Example]] = {}
    seen: set[str] = set()
    for split in dict.fromkeys(splits[role] for role in ("test", "calibration", "shots")):
        groups = {subject: group for subject, group in _groups(examples[split]).items() if subject not in seen}
        seen |= groups.keys()
        queue = deque(sorted(groups.values(), key=lambda group: sha256(f"{seed}:{group[0].group_id}")))
        total = sum(map(len, queue))
        sharing = [role for role in ROLES if splits[role] == split]
        for role in sorted(sharing, key=lambda role: counts[role] is None):
            count = counts[role]
            dealt[role] = _take(queue, queue.pop if role == "calibration" else queue.popleft, count)
            if len(dealt[role]) < (1 if count is None else count):
                place = f"{key}.shots" if role == "shots" else f"{key}.examples.{role}"
                left = f"{len(dealt[role])} are left of the {total} in {f'split {split}' if split else 'the file'}"
                raise InputError(f"{place}: {'all' if count is None else count} wanted, but {left}")
    _check_apart(key, dealt)
    return dealt


def _groups(examples: Iterable[Example]) -> dict[str, list[Example]]:
    """Examples by subject. Two conversations about one story are one group, under the smaller id."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.subject, []).append(example)
    for subject, group in groups.items():
        group_id = min(example.group_id for example in group)
        groups[subject] = [replace(example, group_id=group_id) for example in group]
    return groups


def _take(queue: deque, next_group: Callable[[], list[Example]], count: int | None) -> list[Example]:
    """Whole groups until there are `count` examples; the last one is cut at the count."""
    taken: list[Example] = []
    while queue and (count is None or len(taken) < count):
        taken += next_group()
    return taken[:count]


def _check_apart(key: str, roles: Mapping[str, list[Example]]) -> None:
    """InputError if two roles share a question, a story or an id, however the dealing went."""
    for (first, mine), (second, others) in itertools.combinations(roles.items(), 2):
        taken = {other.subject for other in others} | {other.example_id for other in others}
        shared = [example.example_id for example in mine if {example.subject, example.example_id} & taken]
        if shared:
            raise InputError(f"{key}: {first} and {second} share {shared[0]}; ids must be unique in all splits")


def _check_options(key: str, spec: Mapping[str, Any]) -> None:
    if spec["shots"] and spec["kind"] == "coqa":
        raise InputError(f"{key}.shots: {spec['shots']}, but the CoQA prompt has none; set it to 0")
    if (spec["turns"], spec["history"]) == ("last", "own"):
        raise InputError(f"{key}.history: own, but of the turns before the last there are no answers; set turns to all")


def _last_turns(examples: Iterable[Example]) -> list[Example]:
    """Of each conversation the last turn, which is what lm-eval's task asks."""
    return list({example.conversation_id: example for example in examples}.values())


def _example_row(
    key: str, role: str, example: Example, shots: Sequence[prompts.Turn], form: prompts.Format, *, own_history: bool
) -> dict[str, Any]:
    if not example.references:
        raise InputError(f"{key}: {role} example {example.example_id} has no reference answer; take another split")
    turns = example.history or shots
    parts = form.parts([*(question for question, _ in turns), example.question], example.story)
    prompt = prompts.join(parts, [answer for _, answer in turns])
    return {
        "example_id": example.example_id, "group_id": example.group_id,
        "conversation_id": example.conversation_id or example.example_id, "turn": example.turn, "split": role,
        "story": example.story, "question": example.question, "prompt": prompt, "prompt_sha256": sha256(prompt),
        "prompt_parts": parts if own_history else [], "stop_strings": list(form.stop_strings),
        "references": list(example.references), "incorrect": list(example.incorrect),
    }  # fmt: skip


def load_corpus(spec: Mapping[str, Any], seed: int, root: str | Path = ".") -> pd.DataFrame:
    """The first `documents` + `held_out` different texts of the source, in its order: a frame of `records.CORPUS`.

    `seed` draws which are held out. A hub source is streamed, so no more than these are read. Blank texts, exact
    repeats and the ids in `exclude` are passed over. InputError if there are too few, or if two texts have one id.
    """
    source = open_source("corpus", spec, root)
    split = source.split(spec.get("split"), "corpus.split")
    wanted = spec["documents"] + spec["held_out"]
    texts: dict[str, tuple[str, str]] = {}
    ids: set[str] = set()
    for row in source.rows(split, streaming=True):
        text = row.values.get("text")
        if not isinstance(text, str):
            raise InputError(f"{row.where}: a corpus needs a column `text`; there are {', '.join(row.values)}")
        digest = sha256(text)
        if digest in texts or not text.strip():
            continue
        document_id = str(row.values.get("id") or digest[:16])
        if document_id in spec.get("exclude", ()):
            continue
        if document_id in ids:
            raise InputError(f"{row.where}: id {document_id} stands for two different texts")
        ids.add(document_id)
        texts[digest] = (document_id, text)
        if len(texts) == wanted:
            break
    if len(texts) < wanted:
        raise InputError(f"corpus: documents + held_out is {wanted}, but {source.source} has {len(texts)} texts")
    held_out = set(sorted(texts, key=lambda digest: sha256(f"{seed}:{digest}"))[: spec["held_out"]])
    rows = [(document_id, "held_out" if digest in held_out else "train", text, digest)
            for digest, (document_id, text) in texts.items()]  # fmt: skip
    frame = pd.DataFrame(rows, columns=CORPUS.names)
    frame.attrs = source.provenance({split})
    return frame


def leaks(corpus: pd.DataFrame, examples: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """(document_id, example_id) where a document holds the example's whole question, or in CoQA its whole story.

    Both are cut into sentences, compared by `questions.words`; the example's must stand in the document one after
    another. A question that is only part of a longer sentence is another question.
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


def check_disjoint(corpus: pd.DataFrame, examples: pd.DataFrame) -> None:
    """InputError with the ids if a corpus document holds a calibration or test question (see `leaks`)."""
    found = list(leaks(corpus, examples))
    if found:
        pairs = ", ".join(f"{document} holds {example}" for document, example in found[:5])
        raise InputError(f"corpus: documents hold evaluated questions ({len(found)}: {pairs}); set corpus.exclude")


def _sentences(text: str) -> list[str]:
    unlabelled = re.sub(r"^(Question|Answer|Q|A): ", "", text, flags=re.MULTILINE)
    return [sentence for part in re.split(r"[.!?\n]+", unlabelled) if (sentence := words(part))]
