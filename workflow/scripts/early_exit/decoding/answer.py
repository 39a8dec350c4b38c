"""One run: a backbone and a policy answer the examples of one split at every setting of a grid."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from early_exit.base import job
from early_exit.base.errors import InputError
from early_exit.base.journal import Journal
from early_exit.base.records import GENERATIONS
from early_exit.data.conversations import Prompt, Rounds
from early_exit.decoding import fills, loop, memory, speculate, stopping
from early_exit.decoding.fills import Fill
from early_exit.decoding.loop import Generation, Request
from early_exit.decoding.stopping import StopRule
from early_exit.models import loading
from early_exit.models.backbone import Backbone
from early_exit.policies import base, build
from early_exit.policies.base import Policy
from early_exit.policies.build import Given


@dataclass(frozen=True)
class Plan:
    """What answers a part of a run's settings; `prompt_backbone` runs the prompts, if not `backbone`."""

    backbone: Backbone
    policy: Policy
    fill: Fill
    settings: Collection[float]
    prompt_backbone: Backbone | None = None
    draft: tuple[int, int] | None = None  # of self-speculation: the exit block, and how many tokens


class Answerer:
    """A backbone with a policy and the rules of answering, ready for prompts.

    Args:
        policy: the policy's entry in the config; of any kind but `oracle`.
        settings: the grid; for `pruned`, how many blocks are dropped, for `self-speculative`, tokens drafted.
        setting_kind: what the settings are (see `policy_kinds.setting_kind`).
        stop_strings: where answers end, beside the end of sequence.
        rules: prompt_overflow (see `tokenise`), repetition_penalty, degeneration (ngram, repeats).
        runtime: seed, device, dtype, threads; batch_size and memory, which bound how many rows run at once.
        job_mib: what the job may take, for `memory: auto`.
        exits, head_folder, plan, rates: see `exit_policies.Given`.
        dropped: the blocks that are left out at each setting, for `pruned` (see `pruning.drops_by_setting`).

    `rule` may be replaced by one that ends answers elsewhere; `cut` holds how many tokens prompts lost, by their hash.
    """

    def __init__(
        self, policy: Mapping[str, Any], manifest: Mapping[str, Any], settings: Sequence[float], *,
        setting_kind: str, stop_strings: Sequence[str], max_new_tokens: int, rules: Mapping[str, Any],
        runtime: Mapping[str, Any], job_mib: float, exits: Sequence[int] = (), head_folder: Path | None = None,
        plan: Mapping[str, Any] | None = None, rates: Mapping[float, Sequence[float]] | None = None,
        dropped: Mapping[float, Collection[int]] | None = None,
    ):  # fmt: skip
        self.backbone, self.tokenizer = loading.open_backbone(manifest, runtime)
        ends = loading.stop_token_ids(self.backbone, self.tokenizer)
        self.rule = StopRule(self.tokenizer, ends, list(stop_strings), max_new_tokens)
        given = Given(manifest, exits, max_new_tokens, runtime["seed"], head_folder, plan, rates)
        self.plans = _plans(policy, self.backbone, settings, given, dropped)
        self.setting_kind = setting_kind
        self.settings, self.rules, self.seed = list(settings), rules, runtime["seed"]
        self.cut: dict[str, int] = {}
        context = self.backbone.context
        self._room = None if context is None else context - max_new_tokens
        budget = memory.budget(runtime["memory"], job_mib, self.backbone.device)
        self._limits = {"batch_size": runtime["batch_size"], "budget": budget}

    def __call__(self, prompts: Sequence[Prompt]) -> Iterator[Generation]:
        """The answers to each prompt at each of its settings, in the order in which they end."""
        requests = tokenise(prompts, self.tokenizer, self._room, self.rules["prompt_overflow"], self.cut)
        for plan in self.plans:
            yield from _answer(plan, requests, self.rule, self.rules["repetition_penalty"], **self._limits)


def none() -> pd.DataFrame:
    """The answers to no questions."""
    return pd.DataFrame(columns=GENERATIONS.names)


def run(answerer: Answerer, examples: pd.DataFrame, journal: Journal) -> pd.DataFrame:
    """Generate; a frame of records.GENERATIONS sorted by example and setting.

    `examples` are rows of records.EXAMPLES. `journal` keeps the answers; those that it holds already are not asked for
    again.
    """
    rules, settings = answerer.rules, answerer.settings
    asked, rows = Rounds(examples, settings), list(journal.rows)
    for row in rows:
        asked.note(row["example_id"], row["setting"], row["text"])
    answers = chain.from_iterable(answerer(prompts) for prompts in asked)
    for answer in job.progress(answers, len(examples) * len(settings) - len(rows), "answers"):
        text = answerer.rule.text(answer.token_ids)
        asked.note(answer.example_id, answer.setting, text)
        prompt = asked.prompt(answer.example_id, answer.setting)
        row = {
            "example_id": answer.example_id,
            "setting": answer.setting,
            "setting_kind": answerer.setting_kind,
            "prompt_sha256": prompt.sha256,
            "prompt_tokens": answer.prompt_tokens,
            "prompt_cut": answerer.cut.get(prompt.sha256, 0),
            "token_ids": answer.token_ids,
            "exit_blocks": answer.exit_blocks,
            "drafted": answer.drafted,
            "accepted": answer.accepted,
            "text": text,
            "stop_reason": answer.stop_reason,
            "degenerate": stopping.is_degenerate(answer.token_ids, **rules["degeneration"]),
            "repetition_penalty": rules["repetition_penalty"],
            "seed": answerer.seed,
        }
        rows.append(row)
        journal.add(row)
    return pd.DataFrame(rows).sort_values(["example_id", "setting"], ignore_index=True)


def tokenise(
    prompts: Sequence[Prompt], tokenizer, room: int | None, overflow: str, cut: dict[str, int]
) -> list[Request]:  # fmt: skip
    """Prompts as requests.

    A prompt of more than `room` tokens is an InputError that names the example (`refuse`), or loses its first
    (`cut-left`) or last tokens (`cut-right`): how many is logged, and noted in `cut` under the prompt's hash.
    """
    encoded = tokenizer([prompt.text for prompt in prompts])["input_ids"]
    requests = []
    for prompt, token_ids in zip(prompts, encoded, strict=True):
        if room is not None and len(token_ids) > room:
            length = len(token_ids)
            if overflow == "refuse":
                raise InputError(
                    f"example {prompt.example_id}: its prompt has {length} tokens, the backbone's window has room for "
                    f"{room}; lower max_new_tokens or set generation.prompt_overflow: cut-left"
                )
            token_ids = token_ids[-room:] if overflow == "cut-left" else token_ids[:room]
            cut[prompt.sha256] = length - room
            job.log.warning("example %s: prompt of %d tokens, %s to %d", prompt.example_id, length, overflow, room)
        requests.append(Request(prompt.example_id, token_ids, prompt.settings))
    return requests


def _plans(
    policy: Mapping[str, Any], backbone: Backbone, settings: Sequence[float], given: Given,
    dropped: Mapping[float, Collection[int]] | None,
) -> list[Plan]:  # fmt: skip
    if policy["kind"] == "pruned":
        prompt = backbone if policy["prompt"] == "full" else None
        return [Plan(backbone.without(dropped[count]), base.FullDepth(), Fill(), [count], prompt) for count in settings]
    if policy["kind"] == "self-speculative":
        exit_block, never = policy["exit"] or given.exits[0], base.FullDepth()
        return [Plan(backbone, never, Fill(), [count], draft=(exit_block, int(count))) for count in settings]
    fill = fills.FILLS[backbone.family][policy["state_fill"]] if "state_fill" in policy else Fill
    return [Plan(backbone, build.build(policy, backbone, given), fill(), settings)]


def _answer(
    plan: Plan, requests: Sequence[Request], rule: StopRule, repetition_penalty: float, *, batch_size: int, budget: int
) -> Iterator[Generation]:  # fmt: skip
    """All rows of the plan; a batch that runs out of memory is halved, and the rows it held are asked again."""
    missing = _only(requests, lambda row: row[1] in plan.settings)
    if not missing:
        return
    shape = {"prompt": max(len(request.token_ids) for request in missing), "new_tokens": rule.max_new_tokens,
             "kept": len(plan.policy.exits) * plan.policy.reads_prompt,
             "drafted": plan.draft[1] if plan.draft else 0,
             "asks_lm_head": plan.policy.asks_lm_head}  # fmt: skip
    largest = plan.prompt_backbone or plan.backbone
    slots = memory.rows_that_fit(budget, batch_size, largest, **shape)
    predicted = memory.peak(largest, slots, **shape) / memory.MIB
    job.log.info("%d rows at once, %.0f MiB predicted beside the weights", slots, predicted)
    step = speculate.step(*plan.draft) if plan.draft else None
    while missing:
        done = set()
        try:
            for answer in loop.generate(plan.backbone, plan.policy, plan.fill, missing, rule, slots=slots,
                                          repetition_penalty=repetition_penalty,
                                          prompt_backbone=plan.prompt_backbone, step=step):  # fmt: skip
                done.add((answer.example_id, answer.setting))
                yield answer
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
            if slots == 1:
                raise InputError("out of memory with a single row; give the job more memory (resources)") from error
            slots //= 2
            job.log.warning("out of memory: going on with %d rows at once", slots)
        missing = _only(missing, lambda row: row not in done)  # noqa: B023
        memory.release(plan.backbone.device)


def _only(requests: Sequence[Request], wanted) -> list[Request]:
    """The requests with those of their rows (example, setting) that are wanted."""
    kept = [
        replace(request, settings=[t for t in request.settings if wanted((request.example_id, t))])
        for request in requests
    ]
    return [request for request in kept if request.settings]
