"""Rounds of prompts, for conversations whose later prompts contain the model's earlier answers.

With gold history (human answers) all prompts are known beforehand, and there is one round. With `history: own` (CoQA)
the first round asks the first turn of all conversations, the second round the second turn, and so on. Answers depend on
policy and setting, so the prompts of a turn may differ between these *columns*; columns with equal answers so far share
one prompt.

    rounds = Rounds(examples, columns)
    for prompts in rounds:
        for prompt, column, text in generate(prompts):  # one for each column of each prompt
            rounds.note(prompt.example_id, column, text)
"""

import hashlib
from collections.abc import Container, Hashable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from early_exit.base.errors import InputError
from early_exit.data import prompts

Column = Hashable  # what an example has one answer for: a policy's name and a setting


@dataclass(frozen=True)
class Prompt:
    """The prompt of one example, shared by these columns."""

    example_id: str
    text: str
    columns: tuple[Column, ...]

    @property
    def sha256(self) -> str:
        """SHA-256 of the text in UTF-8, in hex: `prompt_sha256` in hand-over files."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class Rounds:
    """The rounds of one run.

    Args:
        examples: rows of records.EXAMPLES.
        columns: for which every example is answered, without repeats.
        excluded: pairs of an example's name and a column that are not answered.

    InputError if a turn before an example is missing that its prompt needs.
    """

    def __init__(self, examples: pd.DataFrame, columns: Sequence[Column], excluded: Container[tuple[str, Column]] = ()):
        self._columns, self._excluded = tuple(columns), excluded
        self._texts: dict[tuple[str, Column], str] = {}
        self._rows = {row.example_id: row for row in examples.itertuples(index=False)}
        turns = {(row.conversation_id, row.turn): row.example_id for row in self._rows.values()}
        self._before: dict[str, list[str]] = {}  # the examples whose answers a prompt contains
        for row in self._rows.values():
            own = range(1, len(row.prompt_parts))
            missing = [turn for turn in own if (row.conversation_id, turn) not in turns]
            if missing:
                raise InputError(f"example {row.example_id}: turn {missing[0]} is missing, which its prompt needs")
            self._before[row.example_id] = [turns[row.conversation_id, turn] for turn in own]

    def __iter__(self) -> Iterator[list[Prompt]]:
        """Yields each round's prompts, in the order of the examples.

        Answers noted before their round are not asked for again. ValueError if an answer of an earlier round was not
        noted.
        """
        for depth in sorted({len(before) for before in self._before.values()}):
            examples = [example_id for example_id, before in self._before.items() if len(before) == depth]
            unanswered = [prompt for example_id in examples for prompt in self._unanswered(example_id)]
            if unanswered:
                yield unanswered

    def note(self, example_id: str, column: Column, text: str) -> None:
        """Note the text of an answer, as it is scored."""
        self._texts[example_id, column] = text

    def prompt(self, example_id: str, column: Column) -> Prompt:
        """Returns the prompt of an example for one column; ValueError if an answer that it contains was not noted."""
        return Prompt(example_id, self._text(example_id, column), (column,))

    def _unanswered(self, example_id: str) -> list[Prompt]:
        """Returns an example's prompts for columns without an answer."""
        shared: dict[str, list[Column]] = {}
        for column in self._columns:
            if (example_id, column) not in self._texts and (example_id, column) not in self._excluded:
                shared.setdefault(self._text(example_id, column), []).append(column)
        return [Prompt(example_id, text, tuple(columns)) for text, columns in shared.items()]

    def _text(self, example_id: str, column: Column) -> str:
        row, before = self._rows[example_id], self._before[example_id]
        if not row.prompt_parts:
            return row.prompt
        missing = [earlier for earlier in before if (earlier, column) not in self._texts]
        if missing:
            raise ValueError(f"example {example_id}: the answer to {missing[0]} at {column} was not noted")
        return prompts.join(row.prompt_parts, [self._texts[earlier, column] for earlier in before])
