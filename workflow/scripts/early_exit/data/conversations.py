"""Rounds of prompts: what may be asked only when the model's own earlier answers are known waits for them.

With gold history every prompt is known beforehand, and there is one round. With its own history (CoQA,
`history: own`) a model is asked the first turn of all conversations in the first round, the second turn in the second,
and so on. Answers depend on the setting, so each (conversation, setting) goes its own way; where two settings
have answered alike so far, their next prompt is the same one and is named once.

    asked = Rounds(examples, settings)
    for prompts in asked:
        for answer in generate(prompts):                # one for each setting of each prompt
            asked.note(answer.example_id, answer.setting, answer.text)
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from early_exit.base.errors import InputError
from early_exit.data import prompts


@dataclass(frozen=True)
class Prompt:
    """What one example is asked with at these settings."""

    example_id: str
    text: str
    settings: tuple[float, ...]

    @property
    def sha256(self) -> str:
        """Hash of the text in UTF-8, 64 hex digits: `prompt_sha256` in the records."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class Rounds:
    """The rounds of one run.

    Args:
        examples: rows of records.EXAMPLES.
        settings: what each example is asked at, different from each other.

    InputError if an own-history example comes without the turns before it.
    """

    def __init__(self, examples: pd.DataFrame, settings: Sequence[float]):
        self._settings = tuple(settings)
        self._texts: dict[tuple[str, float], str] = {}
        self._rows = {row.example_id: row for row in examples.itertuples(index=False)}
        turns = {(row.conversation_id, row.turn): row.example_id for row in self._rows.values()}
        self._before: dict[str, list[str]] = {}  # the examples whose answers an example's prompt holds
        for row in self._rows.values():
            own = range(1, len(row.prompt_parts))
            lacking = [turn for turn in own if (row.conversation_id, turn) not in turns]
            if lacking:
                raise InputError(f"example {row.example_id}: turn {lacking[0]} is missing, which its prompt needs")
            self._before[row.example_id] = [turns[row.conversation_id, turn] for turn in own]

    def __iter__(self) -> Iterator[list[Prompt]]:
        """Each round's prompts, in the examples' order. ValueError if an answer of the round before was not noted.

        An answer that was noted before its round comes is not asked for again: so a run that was cut short goes on.
        """
        for depth in sorted({len(before) for before in self._before.values()}):
            examples = [example_id for example_id, before in self._before.items() if len(before) == depth]
            asked = [prompt for example_id in examples for prompt in self._open(example_id)]
            if asked:
                yield asked

    def note(self, example_id: str, setting: float, text: str) -> None:
        """Take an answer down: the text as it is scored."""
        self._texts[example_id, setting] = text

    def prompt(self, example_id: str, setting: float) -> Prompt:
        """What an example is asked with at one setting. ValueError if an answer that it needs was not noted."""
        return Prompt(example_id, self._text(example_id, setting), (setting,))

    def _open(self, example_id: str) -> list[Prompt]:
        """The example's prompts for settings without an answer, each with all that share it."""
        shared: dict[str, list[float]] = {}
        for setting in self._settings:
            if (example_id, setting) not in self._texts:
                shared.setdefault(self._text(example_id, setting), []).append(setting)
        return [Prompt(example_id, text, tuple(settings)) for text, settings in shared.items()]

    def _text(self, example_id: str, setting: float) -> str:
        row, before = self._rows[example_id], self._before[example_id]
        if not row.prompt_parts:
            return row.prompt
        lacking = [earlier for earlier in before if (earlier, setting) not in self._texts]
        if lacking:
            raise ValueError(f"example {example_id}: the answer to {lacking[0]} at {setting} was not noted")
        return prompts.join(row.prompt_parts, [self._texts[earlier, setting] for earlier in before])
