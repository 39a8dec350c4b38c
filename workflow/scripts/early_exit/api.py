"""Early exits from Python: a backbone and its trained heads from their folders, and answers with what they cost.

This is the top layer: it puts the engine's parts together as a job of the pipeline does, without a config.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from early_exit.base import job
from early_exit.base.errors import InputError
from early_exit.base.records import Manifest, read_json
from early_exit.costs.parts import Cost
from early_exit.costs.passes import ExitPrice, cost_table, generation_flops
from early_exit.decoding import loop
from early_exit.decoding.batch import Decoder
from early_exit.decoding.fills import FILLS, Fill
from early_exit.decoding.requests import Request
from early_exit.decoding.stopping import StopRule
from early_exit.heads import store
from early_exit.models import loading
from early_exit.models.backbone import Backbone
from early_exit.policies.base import FullDepth
from early_exit.policies.confidences import Confidence, HeadConfidence
from early_exit.sources import manifests, readers

ROWS = 16  # prompts that run at once, at most


@dataclass(frozen=True)
class LanguageModel:
    """A backbone with its tokenizer and its manifest, which says which files it was read from."""

    backbone: Backbone
    tokenizer: Any
    manifest: Manifest


@dataclass(frozen=True)
class TrainedHeads:
    """Trained heads of one design, one per exit, keyed by the exit's block number as text; `cost` is that of a check.

    `heads["8"](hidden)` maps hidden states after block 8, (rows, T, hidden), to logits (rows, T, 2).
    """

    heads: nn.ModuleDict
    cost: Cost


@dataclass(frozen=True)
class Ending:
    """When answers end, beside the end of sequence: at the first of the stop strings, or at the latest at a length."""

    max_new_tokens: int = 32
    stop_strings: Sequence[str] = ()


@dataclass(frozen=True)
class Answer:
    """What one prompt gets.

    `exit_blocks[i]` blocks were run for the pass that gave token i; the first comes from the prompt's pass. `flops`
    counts the decode passes, checks and state fill included; `flops_full` is what the full model pays for the same
    tokens.
    """

    text: str
    token_ids: list[int]
    exit_blocks: list[int]
    stop_reason: str  # eos, stop or length
    flops: float
    flops_full: float


def load_backbone(
    folder: str | Path, *, gguf: str | None = None, device: str = "auto", dtype: str = "float32"
) -> LanguageModel:
    """Load a backbone from a local folder in the Hub's format; `gguf` names a GGUF file in it.

    `device` is auto, cpu or cuda; `dtype` float32, bfloat16 or float16. InputError if the model is not supported.
    """
    folder = Path(folder)
    spec = {"source": str(folder), "gguf": gguf}
    manifest = manifests.describe(folder.name, spec, folder, str(folder.resolve()))
    backbone = loading.load(manifest, torch.device(job.device_name(device)), getattr(torch, dtype))
    return LanguageModel(backbone, loading.load_tokenizer(manifest), manifest)


def load_heads(folder: str | Path, name: str, model: LanguageModel) -> TrainedHeads:
    """Load the trained heads `name` from a recipe's folder, such as results/tiny/heads/tiny-mamba/paper.

    InputError if the folder has no such head, or if they were trained for another backbone.
    """
    heads = store.load(folder, name, model.manifest).to(model.backbone.device, model.backbone.model.dtype)
    described = read_json(Path(folder) / "manifest.json")
    return TrainedHeads(heads, store.cost(described["heads"][name], described["hidden_size"], name))


def generate(
    model: LanguageModel, prompts: Sequence[str], policy: TrainedHeads | Confidence | None = None, *,
    threshold: float = 1.0, state_fill: str = "propagate", ending: Ending = Ending(),
) -> list[Answer]:  # fmt: skip
    """Answer prompts greedily; each token leaves at the first exit with a confidence above the threshold.

    Args:
        policy: trained heads, or a confidence of yours, which has a `check`; without one the full model answers.
        state_fill: what caches of skipped blocks get (see `decoding.fills`).
        ending: when answers end.

    Returns:
        One answer per prompt, in the same order.

    Raises:
        InputError: the family has no such state fill, a prompt is too long, or it is not said what a check costs.
    """
    backbone = model.backbone
    leaving = HeadConfidence(policy.heads) if isinstance(policy, TrainedHeads) else policy or FullDepth()
    fill = _fill(backbone.family, state_fill) if policy else Fill()
    rule = StopRule(
        model.tokenizer, loading.stop_token_ids(backbone, model.tokenizer), list(ending.stop_strings),
        ending.max_new_tokens,
    )  # fmt: skip
    requests = [Request(str(k), token_ids, [threshold]) for k, token_ids in enumerate(_encode(model, prompts, ending))]
    decoder = Decoder(backbone, leaving, fill)
    generations = {g.example_id: g for g in loop.generate(decoder, requests, rule, slots=ROWS)}
    ordered = [generations[request.example_id] for request in requests]
    heads, checks = _costs(policy)
    counted = generation_flops(
        cost_table(model.manifest["config"], heads, checks),
        prompt_tokens=[g.prompt_tokens for g in ordered],
        exit_blocks=[g.exit_blocks for g in ordered],
        price=ExitPrice(
            leaving.exits,
            next(iter(heads), None),
            state_fill if policy else None,
            check=next(iter(checks), None),
        ),
    )
    return [
        Answer(rule.text(g.token_ids), g.token_ids, g.exit_blocks, g.stop_reason, float(flops), float(full))
        for g, flops, full in zip(ordered, counted["flops"], counted["flops_full"], strict=True)
    ]


def _costs(policy: TrainedHeads | Confidence | None) -> tuple[dict[str, Cost], dict[str, Any]]:
    """The policy's entry among the heads or the checks of a cost table."""
    if policy is None:
        return {}, {}
    if isinstance(policy, TrainedHeads):
        return {"policy": policy.cost}, {}
    if not hasattr(policy, "check"):
        raise InputError(f"{type(policy).__name__} has no `check`, which says what one costs; savings would be wrong")
    return {}, {"policy": policy.check}


def _fill(family: str, name: str) -> Fill:
    if name not in FILLS[family]:
        raise InputError(f"state_fill: {name} is not one of this {family}'s: {', '.join(FILLS[family])}")
    return FILLS[family][name]()


def _encode(model: LanguageModel, prompts: Sequence[str], ending: Ending) -> list[list[int]]:
    """Token ids of each prompt; InputError for one that has none, or more than the model has room for."""
    for k, prompt in enumerate(prompts):
        readers.refuse_half_pairs(prompt, f"prompts[{k}]")
    encoded = model.tokenizer(list(prompts))["input_ids"]
    context = model.backbone.context
    for k, token_ids in enumerate(encoded):
        if not token_ids:
            raise InputError(f"prompts[{k}]: has no tokens")
        if context is not None and len(token_ids) + ending.max_new_tokens > context:
            raise InputError(
                f"prompts[{k}]: {len(token_ids)} tokens and {ending.max_new_tokens} new ones are more than the "
                f"{context} of the model's window; shorten it or lower max_new_tokens"
            )
    return encoded
