"""What is timed: the library's `generate` and our loop on the same prompts, and our loop with exits of every kind.

Three groups of cases, each compared within itself:

- `fixed_length`: every row gets the same number of new tokens. With one row at a time prompts are whole; rows that
  run together have prompts cut to one length, so that neither system has padding to carry.
- `natural`: prompts of their own lengths, answers that end where they end. The library pads on the left and goes on
  until a batch's last row is done; our loop gives the slots of finished rows to the next prompts.
- `sweep`: one job with all thresholds of a policy against a job for each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from early_exit.base.errors import InputError
from early_exit.costs.passes import generation_flops
from early_exit.costs.speculation import round_flops
from early_exit.decoding import fills, loop, speculate
from early_exit.decoding.loop import Request
from early_exit.decoding.stopping import StopRule
from early_exit.models.backbone import Backbone
from early_exit.policies import base, confidences, forced
from early_exit.speed.interleaved import Answer, Case


@dataclass(frozen=True)
class HeadPolicy:
    """A policy with trained heads: what it is called in the config, and the threshold that it is timed at."""

    head: str
    state_fill: str
    head_state: str
    threshold: float
    heads: nn.ModuleDict

    def __call__(self) -> base.Policy:
        return confidences.HeadConfidence(self.heads, self.head_state)


class Bench:
    """A backbone, prompts and what is to be measured on them.

    Args:
        prompts: tokenised, in the order in which they are taken.
        rule: where answers end that may end by themselves.
        costs: the backbone's cost table, see `costs`.
        drafts: exit block and number of drafts of each self-speculation.
        settings: section `speed` of the config; `seed`; and as `slots` the rows at once of the pipeline's own jobs.
    """

    def __init__(
        self, backbone: Backbone, prompts: Sequence[Sequence[int]], rule: StopRule, *, exits: Sequence[int],
        heads: Sequence[HeadPolicy], costs: Mapping[str, Any], settings: Mapping[str, Any],
        drafts: Sequence[tuple[int, int]] = (),
    ):  # fmt: skip
        self.backbone, self.prompts, self.exits = backbone, prompts, list(exits)
        self.heads, self.costs, self.settings, self.drafts = heads, costs, settings, drafts
        self.fills = [name for name in fills.FILLS[backbone.family] if name in costs["state_fill"]]
        self.natural_rule = rule
        self.full_rule = replace(rule, eos_ids=(), stop_strings=(), max_new_tokens=settings["new_tokens"])
        self.first_rule = replace(self.full_rule, max_new_tokens=1)

    def groups(self) -> dict[str, list[Case]]:
        """All cases, those that are compared with each other together."""
        sizes = self.settings["batch_sizes"]
        groups = {f"{rows} rows": self.fixed_length(rows) for rows in sizes}
        groups[f"{max(sizes)} rows, natural"] = self.natural(max(sizes))
        return groups | ({"sweep": self.sweep(self.heads[0])} if self.heads else {})

    def fixed_length(self, rows: int) -> list[Case]:
        """Library and ours at full depth, every exit with every state fill, random exits, speculation, heads."""
        prompts = self._take(rows if rows > 1 else self.settings["prompts"])
        if rows > 1:
            length = min(self.settings["prompt_tokens"], *map(len, prompts))
            prompts = [prompt[-length:] for prompt in prompts]
        ours = partial(self._ours, prompts, rows)
        library_prefill = self._library(prompts, rows, "prefill", self.first_rule)
        our_prefill = ours("prefill", self.first_rule, baseline=library_prefill)
        library = self._library(prompts, rows, "full", self.full_rule, prefill=library_prefill)
        full = ours("full", self.full_rule, prefill=our_prefill, baseline=library)
        cases = [library_prefill, our_prefill, library, full]

        ours = partial(ours, rule=self.full_rule, baseline=full)
        for fill in self.fills:
            for block in self.exits:
                labels = {"exit_block": block, "state_fill": fill}
                policy = partial(forced.FixedExit, [block])
                cases.append(ours("exit", policy=policy, prefill=our_prefill, labels=labels))
            if rows > 1:
                policy = partial(forced.RandomExit, self.exits, None, self.settings["seed"])
                cases.append(ours("random", policy=policy, prefill=our_prefill, labels={"state_fill": fill}))
        for block, count in self.drafts:
            labels = {"exit_block": block, "draft_tokens": count}
            cases.append(ours("speculative", prefill=our_prefill, labels=labels))
        for policy in self.heads:
            labels = self._labels(policy)
            prefill = ours("prefill", rule=self.first_rule, policy=policy, labels=labels, baseline=our_prefill)
            cases += [prefill, ours("heads", policy=policy, prefill=prefill, labels=labels)]
        return cases

    def natural(self, rows: int) -> list[Case]:
        """Library and ours at full depth on prompts and answers of their own lengths, `rows` at once."""
        prompts = self._take(self.settings["natural_prompts"])
        library = self._library(prompts, rows, "natural", self.natural_rule)
        return [library, self._ours(prompts, rows, "natural", self.natural_rule, baseline=library)]

    def sweep(self, policy: HeadPolicy) -> list[Case]:
        """All thresholds in one job, against a job for each; both with as many rows at once as the pipeline's jobs."""
        prompts, thresholds = self._take(self.settings["sweep_prompts"]), self.settings["sweep_thresholds"]
        labels = self._labels(policy) | {"threshold": None}
        ours = partial(self._ours, prompts, self.settings["slots"], rule=self.natural_rule, policy=policy)
        apart = ours("sweep-separate", labels=labels, jobs=[[threshold] for threshold in thresholds])
        return [apart, ours("sweep-joint", labels=labels, jobs=[thresholds], baseline=apart)]

    def _take(self, count: int) -> list[Sequence[int]]:
        if count > len(self.prompts):
            raise InputError(f"config key 'speed': {count} prompts are asked for, the test split has "
                             f"{len(self.prompts)}; raise the dataset's examples.test, or lower speed's numbers of "
                             "prompts and batch_sizes")  # fmt: skip
        return list(self.prompts[:count])

    @staticmethod
    def _labels(policy: HeadPolicy) -> dict[str, Any]:
        return {name: getattr(policy, name) for name in ("head", "state_fill", "head_state", "threshold")}

    def _library(self, prompts, rows: int, name: str, rule: StopRule, prefill: Case | None = None) -> Case:
        call = partial(library_answers, self.backbone, prompts, rows, rule)
        return Case("huggingface", name, rows, call, self._flops({}, prefill, 1), prefill)

    def _ours(
        self, prompts, rows: int, name: str, rule: StopRule, *, policy: Callable[[], Any] = base.FullDepth,
        labels: Mapping[str, Any] | None = None, jobs: Sequence[Sequence[float]] | None = None,
        prefill: Case | None = None, baseline: Case | None = None,
    ) -> Case:  # fmt: skip
        """Our loop as a case; each of `jobs` is the settings of one call of it, one by default."""
        labels = labels or {}
        jobs = jobs or [[labels.get("threshold", 1.0)]]
        fill = fills.FILLS[self.backbone.family][labels["state_fill"]] if "state_fill" in labels else fills.Fill
        step = speculate.step(labels["exit_block"], labels["draft_tokens"]) if "draft_tokens" in labels else None

        def call() -> list[Answer]:
            answers = []
            for settings in jobs:
                requests = [Request(f"{k:06d}", prompt, tuple(settings)) for k, prompt in enumerate(prompts)]
                done = loop.generate(self.backbone, policy(), fill(), requests, rule, slots=rows, step=step)
                answers += sorted(done, key=lambda row: (row.example_id, row.setting))
            return [Answer(row.prompt_tokens, *map(tuple, (row.exit_blocks, row.drafted, row.accepted)))
                    for row in answers]  # fmt: skip

        passes = sum(-(-len(job) // rows) for job in jobs) / sum(map(len, jobs))  # of a prompt, for each of its answers
        return Case("ours", name, rows, call, self._flops(labels, prefill, passes), prefill, baseline, labels)

    def _flops(self, labels: Mapping[str, Any], prefill: Case | None, passes: float):
        """A function of answers: FLOPs of their decode passes, and of their prompts if those are timed along."""
        names = {"head": None, "state_fill": None, "head_state": "skip"}
        names |= {name: value for name, value in labels.items() if name in names}

        def flops(answers: Sequence[Answer]) -> float:
            prompt_tokens, exit_blocks, *rounds = zip(*answers, strict=True)
            counted = generation_flops(
                self.costs, prompt_tokens=prompt_tokens, exit_blocks=exit_blocks, exits=self.exits, **names
            )
            if "draft_tokens" in labels:
                drafts = dict(zip(("drafted", "accepted"), rounds, strict=True))
                counted |= round_flops(self.costs, counted, prompt_tokens=prompt_tokens, **drafts)
            return float(counted["flops"].sum() + (0 if prefill else passes * counted["prompt_flops"].sum()))

        return flops


@torch.inference_mode()
def library_answers(backbone: Backbone, prompts: Sequence[Sequence[int]], rows: int, rule: StopRule) -> list[Answer]:
    """Hugging Face `generate` on the same weights: greedy, with its cache, in batches padded on the left.

    Prompts go by length, which pads least. Answers count up to where `rule` ends them.
    """
    model, depth = backbone.model, backbone.depth
    own = model.generation_config
    pad = next((token for token in (own.pad_token_id, own.bos_token_id) if token is not None), 0)
    # `rule` ends answers, at the end-of-sequence ids too if it has any: else no length could be set.
    model.generation_config = GenerationConfig(do_sample=False, use_cache=True, pad_token_id=pad)
    try:
        prompts, answers = sorted(prompts, key=len), []
        for start in range(0, len(prompts), rows):
            batch = prompts[start : start + rows]
            width = max(map(len, batch))
            token_ids = [[pad] * (width - len(prompt)) + list(prompt) for prompt in batch]
            mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch]
            ends = _Ends(rule, width, len(batch))
            model.generate(
                torch.tensor(token_ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=rule.max_new_tokens,
                stopping_criteria=StoppingCriteriaList([ends]),
            )
            answers += [Answer(len(prompt), (depth,) * n) for prompt, n in zip(batch, ends.lengths, strict=True)]
    finally:
        model.generation_config = own
    return answers


class _Ends(StoppingCriteria):
    """Our stop rule as the library's criterion; `lengths` are the rows' tokens up to their own ends."""

    def __init__(self, rule: StopRule, width: int, rows: int):
        self.rule, self.width, self.lengths = rule, width, [0] * rows

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs) -> Tensor:
        for k, tokens in enumerate(input_ids[:, self.width :].tolist()):
            if not self.lengths[k] and self.rule.reason(tokens) is not None:
                self.lengths[k] = len(tokens)
        return torch.tensor([length > 0 for length in self.lengths], device=input_ids.device)
