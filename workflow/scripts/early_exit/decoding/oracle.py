"""The oracle: the most that any exit policy could save while every answer stays the full model's.

Each generated token leaves at the first exit whose most probable token is the full model's. To know that takes the full
model, so nothing is saved here: a teacher-forced pass reads the full model's answers and notes the exits they could
have taken. Hidden states are the full model's, and neither heads nor state fill are paid for: no policy that keeps the
full model's answers can save more with these exits.
"""

from collections.abc import Sequence

import torch

from early_exit.base import job
from early_exit.base.errors import InputError
from early_exit.decoding import teacher_forced
from early_exit.decoding.teacher_forced import FullAnswer
from early_exit.models.backbone import Backbone


def check(repetition_penalty: float) -> None:
    """InputError with a repetition penalty: it changes what a token is compared with from step to step."""
    if repetition_penalty != 1.0:
        raise InputError("policy of kind oracle: has no meaning under generation.repetition_penalty; take it away")


def exit_blocks(backbone: Backbone, exits: Sequence[int], answers: Sequence[FullAnswer]) -> list[list[int]]:
    """For each answer, the oracle's exits (see `oracle_exits`)."""
    return [oracle_exits(backbone, exits, answer) for answer in job.progress(answers, len(answers), "answers")]


def oracle_exits(backbone: Backbone, exits: Sequence[int], answer: FullAnswer) -> list[int]:
    """For each generated token the first of `exits` (ascending) that gives it, or the depth; the first: the depth."""
    agrees = teacher_forced.agreement(backbone, teacher_forced.exit_states(backbone, exits, answer), answer)
    blocks = torch.full((len(agrees),), backbone.depth)
    for k in reversed(range(len(exits))):
        blocks[agrees[:, k].cpu()] = exits[k]
    return [backbone.depth, *blocks.tolist()]
