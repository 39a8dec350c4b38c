"""Teacher-forced passes over the full model's answers: all positions of one at a time, with hidden states at exits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from early_exit.base import job
from early_exit.costs.passes import CostTable, ExitPrice
from early_exit.data.conversations import Rounds
from early_exit.decoding.answer import tokenise, window_room
from early_exit.models.backbone import Backbone
from early_exit.policies.confidences import Confidence
from early_exit.policies.measured import MeasuredConfidences


@dataclass(frozen=True)
class FullAnswer:
    """An answer of the full model: the tokens of its prompt, and those generated."""

    prompt: Sequence[int]
    token_ids: Sequence[int]


def answers(
    backbone: Backbone, tokenizer: Callable, examples: pd.DataFrame, full: pd.DataFrame, *,
    max_new_tokens: int, overflow: str,
) -> list[FullAnswer]:  # fmt: skip
    """The full model's answers `full` to some of `examples`, a row each, in its order.

    `full` has `example_id`, `text` and `token_ids` as in records.GENERATIONS.
    """
    rounds = Rounds(examples, ["full"])
    for row in full.itertuples():
        rounds.note(row.example_id, "full", row.text)
    prompts = [rounds.prompt(example_id, "full") for example_id in full["example_id"]]
    requests = tokenise(prompts, tokenizer, window_room(backbone.context, max_new_tokens), overflow)
    return [
        FullAnswer(request.token_ids, list(token_ids))
        for request, token_ids in zip(requests, full["token_ids"], strict=True)
    ]


@torch.inference_mode()
def exit_states(backbone: Backbone, exits: Sequence[int], answer: FullAnswer) -> dict[int, Tensor]:
    """Hidden states (1, prompt + answer - 1, hidden) after each exit; the answer's last token is not an input."""
    tokens = torch.tensor([[*answer.prompt, *answer.token_ids[:-1]]], device=backbone.device)
    return backbone.run_prompt(tokens, exits)[1]


@torch.inference_mode()
def agreement(backbone: Backbone, hidden: Mapping[int, Tensor], answer: FullAnswer) -> Tensor:
    """Whether the most probable token at each exit is the full model's, (answer's tokens - 1, exits)."""
    targets = torch.tensor(answer.token_ids[1:], device=backbone.device)
    predicted = [backbone.logits(states[0, len(answer.prompt) :]).argmax(-1) for states in hidden.values()]
    return torch.stack([tokens == targets for tokens in predicted], dim=1)


@dataclass(frozen=True)
class Measure:
    """A policy to be measured, and what its tokens cost; `fits` (answers,) says on which answers."""

    policy: Confidence
    price: ExitPrice
    fits: np.ndarray


def measure(
    backbone: Backbone, measures: Mapping[str, Measure], answers: Sequence[FullAnswer], table: CostTable
) -> dict[str, MeasuredConfidences]:
    """The confidences of policies on answers of the full model, by name; `table` is the backbone's cost table."""
    exits = sorted({n for one in measures.values() for n in one.policy.exits})
    confidences, agreements = {name: [] for name in measures}, {name: [] for name in measures}
    for k, answer in enumerate(job.progress(answers, len(answers), "answers")):
        hidden = exit_states(backbone, exits, answer)
        agrees = agreement(backbone, hidden, answer).cpu().numpy()  # (passes, exits)
        for name, one in measures.items():
            if one.fits[k]:
                with torch.inference_mode():
                    confidences[name].append(one.policy.of_answer(hidden, len(answer.prompt)).cpu().numpy())
                agreements[name].append(agrees[:, [exits.index(n) for n in one.policy.exits]])
    return {
        name: _measured(confidences[name], agreements[name], [answers[k] for k in np.flatnonzero(one.fits)], table, one)
        for name, one in measures.items()
    }


def _measured(
    confidences: Sequence[np.ndarray], agreements: Sequence[np.ndarray], answers: Sequence[FullAnswer],
    table: CostTable, one: Measure,
) -> MeasuredConfidences:  # fmt: skip
    passes = [len(rows) for rows in confidences]
    prompt_tokens = np.array([len(answer.prompt) for answer in answers])
    answer = np.repeat(np.arange(len(answers)), passes)
    return MeasuredConfidences(
        np.concatenate(confidences), np.concatenate(agreements), answer, prompt_tokens, table, one.price
    )
