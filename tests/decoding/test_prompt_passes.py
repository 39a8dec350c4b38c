"""Decoders that share the passes of their prompts answer as each of them alone, and each prompt runs once."""

import dataclasses

import pytest
import torch

from early_exit.data.conversations import Prompt
from early_exit.decoding import answer, fills, memory
from early_exit.decoding.batch import Decoder
from early_exit.decoding.run_parts import RunPart
from early_exit.heads import store
from early_exit.models import loading
from early_exit.policies import confidences
from engine import Length, prompts, rules

EXITS = [2, 4]
MAMBA = {"kind": "mamba", "expand": 2, "head_dim": 8, "state_size": 8, "n_groups": 2, "conv_kernel": 4, "chunk_size": 8}


class Numbers:
    """A tokenizer whose text is its tokens' numbers."""

    def __call__(self, texts):
        return {"input_ids": [list(map(int, text.split())) for text in texts]}


class Named(Length):
    def text(self, token_ids):
        return " ".join(map(str, token_ids))


def parts_of(backbone):
    """Policies that read their prompts and such that do not; some with fewer blocks, whose prompt runs through all."""

    def head(config):
        torch.manual_seed(5)
        made = store.build(config, backbone.hidden_size, EXITS)
        return confidences.HeadConfidence(made.eval().requires_grad_(False))

    fill = fills.FILLS[backbone.family]["propagate"]
    softmax = confidences.Softmax(EXITS, backbone.logits)
    return {
        "full": [RunPart([1.0], Decoder(backbone))],
        "mamba": [RunPart([0.4, 0.5], Decoder(backbone, head(MAMBA), fill()))],
        "calm": [RunPart([0.4, 0.5, 0.6], Decoder(backbone, head({"kind": "calm"}), fill()))],
        "softmax": [RunPart([0.02, 0.05], Decoder(backbone, softmax, fill()))],
        "dropped": [RunPart([2.0], Decoder(backbone.without([2, 3]), prompt_backbone=backbone))],
        "pruned": [RunPart([2.0], Decoder(backbone.without([2, 3])))],
    }


def some_prompts(count=6):
    """Prompts of unequal lengths, half of which begin like the one before."""
    some = prompts(count, seed=4, longest=24)
    return [some[k - 1] + one if k % 2 else one for k, one in enumerate(some)]


def answers(backbone, names, budget=2**33, slots=4):
    """(token ids, exit blocks) by policy, example and setting."""
    parts = {name: part for name, part in parts_of(backbone).items() if name in names}
    columns = tuple((name, setting) for name, of_name in parts.items() for part in of_name for setting in part.settings)
    asked = [Prompt(f"{k:02d}", " ".join(map(str, one)), columns) for k, one in enumerate(some_prompts())]
    answerer = answer.Answerer(Numbers(), parts, rules(Named(6)), memory.Limits(slots, budget))
    with torch.inference_mode():
        done = list(answerer(asked))
    found = {(policy, row.example_id, row.setting): (row.token_ids, row.exit_blocks) for policy, row in done}
    assert len(found) == len(done) == len(asked) * len(columns)
    return found


@pytest.fixture
def backbone(random_model):
    return loading.adapt(random_model)


def test_answers_are_those_of_each_policy_alone(backbone):
    together = answers(backbone, parts_of(backbone))
    alone = {}
    for name in parts_of(backbone):
        alone |= answers(backbone, [name])
    assert together == alone
    blocks = {policy: {block for key, (_, of_row) in together.items() if key[0] == policy for block in of_row[1:]}
              for policy in parts_of(backbone)}  # fmt: skip
    assert len(blocks["softmax"] | blocks["calm"] | blocks["mamba"]) > 1  # some leave, some do not


def test_a_small_budget_divides_the_prompts_and_changes_nothing(backbone):
    longest = max(map(len, some_prompts()))
    small = 4 * 2 * memory.stored_prompt(backbone, longest, len(EXITS))  # a quarter of it holds about two prompts
    assert answers(backbone, parts_of(backbone), budget=small, slots=3) == answers(backbone, parts_of(backbone))


SHARED = ("full", "mamba", "calm", "softmax", "dropped")


@pytest.mark.parametrize(("names", "times"), [(SHARED, 1), (("full", "pruned"), 2)])
def test_each_prompt_runs_once_for_all_policies_that_share_it(backbone, names, times):
    """The tokens that block 1 reads in whole sequences; a prefix is read once where only keys and values are left."""
    read = []

    class Counted(torch.nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def __getattr__(self, name):
            return super().__getattr__(name) if name == "block" else getattr(self.block, name)

        def forward(self, hidden, *inputs, **named):
            read.append(tuple(hidden.shape[:2]))
            return self.block(hidden, *inputs, **named)

    counted = dataclasses.replace(backbone, blocks=(Counted(backbone.blocks[0]), *backbone.blocks[1:]))
    answers(counted, names)
    sequences = sum(rows * length for rows, length in read if length > 1)
    whole = sum(map(len, some_prompts()))
    if backbone.family == "mamba":
        assert sequences == times * whole
    else:
        assert sequences <= times * whole * 1.25  # with padding, and less what prompts share
