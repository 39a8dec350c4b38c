"""The full model's answers read once more, all positions of one at a time, with the hidden states at each exit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from early_exit.base import job
from early_exit.data.conversations import Rounds
from early_exit.decoding import answer as generation
from early_exit.models.backbone import Backbone
from early_exit.policies.confidences import Confidence
from early_exit.policies.plan import Measured


@dataclass(frozen=True)
class Answer:
    """An answer of the full model: its prompt's tokens and its own."""

    prompt: Sequence[int]
    token_ids: Sequence[int]


def answers(
    backbone: Backbone, tokenizer, examples: pd.DataFrame, full: pd.DataFrame, *, max_new_tokens: int, overflow: str
) -> list[Answer]:  # fmt: skip
    """Of each row of the full model's run `full` (records.GENERATIONS) on `examples`, in its order."""
    room = None if backbone.context is None else backbone.context - max_new_tokens
    (setting,) = full["setting"].unique()
    asked = Rounds(examples, [setting])
    for row in full.itertuples():
        asked.note(row.example_id, setting, row.text)
    prompts = [asked.prompt(example_id, setting) for example_id in full["example_id"]]
    requests = generation.tokenise(prompts, tokenizer, room, overflow, {})
    return [
        Answer(request.token_ids, list(token_ids))
        for request, token_ids in zip(requests, full["token_ids"], strict=True)
    ]


@torch.inference_mode()
def exit_states(backbone: Backbone, exits: Sequence[int], answer: Answer) -> dict[int, Tensor]:
    """Hidden states (1, prompt + answer - 1, hidden) after each exit: the answer's last token is read by nobody."""
    read = torch.tensor([[*answer.prompt, *answer.token_ids[:-1]]], device=backbone.device)
    return backbone.run_prompt(read, exits)[1]


@torch.inference_mode()
def agreement(backbone: Backbone, hidden: Mapping[int, Tensor], answer: Answer) -> Tensor:
    """Whether the most probable token at each exit is the full model's, (answer's tokens - 1, exits)."""
    wanted = torch.tensor(answer.token_ids[1:], device=backbone.device)
    given = [backbone.logits(states[0, len(answer.prompt) :]).argmax(-1) for states in hidden.values()]
    return torch.stack([tokens == wanted for tokens in given], dim=1)


def measure(
    backbone: Backbone, policy: Confidence, some: Sequence[Answer], table: Mapping[str, Any], costs: Mapping[str, Any]
) -> Measured:  # fmt: skip
    """A policy's confidences on answers of the full model; see `planning.Measured`."""
    sure, same = [], []
    for answer in job.progress(some, len(some), "answers"):
        hidden = exit_states(backbone, policy.exits, answer)
        with torch.inference_mode():
            sure.append(policy.of_answer(hidden, len(answer.prompt)).cpu().numpy())
        same.append(agreement(backbone, hidden, answer).cpu().numpy())
    passes = [len(rows) for rows in sure]
    prompt_tokens = np.array([len(answer.prompt) for answer in some])
    answer = np.repeat(np.arange(len(some)), passes)
    return Measured(np.concatenate(sure), np.concatenate(same), answer, prompt_tokens, table, costs)
