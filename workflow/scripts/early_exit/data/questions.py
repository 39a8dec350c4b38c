"""From the rows of a question set to examples.

Accepted are the forms in SCHEMAS: of TriviaQA, the hub's rc.nocontext; of CoQA, the original JSON, EleutherAI/coqa and
stanfordnlp/coqa; of TruthfulQA, the hub's generation subset and the original CSV. References are all human answers:
TriviaQA's `aliases` (`value` is shown in shots only), CoQA's `answers` and `additional_answers` with their repeats,
TruthfulQA's correct answers.

Lists and objects may be texts, as pandas' `to_csv` writes them (see `written_values`).

InputErrors name the row: a column is missing, a text is missing or blank, a list is not one of texts, a conversation
has not one answer per question, or one id stands for two questions.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from early_exit.base.errors import InputError
from early_exit.base.words import text_key
from early_exit.data.prompts import Turn
from early_exit.sources import written_values
from early_exit.sources.readers import Row, refuse_half_pairs

log = logging.getLogger("early_exit")


@dataclass(frozen=True)
class Example:
    """A question, its gold answer (which a shot or a later turn shows), and the references to score against."""

    example_id: str
    group_id: str  # the conversation in CoQA, else the example
    question: str
    answer: str
    references: tuple[str, ...]
    where: str = field(default="", compare=False)  # its place in the source, for messages
    incorrect: tuple[str, ...] = ()
    story: str = ""  # not stripped
    history: tuple[Turn, ...] = ()  # the turns before, with their gold answers
    conversation_id: str = ""  # empty if there is no conversation
    turn: int = 1  # from 1

    @property
    def subject(self) -> str:
        """The `text_key` of the story if there is one, else of the question; no two roles may share a subject."""
        return text_key(self.story or self.question)


@dataclass(frozen=True)
class Schema:
    """The columns that a row must have (`answer.value` is a key inside a column), and the function that parses it."""

    name: str
    columns: tuple[str, ...]
    parse: Callable[[Row], Iterator[Example]]

    def missing(self, values: Mapping[str, Any]) -> list[str]:
        return [column for column in self.columns if not _has(values, column.split("."))]


def read_examples(kind: str, rows: Iterable[Row]) -> list[Example]:
    """Returns the examples of rows, each parsed by the first schema of the kind that it fits, without repeats.

    Repeats exist: the hub's TriviaQA rc has many questions both for the web and for Wikipedia. InputError if a row fits
    no schema, or if one id stands for two questions.
    """
    examples: dict[str, Example] = {}
    repeats = 0
    for row in (_with_objects(row, kind) for row in rows):
        for example in _schema(kind, row).parse(row):
            first = examples.setdefault(example.example_id, example)
            repeats += first is not example
            if (first.subject, first.question) != (example.subject, example.question):
                raise InputError(f"{row.where}: id {example.example_id} stands for two different questions")
    if repeats:
        log.info("%s: dropped %d repeated examples", kind, repeats)
    return list(examples.values())


def _with_objects(row: Row, kind: str) -> Row:
    """Returns the row with the objects, of which a schema needs parts, that it has as text."""
    names = {column.partition(".")[0] for schema in SCHEMAS[kind] for column in schema.columns if "." in column}
    texts = {name: value for name in names if isinstance(value := row.values.get(name), str)}
    read = {name: _unwritten(text, row, name) for name, text in texts.items() if written_values.looks_written(text)}
    return Row(row.where, {**row.values, **read}) if read else row


def _schema(kind: str, row: Row) -> Schema:
    """Returns the first schema that the row fits; InputError with the columns missing for the nearest one."""
    schemas = SCHEMAS[kind]
    missing = [schema.missing(row.values) for schema in schemas]
    if [] in missing:
        return schemas[missing.index([])]
    accepted = " or ".join(f"{schema.name} ({', '.join(schema.columns)})" for schema in schemas)
    raise InputError(f"{row.where}: lacks {', '.join(min(missing, key=len))}; {kind} accepts {accepted}")


def sha256(text: str) -> str:
    """Returns the SHA-256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def _triviaqa(row: Row) -> Iterator[Example]:
    answer = row.values["answer"]
    identity = _identity(row.values["question_id"], row, "question_id")
    references = tuple(_strings(answer["aliases"], row, "answer.aliases"))
    value = _text(answer["value"], row, "answer.value")
    yield Example(identity, identity, _text(row.values["question"], row, "question"), value, references, row.where)


def _coqa(row: Row) -> Iterator[Example]:
    """Yields one example per turn; a conversation without an id gets one from its text."""
    story = _text(row.values["story"], row, "story")
    questions = _turns(row.values["questions"], row, "questions")
    annotators = [_turns(row.values["answers"], row, "answers")]
    extra = _unwritten(row.values.get("additional_answers") or {}, row, "additional_answers")
    if not isinstance(extra, Mapping):
        raise InputError(f"{row.where}: additional_answers is not an object with one list of answers per annotator")
    for key in sorted(key for key in extra if extra[key]):
        answers = _turns(extra[key], row, f"additional_answers.{repr(key)[1:-1]}", may_be_blank=True)
        annotators += [answers] if any(answers) else []
    if {len(answers) for answers in annotators} != {len(questions)}:
        raise InputError(f"{row.where}: there is not one answer for each of the {len(questions)} questions")
    identity = _identity(row.values.get("id") or sha256("\n".join([story, *questions]))[:16], row, "id")
    history: list[Turn] = []
    for turn, (question, *answers) in enumerate(zip(questions, *annotators, strict=True), 1):
        references = tuple(filter(None, answers))
        yield Example(
            example_id=f"{identity}:{turn}",
            group_id=identity,
            question=question,
            answer=answers[0],
            references=references,
            where=row.where,
            story=row.values["story"],
            history=tuple(history),
            conversation_id=identity,
            turn=turn,
        )
        history.append((question, answers[0]))


def _truthfulqa(row: Row) -> Iterator[Example]:
    """Yields the example of a row; the original CSV has the hub's columns with spaces, and lists joined by `;`."""
    values = {name.lower().replace(" ", "_"): value for name, value in row.values.items()}
    question = _text(values["question"], row, "question")
    correct, incorrect = (
        tuple(_strings(_split(values[column], row, column), row, column))
        for column in ("correct_answers", "incorrect_answers")
    )
    identity = sha256(question)[:16]
    best = _text(values["best_answer"], row, "best_answer")
    yield Example(identity, identity, question, best, correct, row.where, incorrect)


def _split(value: Any, row: Row, column: str) -> Any:
    joined = isinstance(value, str) and not written_values.looks_written(value)
    return value.split(";") if joined else _unwritten(value, row, column)


def _unwritten(value: Any, row: Row, column: str) -> Any:
    """Returns a value, or the list or object that it has as text, as CSV files do; InputError if that is not exact."""
    if not isinstance(value, str):
        return value
    try:
        value = written_values.parse(value)
    except ValueError as error:
        advice = "write lists and objects as JSON"
        raise InputError(f"{row.where}: {column} is a text that cannot be read ({error}); {advice}") from error
    refuse_half_pairs(value, row.where, column)
    return value


def _identity(value: Any, row: Row, column: str) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool) or not str(value).strip():
        raise InputError(f"{row.where}: {column} is not a text or a number, or is blank")
    return str(value)


def _text(value: Any, row: Row, column: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{row.where}: {column} is not a text, or is blank")
    return value.strip()


def _strings(value: Any, row: Row, column: str) -> list[str]:
    """Returns the texts of a list, stripped, without blank ones."""
    value = _unwritten(value, row, column)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{row.where}: {column} is not a list of texts")
    return [item.strip() for item in value if item.strip()]


def _turns(value: Any, row: Row, column: str, *, may_be_blank: bool = False) -> list[str]:
    """Returns the texts of a conversation's turns, given as texts, as records, or (on the hub) as a record of lists.

    With `may_be_blank` all may be blank, and are not numbered: EleutherAI/coqa's train split has such additional
    answers.
    """
    value = _unwritten(value, row, column)
    if isinstance(value, dict):
        texts, numbers = (_unwritten(value.get(key), row, f"{column}.{key}") for key in ("input_text", "turn_id"))
    elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
        texts, numbers = ([item.get(key) for item in value] for key in ("input_text", "turn_id"))
    else:
        texts, numbers = value, None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{row.where}: {column} has no text for some turn")
    if not isinstance(numbers, list | None):
        raise InputError(f"{row.where}: the turn_id of {column} is not a list of numbers")
    blank = may_be_blank and not any(text.strip() for text in texts)
    if not blank and numbers and None not in numbers and numbers != list(range(1, len(texts) + 1)):
        raise InputError(f"{row.where}: the turn_id of {column} do not count 1, 2, ..., {len(texts)}")
    return [text.strip() for text in texts]


def _has(values: Any, path: list[str]) -> bool:
    for key in path:
        if not isinstance(values, Mapping) or values.get(key) is None:
            return False
        values = values[key]
    return True


SCHEMAS = {
    "triviaqa": (
        Schema("TriviaQA rc.nocontext", ("question", "question_id", "answer.value", "answer.aliases"), _triviaqa),
    ),
    "coqa": (
        Schema("the original JSON and EleutherAI/coqa", ("id", "story", "questions", "answers"), _coqa),
        Schema("stanfordnlp/coqa", ("story", "questions", "answers"), _coqa),
    ),
    "truthfulqa": (
        Schema(
            "truthful_qa generation", ("question", "best_answer", "correct_answers", "incorrect_answers"), _truthfulqa
        ),
        Schema("TruthfulQA.csv", ("Question", "Best Answer", "Correct Answers", "Incorrect Answers"), _truthfulqa),
    ),
}
