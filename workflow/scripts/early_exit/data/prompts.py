"""Prompts and stop strings of the question sets, in two profiles, the same for every backbone.

`official`: the sets' authors prescribe no prompt for language models, so this is the plain form for base models. The
paper's earlier code has the same shots: TriviaQA `Question:/Answer:` (2), CoQA story, history and `Q:/A:` (0),
TruthfulQA `Q:/A:` (1). An answer ends with its line.

`lm-eval`: the tasks of EleutherAI's lm-evaluation-harness 0.4.13 (triviaqa 3.0, coqa 3.0, truthfulqa_gen 3.0), with
their peculiarities, so that scores are comparable. TriviaQA adds "?" to every question, though most have one, shows a
shot's first alias, and stops at "." and ",". CoQA leaves the white space around a story, has a blank line before each
answer, and stops at the next "Q:". TruthfulQA lets the model write "A:" itself, which is scored with the answer.
Differences remain: the harness draws other shots and allows 256 new tokens, and its TruthfulQA prompts begin with six
questions of the set's authors (Lin et al. 2022). Their text is not contained here; the set's own `shots` replace them.

A prompt ends with its cue without a space: the first token of the answer begins with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

Turn = tuple[str, str]


@dataclass(frozen=True)
class Format:
    """The prompt's format for a kind of question set: blocks of question and answer, separated by blank lines."""

    question: str  # with {} for its text
    cue: str  # between a question and its answer
    stop_strings: tuple[str, ...]  # the first of them in the text ends an answer
    last_cue: str | None = None  # at the end of the prompt, if it is not `cue`
    story_as_is: bool = False  # whether the story is not stripped
    shows_alias: bool = False  # whether a shot's answer is its first reference instead of the representative answer

    def shown(self, answer: str, references: Sequence[str]) -> str:
        """Returns the answer that a shot shows; `answer` is the set's representative one."""
        return references[0] if self.shows_alias and references else answer

    def parts(self, questions: Sequence[str], story: str = "") -> list[str]:
        """Returns the prompt for the last question in parts, one per question: the earlier answers go between them."""
        opening = f"{story if self.story_as_is else story.strip()}\n\n" if story else ""
        *earlier, last = (self.question.format(question) for question in questions)
        last_cue = self.cue if self.last_cue is None else self.last_cue
        parts = [*(f"{question}{self.cue} " for question in earlier), last + last_cue]
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
    """Returns the closed-book prompt: the shots' questions and answers, then the question."""
    return _prompt(PROFILES[profile]["triviaqa"], shots, question)


def coqa(story: str, history: Sequence[Turn], question: str, *, profile: str = "official") -> str:
    """Returns the prompt of a turn: the story, the turns before it with their answers, then the question."""
    return _prompt(PROFILES[profile]["coqa"], history, question, story)


def truthfulqa(shots: Sequence[Turn], question: str, *, profile: str = "official") -> str:
    """Returns the prompt: the shots' questions and answers, then the question."""
    return _prompt(PROFILES[profile]["truthfulqa"], shots, question)


def join(parts: Sequence[str], answers: Sequence[str]) -> str:
    """Returns a prompt from its parts (see `Format.parts`) with the answers between; ValueError if counts differ."""
    if len(answers) != len(parts) - 1:
        raise ValueError(f"{len(parts)} parts of a prompt have gaps for {len(parts) - 1} answers, not {len(answers)}")
    return "".join(part + answer for part, answer in zip(parts, [*answers, ""], strict=True))


def _prompt(form: Format, turns: Sequence[Turn], question: str, story: str = "") -> str:
    questions, answers = [q for q, _ in turns], [a for _, a in turns]
    return join(form.parts([*questions, question], story), answers)
