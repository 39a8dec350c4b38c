"""The oracle: what the best of all exit rules could save while every answer stays the full model's.

Each generated token leaves at the first exit whose most probable token is the one that the full model gave. To know
that takes the full model, so nothing is saved here: the full model's answers are read once more, all positions of an
answer at a time, and the exits they could have taken are noted. Hidden states are the full model's own, no head and no
state fill is paid: no rule that keeps the full model's answers can save more with these exits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from early_exit.base import job
from early_exit.base.errors import InputError
from early_exit.decoding import teacher_forced
from early_exit.models import loading
from early_exit.models.backbone import Backbone


def run(
    manifest: Mapping[str, Any], examples: pd.DataFrame, full: pd.DataFrame, exits: Sequence[int], *,
    max_new_tokens: int, rules: Mapping[str, Any], settings: Mapping[str, Any],
) -> pd.DataFrame:  # fmt: skip
    """The full model's answers to `examples`, out of its run `full` (records.GENERATIONS), with an oracle's exits.

    InputError with a repetition penalty: it changes what a token is compared with from step to step.
    """
    if rules["repetition_penalty"] != 1.0:
        raise InputError("policy of kind oracle: has no meaning under generation.repetition_penalty; take it away")
    full = full[full["example_id"].isin(examples["example_id"])].reset_index(drop=True)
    backbone, tokenizer = loading.open_backbone(manifest, settings)
    some = teacher_forced.answers(backbone, tokenizer, examples, full, max_new_tokens=max_new_tokens,
                          overflow=rules["prompt_overflow"])  # fmt: skip
    taken = [oracle_exits(backbone, exits, answer) for answer in job.progress(some, len(some), "answers")]
    return full.assign(exit_blocks=taken)


def oracle_exits(backbone: Backbone, exits: Sequence[int], answer: teacher_forced.Answer) -> list[int]:
    """For each generated token the first of `exits` (ascending) that gives it, or the depth; the first: the depth."""
    right = teacher_forced.agreement(backbone, teacher_forced.exit_states(backbone, exits, answer), answer)
    blocks = torch.full((len(right),), backbone.depth)
    for k in reversed(range(len(exits))):
        blocks[right[:, k].cpu()] = exits[k]
    return [backbone.depth, *blocks.tolist()]
