"""The files of a closed world: question sets and corpus as JSON lines, in the hub's layout and schemas.

Splits are `train` (for shots), `validation` (for calibration) and `test`. No two splits share a story or a wording of a
question. Equal worlds give equal bytes.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from early_exit.base.files import whole_file
from tiny.world import Fact, Myth, Story, World

SPLITS = {"train": "train", "validation": "calibration", "test": "test"}  # the hub's name: the world's role
QUESTIONS = {"train": 20, "validation": 200, "test": 360}
MYTHS = {"train": 20, "validation": 200, "test": 320}  # 80 errors in the four wordings of a role
STORIES = {"train": 5, "validation": 50, "test": 90}  # of four questions each
DOCUMENTS = 700
DOCUMENTS_SEED = 10_000  # another than the models are trained with
ALIASES = {"river": "River {}", "land": "land of {}"}

Known = TypeVar("Known", Fact, Myth)
Record = dict[str, Any]


def write(world: World, folder: Path) -> None:
    """Write triviaqa/, coqa/, truthfulqa/ ({train,validation,test}.jsonl) and corpus/train.jsonl into `folder`."""
    for split, role in SPLITS.items():
        facts = _evenly(world.fact_questions(role), QUESTIONS[split])
        myths = _evenly(world.myth_questions(role), MYTHS[split])
        stories = world.stories(role, STORIES[split])
        sets = {
            "triviaqa": [_triviaqa(f"{split}_{i}", *pair) for i, pair in enumerate(facts)],
            "coqa": [_coqa(f"{split}_{i}", story) for i, story in enumerate(stories)],
            "truthfulqa": [_truthfulqa(*pair) for pair in myths],
        }
        for name, records in sets.items():
            _write_lines(records, folder / name / f"{split}.jsonl")
    documents = islice(world.documents(DOCUMENTS_SEED), DOCUMENTS)
    corpus = [{"text": document.text, "id": f"document_{i}"} for i, document in enumerate(documents)]
    _write_lines(corpus, folder / "corpus" / "train.jsonl")


def _evenly(questions: Sequence[tuple[str, Known]], count: int) -> list[tuple[str, Known]]:
    """Returns `count` questions that ask for everything once before they ask for anything twice, and so on."""
    asked: Counter = Counter()
    ranked = []
    for question, known in questions:
        ranked.append((asked[known], (question, known)))
        asked[known] += 1
    ranked.sort(key=itemgetter(0))
    return [pair for _, pair in ranked[:count]]


def _triviaqa(question_id: str, question: str, fact: Fact) -> Record:
    aliases = [fact.value]
    if fact.relation in ALIASES:
        aliases.append(ALIASES[fact.relation].format(fact.value))
    normalised = [_normalised(alias) for alias in aliases]
    return {
        "question": question,
        "question_id": question_id,
        "question_source": "closed world",
        "entity_pages": {"doc_source": [], "filename": [], "title": [], "wiki_context": []},
        "search_results": {key: [] for key in ("description", "filename", "rank", "title", "url", "search_context")},
        "answer": {
            "aliases": aliases,
            "normalized_aliases": normalised,
            "matched_wiki_entity_name": "",
            "normalized_matched_wiki_entity_name": "",
            "normalized_value": normalised[0],
            "type": "FreeForm",
            "value": fact.value,
        },
    }


def _coqa(story_id: str, story: Story) -> Record:
    """Returns a story with the answers of four annotators: the plainest ones, two variants, the plainest again."""
    questions = [question for question, _ in story.turns]
    plain, bare, sentence = zip(*(answers for _, answers in story.turns), strict=True)
    turn_ids = list(range(1, len(questions) + 1))
    return {
        "id": story_id,
        "source": "closed world",
        "story": story.text,
        "questions": {"input_text": questions, "turn_id": turn_ids},
        "answers": _annotator(story.text, plain, plain, turn_ids),
        "additional_answers": {
            str(i): _annotator(story.text, plain, given, turn_ids) for i, given in enumerate((bare, sentence, plain))
        },
    }


def _annotator(text: str, spans: Sequence[str], given: Sequence[str], turn_ids: list[int]) -> Mapping[str, list]:
    starts = [text.index(span) for span in spans]
    return {
        "span_start": starts,
        "span_end": [start + len(span) for start, span in zip(starts, spans, strict=True)],
        "span_text": list(spans),
        "input_text": list(given),
        "turn_id": turn_ids,
    }


def _truthfulqa(question: str, myth: Myth) -> Record:
    correct = myth.answers(myth.truth)
    return {
        "type": "Adversarial",
        "category": "Popular errors",
        "question": question,
        "best_answer": correct[0],
        "correct_answers": correct,
        "incorrect_answers": myth.answers(myth.error),
        "source": "closed world",
    }


def _normalised(answer: str) -> str:
    """Returns TriviaQA's normal form of plain words, of which it only changes case and articles."""
    return " ".join(word for word in answer.lower().split() if word not in ("a", "an", "the"))


def _write_lines(records: Iterable[Record], path: Path) -> None:
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
