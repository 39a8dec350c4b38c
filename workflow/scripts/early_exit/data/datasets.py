"""The question sets as hand-over tables: examples with their prompts, divided into shots, calibration and test.

An example is what is scored: a question, or one turn of a CoQA conversation. A group is what the bootstrap resamples:
all examples of one question text or story. Shots, calibration and test share no group.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from early_exit.base.errors import InputError
from early_exit.base.records import EXAMPLES
from early_exit.base.words import words
from early_exit.data import prompts
from early_exit.data.questions import Example, read_examples, sha256
from early_exit.sources.rows import open_source

ROLES = ("shots", "test", "calibration")
# Defaults: the prompt's profile, the turns of a conversation that are asked (all, last), and whose answers to earlier
# turns a prompt contains (gold: the human ones; own: the model's).
OPTIONS = {"prompt": "official", "turns": "all", "history": "gold"}


def load(name: str, spec: Mapping[str, Any], seed: int, root: str | Path = ".") -> pd.DataFrame:
    """Returns the calibration and test examples of a dataset with their prompts, as `records.EXAMPLES`.

    `spec` is the config's entry: kind, source, name, revision, splits, shots, examples, and optionally prompt, turns
    and history (see `OPTIONS`); a relative source starts at `root`. `seed` draws which examples have which role. The
    frame's `attrs` are the prompt's profile and the source's provenance. InputError if the source cannot be read, has
    columns of no known form, too few examples or no answers to score against, or if the options contradict each other.
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
    for role in ("calibration", "test"):
        for example in roles[role]:
            _check_answers(key, spec["kind"], role, example)
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
    key: str,
    examples: Mapping[str, list[Example]],
    splits: Mapping[str, str],
    counts: Mapping[str, int | None],
    seed: int,
) -> dict[str, list[Example]]:
    """Returns the examples of each role: whole groups, in the order of their seeded hashes.

    In a split that several roles share, shots are taken from the front, then test; calibration is taken from the back,
    so that neither count changes the other's examples. A count of None takes all that the others leave. A group that is
    also in the test split becomes neither shot nor calibration, one in the calibration split no shot.

    Args:
        key: the dataset's place in the config, for messages.
        examples: by split.
        splits: the split of each role.
        counts: the number of examples of each role.

    InputError if there are too few examples.
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
    """Returns examples by subject; conversations about one story become one group, with the smallest id."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.subject, []).append(example)
    for subject, group in groups.items():
        group_id = min(example.group_id for example in group)
        groups[subject] = [replace(example, group_id=group_id) for example in group]
    return groups


def _take(queue: deque, next_group: Callable[[], list[Example]], count: int | None) -> list[Example]:
    """Returns whole groups of the queue until there are `count` examples, the last group cut at the count."""
    taken: list[Example] = []
    while queue and (count is None or len(taken) < count):
        taken += next_group()
    return taken[:count]


def _check_apart(key: str, roles: Mapping[str, list[Example]]) -> None:
    """Raise an InputError if two roles share a question, a story or an id; a check of `assign_roles` itself."""
    for (first, mine), (second, others) in itertools.combinations(roles.items(), 2):
        taken = {other.subject for other in others} | {other.example_id for other in others}
        shared = [example.example_id for example in mine if {example.subject, example.example_id} & taken]
        if shared:
            raise InputError(f"{key}: {first} and {second} share {shared[0]}; ids must be unique in all splits")


def _check_options(key: str, spec: Mapping[str, Any]) -> None:
    if spec["shots"] and spec["kind"] == "coqa":
        raise InputError(f"{key}.shots: {spec['shots']}, but the CoQA prompt has none; set it to 0")
    if (spec["turns"], spec["history"]) == ("last", "own"):
        raise InputError(f"{key}.history: own, but then the turns before the last are not asked; set turns to all")


def _check_answers(key: str, kind: str, role: str, example: Example) -> None:
    """Raise an InputError if an example has not the answers that scoring needs."""
    name = f"{key}: {role} example {example.example_id} ({example.where})"
    if not example.references:
        raise InputError(f"{name} has no reference answer; take another split, add one or remove the row")
    if kind == "truthfulqa" and not example.incorrect:
        raise InputError(f"{name} has no incorrect answer, which TruthfulQA's scores need; add one or remove the row")
    if kind != "coqa" and not any(map(words, example.references)):  # in CoQA such an answer equals an empty one
        raise InputError(f"{name} has no reference answer but punctuation; add one or remove the row")


def _last_turns(examples: Iterable[Example]) -> list[Example]:
    """Returns the last turn of each conversation, the only one that lm-eval's task asks."""
    return list({example.conversation_id: example for example in examples}.values())


def _example_row(
    key: str, role: str, example: Example, shots: Sequence[prompts.Turn], form: prompts.Format, *, own_history: bool
) -> dict[str, Any]:
    turns = example.history or shots
    parts = form.parts([*(question for question, _ in turns), example.question], example.story)
    prompt = prompts.join(parts, [answer for _, answer in turns])
    return {
        "example_id": example.example_id,
        "group_id": example.group_id,
        "conversation_id": example.conversation_id or example.example_id,
        "turn": example.turn,
        "split": role,
        "story": example.story,
        "question": example.question,
        "prompt": prompt,
        "prompt_sha256": sha256(prompt),
        "prompt_parts": parts if own_history else [],
        "stop_strings": list(form.stop_strings),
        "references": list(example.references),
        "incorrect": list(example.incorrect),
    }
