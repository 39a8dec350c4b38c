"""The closed world behind the preset `tiny`: invented facts, popular errors and stories, from a seed.

Facts and errors are knowledge: they are the same in training, calibration and test. The wording of a question, an
opener followed by a core phrase, belongs to one of these roles, and so does a story. Questions about facts, stories and
errors become TriviaQA, CoQA and TruthfulQA (see `files`).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from early_exit.data import prompts
from tiny import vocabulary

ROLES = ("train", "calibration", "test")


@dataclass(frozen=True)
class Fact:
    """One row of knowledge: `relation(subject) = value`."""

    relation: str
    subject: str
    value: str


@dataclass(frozen=True)
class Myth:
    """A popular error: people say that `action` has the effect `error`, but it has the effect `truth`."""

    action: str
    truth: str
    error: str

    def answers(self, effect: str) -> list[str]:
        """Returns sentences that claim an effect, the plainest first."""
        return [f"If you {self.action}, {effect}", f"When you {self.action}, {effect}", effect.capitalize()]


@dataclass(frozen=True)
class Story:
    """A short text, and its questions, each with its answers, the plainest first."""

    text: str
    turns: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Document:
    """A training text, and the spans of its answers in characters, [start, end)."""

    text: str
    answers: tuple[tuple[int, int], ...]


class World:
    """All facts, errors, wordings and stories, drawn from a seed."""

    def __init__(self, seed: int):
        self.seed = seed
        rng = random.Random(f"world-{seed}")
        names = vocabulary.invented_names(rng, 30 + 30 + 12 + 6 + 80)
        towns, people, rivers, lands, odd = (_take(names, n) for n in (30, 30, 12, 6, 80))
        titles = [f"The {a} {n}" for a, n in product(vocabulary.TITLE_ADJECTIVES, vocabulary.TITLE_NOUNS)]
        values = {
            "river": rivers,
            "land": lands,
            "goods": vocabulary.GOODS,
            "founder": people,
            "trade": vocabulary.TRADES,
            "birthplace": towns,
            "book": rng.sample(titles, 30),
        }
        self.facts = [
            Fact(relation, subject, rng.choice(values[relation]))
            for subjects, relations in ((towns, vocabulary.TOWN_RELATIONS), (people, vocabulary.PERSON_RELATIONS))
            for subject, relation in product(subjects, relations)
        ]
        self.myths = [
            Myth(vocabulary.ACTIONS[i % len(vocabulary.ACTIONS)].format(name.lower()), *map(rng.choice, _EFFECTS))
            for i, name in enumerate(odd)
        ]
        self.wordings = {key: _split_wordings(rng, cores) for key, cores in vocabulary.QUESTION_CORES.items()}
        self.held_out = {story.text for role in ROLES[1:] for story in self.stories(role, 200)}

    def question(self, wording: str, **slots: str) -> str:
        """Returns the question of a wording whose slots are filled."""
        text = wording.format(**slots)
        return f"{text[0].upper()}{text[1:]}?"

    def stories(self, role: str, count: int) -> list[Story]:
        """Returns the first `count` stories of a role, the same in every call."""
        rng = random.Random(f"stories-{role}-{self.seed}")
        return [self.story(rng, role) for _ in range(count)]

    def story(self, rng: random.Random, role: str, people: int = 5) -> Story:
        """Draws a story of as many different deeds as people, with questions about up to four of them."""
        names, deeds = rng.sample(vocabulary.STORY_NAMES, people), rng.sample(sorted(vocabulary.DEEDS), people)
        sentences, turns = [], []
        for name, deed in zip(names, deeds, strict=True):
            past, kind = vocabulary.DEEDS[deed]
            objects = vocabulary.PLACES if kind == "where" else vocabulary.THINGS
            thing = rng.choice(objects)
            sentences.append(f"{name} {past} {thing}.")
            asked = rng.choice(("who", kind))
            wording = rng.choice(self.wordings[asked][role])
            question = self.question(wording, name=name, deed=deed, past=past, thing=thing)
            sentence = f"{name} {past} {thing}"
            turns.append((question, (sentence, name if asked == "who" else thing, f"{sentence}.")))
        rng.shuffle(turns)
        return Story(" ".join(sentences), tuple(turns[:4]))

    def fact_questions(self, role: str) -> list[tuple[str, Fact]]:
        """Returns the questions for every fact in every wording of a role, in a seeded order."""
        pairs = [
            (self.question(wording, s=f.subject), f) for f in self.facts for wording in self.wordings[f.relation][role]
        ]
        random.Random(f"facts-{role}-{self.seed}").shuffle(pairs)
        return pairs

    def myth_questions(self, role: str) -> list[tuple[str, Myth]]:
        """Returns the questions for every popular error in every wording of a role, in a seeded order."""
        pairs = [(self.question(w, act=m.action), m) for m in self.myths for w in self.wordings["myth"][role]]
        random.Random(f"myths-{role}-{self.seed}").shuffle(pairs)
        return pairs

    def documents(self, seed: int, story_share: float = 0.5, retold: float = 0.0) -> Iterator[Document]:
        """Yields training documents without end: stories with questions, facts, errors and prose.

        `story_share` of the documents are stories. `retold` of the stories have, instead of questions, their sentences
        again in another order.
        """
        rng = random.Random(f"documents-{self.seed}-{seed}")
        facts, myths = self.fact_questions("train"), self.myth_questions("train")
        while True:
            draw = rng.random()
            if draw < story_share:
                story = self.story(rng, "train", people=rng.randint(2, 5))
                if story.text in self.held_out:
                    continue
                if retold and rng.random() < retold:
                    yield _retelling(rng, story.text)
                else:
                    turns = [(q, a[0]) for q, a in story.turns]
                    yield _document(prompts.coqa(story.text, turns[:-1], turns[-1][0]), turns)
            elif draw < story_share + 0.2:
                turns = [(q, f.value) for q, f in rng.sample(facts, 4)]
                yield _document(prompts.triviaqa(turns[:-1], turns[-1][0]), turns)
            elif draw < story_share + 0.4:
                turns = [(q, m.answers(m.truth)[0]) for q, m in rng.sample(myths, 3)]
                yield _document(prompts.truthfulqa(turns[:-1], turns[-1][0]), turns)
            else:
                yield Document(self._prose(rng), ())

    def _prose(self, rng: random.Random) -> str:
        lines = [vocabulary.STATEMENTS[f.relation].format(s=f.subject, o=f.value) for f in rng.sample(self.facts, 4)]
        for myth in rng.sample(self.myths, 2):
            lines.append(f"Many people say that {myth.error} if you {myth.action}. In truth, {myth.truth}.")
        rng.shuffle(lines)
        return " ".join(lines)


_EFFECTS = (vocabulary.TRUE_EFFECTS, vocabulary.FALSE_EFFECTS)


def _take(pool: list[str], count: int) -> list[str]:
    taken, pool[:] = pool[:count], pool[count:]
    return taken


def _split_wordings(rng: random.Random, cores: tuple[str, ...]) -> dict[str, list[str]]:
    """Returns the wordings (opener + core) of each role: every core is in all roles, every wording in one."""
    openers = vocabulary.OPENERS
    split = {role: [] for role in ROLES}
    for core in cores:
        dealt = rng.sample(openers, len(openers))
        split["calibration"].append(dealt[0] + core)
        split["test"].append(dealt[1] + core)
        split["train"] += [opener + core for opener in dealt[2:]]
    return split


def _retelling(rng: random.Random, text: str) -> Document:
    """Returns a story told twice; the second telling counts as the answer."""
    sentences = text.split(". ")
    again = ". ".join(rng.sample([sentence.removesuffix(".") for sentence in sentences], len(sentences)))
    return Document(f"{text}\n\n{again}.\n", ((len(text) + 2, len(text) + 4 + len(again)),))


def _document(prompt: str, turns: list[tuple[str, str]]) -> Document:
    """Returns the prompt followed by its last answer; an answer's span includes its line end."""
    text = f"{prompt} {turns[-1][1]}\n"
    spans, position = [], 0
    for question, answer in turns:
        start = text.index(": ", text.index(question, position) + len(question)) + 1
        position = start + 1 + len(answer) + 1
        spans.append((start, position))
    return Document(text, tuple(spans))
