"""Prompt text and stop strings of the question sets, in two named profiles, the same for every backbone.

`official`: the sets' authors prescribe no prompt for language models, so this is the plain form for base models, with
the shots that the paper's earlier code has: TriviaQA `Question:/Answer:` (2), CoQA story, history and `Q:/A:` (0),
TruthfulQA `Q:/A:` (1). An answer ends with its line.

`lm-eval`: the tasks of EleutherAI's lm-evaluation-harness 0.4.13 (triviaqa 3.0, coqa 3.0, truthfulqa_gen 3.0), oddities
included, so that numbers can be held against it: TriviaQA puts "?" behind every question, which most have already,
shows a shot's first alias, and stops at "." and ","; CoQA keeps the white space around a story, has a blank line before
each answer and goes on to the next "Q:"; TruthfulQA lets the model write "A:" itself, which is scored with the answer.
The harness draws other shots, allows 256 new tokens, and puts six questions of TruthfulQA's authors (Lin et al. 2022)
before each of TruthfulQA, whose text is not contained here: the set's own `shots` stand in for them.

A prompt ends right after its cue: the answer begins with the space that its first token carries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

Turn = tuple[str, str]


@dataclass(frozen=True)
class Format:
    """How a kind of question set is asked: blocks of question and answer, a blank line between them."""

    asked: str  # with the question for {}
    cue: str  # between a question and its answer
    stop_strings: tuple[str, ...]  # the first of them ends an answer
    last_cue: str | None = None  # where the prompt does not end with `cue`
    story_as_is: bool = False  # with the white space around it
    shows_alias: bool = False  # a shot's answer is the first reference, not the representative one

    def shown(self, answer: str, references: Sequence[str]) -> str:
        """The answer of a shot, given its set's representative answer and its references."""
        return references[0] if self.shows_alias and references else answer

    def parts(self, questions: Sequence[str], story: str = "") -> list[str]:
        """The prompt for the last question, cut where the answers to those before it go: one part per question."""
        opening = f"{story if self.story_as_is else story.strip()}\n\n" if story else ""
        asked = [self.asked.format(question) for question in questions]
        last_cue = self.cue if self.last_cue is None else self.last_cue
        parts = [*(f"{question}{self.cue} " for question in asked[:-1]), asked[-1] + last_cue]
        return [opening + parts[0], *(f"\n\n{part}" for part in parts[1:])]


QUESTION = Format("Question: {}", "\nAnswer:", ("\n",))
DIALOGUE = Format("Q: {}", "\nA:", ("\n",))
PROFILES: dict[str, dict[str, Format]] = {
    "official": {"triviaqa": QUESTION, "coqa": DIALOGUE, "truthfulqa": DIALOGUE},
    "lm-eval": {
        "triviaqa": Format("Question: {}?", "\nAnswer:", ("\n", ".", ","), shows_alias=True),
        "coqa": Format("Q: {}", "\n\nA:", ("\nQ:",), story_as_is=True),
        "truthfulqa": Format("Q: {}", "\nA:", ("\n\n",), last_cue=""),
    },
}


def triviaqa(shots: Sequence[Turn], question: str, *, profile: str = "official") -> str:
    """Closed-book prompt: the shots' questions and answers, then the question."""
    return _prompt(PROFILES[profile]["triviaqa"], shots, question)


def coqa(story: str, history: Sequence[Turn], question: str, *, profile: str = "official") -> str:
    """Story, the turns before this one with their answers, then the question."""
    return _prompt(PROFILES[profile]["coqa"], history, question, story)


def truthfulqa(shots: Sequence[Turn], question: str, *, profile: str = "official") -> str:
    """The shots' questions and answers, then the question."""
    return _prompt(PROFILES[profile]["truthfulqa"], shots, question)


def join(parts: Sequence[str], answers: Sequence[str]) -> str:
    """A prompt from its parts (see `Format.parts`) with one answer in each gap; ValueError if their numbers differ."""
    if len(answers) != len(parts) - 1:
        raise ValueError(f"{len(parts)} parts of a prompt have gaps for {len(parts) - 1} answers, not {len(answers)}")
    return "".join(part + answer for part, answer in zip(parts, [*answers, ""], strict=True))


def _prompt(form: Format, turns: Sequence[Turn], question: str, story: str = "") -> str:
    questions, answers = [q for q, _ in turns], [a for _, a in turns]
    return join(form.parts([*questions, question], story), answers)
