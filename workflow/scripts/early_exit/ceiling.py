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

from early_exit import backbones, generation, runtime
from early_exit.backbones import Backbone
from early_exit.conversations import Rounds
from early_exit.records import InputError


def run(
    manifest: Mapping[str, Any], examples: pd.DataFrame, full: pd.DataFrame, exits: Sequence[int], *,
    max_new_tokens: int, rules: Mapping[str, Any], settings: Mapping[str, Any],
) -> pd.DataFrame:  # fmt: skip
    """The full model's run `full` (records.GENERATIONS) with the exits that an oracle takes; arguments as there.

    InputError with a repetition penalty: it changes what a token is compared with from step to step.
    """
    if rules["repetition_penalty"] != 1.0:
        raise InputError("policy of kind oracle: has no meaning under generation.repetition_penalty; take it away")
    backbone, tokenizer = backbones.open_backbone(manifest, settings)
    room = None if backbone.context is None else backbone.context - max_new_tokens
    (threshold,) = full["threshold"].unique()
    asked = Rounds(examples, [threshold])
    for row in full.itertuples():
        asked.note(row.example_id, threshold, row.text)
    prompts = [asked.prompt(example_id, threshold) for example_id in full["example_id"]]
    requests = generation.tokenise(prompts, tokenizer, room, rules["prompt_overflow"], {})
    pairs = zip(requests, full["token_ids"], strict=True)
    taken = [
        oracle_exits(backbone, exits, request.token_ids, list(token_ids))
        for request, token_ids in runtime.progress(pairs, len(requests), "answers")
    ]
    return full.assign(exit_blocks=taken)


@torch.inference_mode()
def oracle_exits(
    backbone: Backbone, exits: Sequence[int], prompt: Sequence[int], token_ids: Sequence[int]
) -> list[int]:  # fmt: skip
    """For each generated token the first of `exits` (ascending) that gives it, or the depth; the first: the depth."""
    read = torch.tensor([[*prompt, *token_ids[:-1]]], device=backbone.device)
    _, kept = backbone.run_prompt(read, exits)
    wanted = torch.tensor(token_ids[1:], device=backbone.device)
    blocks = torch.full_like(wanted, backbone.depth)
    for exit_block in reversed(exits):
        given = backbone.logits(kept[exit_block][0, len(prompt) :]).argmax(-1)
        blocks[given == wanted] = exit_block
    return [backbone.depth, *blocks.tolist()]
