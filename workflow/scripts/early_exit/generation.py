"""One run: a backbone and a policy answer the examples of one split at every threshold of a grid."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from early_exit import backbones, decode, fills, heads, policies, prompts, runtime, stopping
from early_exit.decode import Generation, Request
from early_exit.records import InputError


def run(
    policy: Mapping[str, Any], manifest: Mapping[str, Any], examples: pd.DataFrame, thresholds: Sequence[float], *,
    kind: str, max_new_tokens: int, prompt_overflow: str, degeneration: Mapping[str, int],
    settings: Mapping[str, Any], head_folder: Path | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Generate; a frame of records.GENERATIONS sorted by example and threshold.

    Args:
        policy: the policy's entry in the config; `full`, `pruned` or `head`.
        examples: rows of records.EXAMPLES.
        thresholds: the grid; for `pruned`, how many blocks are dropped.
        kind: the dataset's kind, which names its stop strings.
        prompt_overflow: what happens to prompts beyond the backbone's window, see `tokenise`.
        settings: seed, device, dtype, threads, batch_size.
        head_folder: the recipe's folder, for `head`.
    """
    backbone, tokenizer = backbones.open_backbone(manifest, settings)
    rule = stopping.StopRule(
        tokenizer, backbones.stop_token_ids(backbone, tokenizer), prompts.STOP_STRINGS[kind], max_new_tokens
    )
    room = None if backbone.context is None else backbone.context - max_new_tokens
    requests = tokenise(examples, tokenizer, thresholds, room, prompt_overflow)
    answers = _answers(policy, manifest, backbone, requests, rule, settings["batch_size"], head_folder)
    rows = [
        {
            "example_id": answer.example_id,
            "threshold": answer.threshold,
            "prompt_tokens": answer.prompt_tokens,
            "token_ids": answer.token_ids,
            "exit_blocks": answer.exit_blocks,
            "text": rule.text(answer.token_ids),
            "stop_reason": answer.stop_reason,
            "degenerate": stopping.is_degenerate(answer.token_ids, **degeneration),
            "seed": settings["seed"],
        }
        for answer in runtime.progress(answers, len(examples) * len(thresholds), "answers")
    ]
    return pd.DataFrame(rows).sort_values(["example_id", "threshold"], ignore_index=True)


def tokenise(
    examples: pd.DataFrame, tokenizer, thresholds: Sequence[float], room: int | None, overflow: str
) -> list[Request]:  # fmt: skip
    """Prompts as requests.

    A prompt of more than `room` tokens is an InputError that names the example (`refuse`), or loses its first tokens
    (`cut-left`, logged); `prompt_tokens` in the record is what was left.
    """
    encoded = tokenizer(list(examples["prompt"]))["input_ids"]
    requests = []
    for example_id, token_ids in zip(examples["example_id"], encoded, strict=True):
        if room is not None and len(token_ids) > room:
            if overflow == "refuse":
                raise InputError(
                    f"example {example_id}: its prompt has {len(token_ids)} tokens, the backbone's window has room for "
                    f"{room}; lower max_new_tokens or set generation.prompt_overflow: cut-left"
                )
            runtime.log.warning("example %s: prompt of %d tokens cut to its last %d", example_id, len(token_ids), room)
            token_ids = token_ids[-room:]
        requests.append(Request(example_id, token_ids, tuple(thresholds)))
    return requests


def _answers(policy, manifest, backbone, requests, rule, slots, head_folder) -> Iterator[Generation]:
    if policy["kind"] == "full":
        yield from decode.generate(backbone, policies.FullDepth(), fills.Fill(), requests, rule, slots=slots)
    elif policy["kind"] == "pruned":
        for dropped in requests[0].thresholds:
            pruned = backbone.without_last_before_final(int(dropped))
            same = [Request(request.example_id, request.token_ids, (dropped,)) for request in requests]
            yield from decode.generate(pruned, policies.FullDepth(), fills.Fill(), same, rule, slots=slots)
    else:
        trained = heads.load(head_folder, policy["head"], manifest).to(backbone.device, backbone.model.dtype)
        fill = fills.FILLS[backbone.family][policy["state_fill"]]()
        yield from decode.generate(backbone, policies.HeadConfidence(trained), fill, requests, rule, slots=slots)
