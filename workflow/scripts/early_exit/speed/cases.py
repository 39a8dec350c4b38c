"""What is timed: the library's `generate` and our loop on the same prompts, and our loop with exits of every kind.

Three groups of cases, each compared within itself:

- `fixed_length`: every row gets the same number of new tokens. With one row at a time prompts are whole; rows that
  run together have prompts cut to one length, so that neither system has padding to carry.
- `natural`: prompts of their own lengths, answers that end where they end. The library pads on the left and goes on
  until a batch's last row is done; our loop gives the slots of finished rows to the next prompts.
- `sweep`: one job with all thresholds of a policy against a job for each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from early_exit.base.errors import InputError
from early_exit.costs.passes import ExitPrice, generation_flops
from early_exit.costs.speculation import round_flops
from early_exit.decoding import fills, loop, speculate
from early_exit.decoding.batch import Decoder
from early_exit.decoding.requests import Request
from early_exit.decoding.stopping import StopRule
from early_exit.models.backbone import Backbone
from early_exit.policies import base, confidences, forced
from early_exit.speed.interleaved import Case, TimedAnswer


@dataclass(frozen=True)
class TimedHead:
    """Trained heads of one policy: their name in the config, and the threshold at which they are timed."""

    head: str
    state_fill: str
    head_state: str
    threshold: float
    heads: nn.ModuleDict

    @property
    def variant(self) -> "Variant":
        labels = {name: getattr(self, name) for name in ("head", "state_fill", "head_state", "threshold")}
        return Variant(partial(confidences.HeadConfidence, self.heads, self.head_state), labels)


@dataclass(frozen=True)
class Exits:
    """The exits that are timed: blocks, trained heads at them, and the exit block and drafts of self-speculations."""

    blocks: Sequence[int]
    heads: Sequence[TimedHead] = ()
    drafts: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True)
class Variant:
    """One way to decode: a policy, and what else the case's labels say (columns of the table)."""

    policy: Callable[[], base.Policy] = base.FullDepth
    labels: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What a case answers: prompts, so many rows at once, up to where the rule ends answers.

    `calls` are the settings of each call of the loop; one call at the variant's threshold by default.
    """

    prompts: Sequence[Sequence[int]]
    rows: int
    rule: StopRule
    calls: Sequence[Sequence[float]] | None = None


class Bench:
    """A backbone, prompts, and the cases to be timed on them.

    Args:
        prompts: tokenised, in the order in which they are taken.
        rule: where answers end that may end by themselves.
        costs: the backbone's cost table (see `costs.passes`).
        settings: section `speed` of the config; `seed`; and as `slots` the rows at once of the pipeline's own jobs.
    """

    def __init__(
        self, backbone: Backbone, prompts: Sequence[Sequence[int]], rule: StopRule, exits: Exits, *,
        costs: Mapping[str, Any], settings: Mapping[str, Any],
    ):  # fmt: skip
        self.backbone, self.prompts, self.exits, self.costs, self.settings = backbone, prompts, exits, costs, settings
        self.fills = [name for name in fills.FILLS[backbone.family] if name in costs["state_fill"]]
        self.natural_rule = rule
        self.full_rule = replace(rule, eos_ids=(), stop_strings=(), max_new_tokens=settings["new_tokens"])
        self.first_rule = replace(self.full_rule, max_new_tokens=1)

    def groups(self) -> dict[str, list[Case]]:
        """All cases, those that are compared with each other together."""
        sizes = self.settings["batch_sizes"]
        groups = {f"{rows} rows": self.fixed_length(rows) for rows in sizes}
        groups[f"{max(sizes)} rows, natural"] = self.natural(max(sizes))
        return groups | ({"sweep": self.sweep(self.exits.heads[0])} if self.exits.heads else {})

    def fixed_length(self, rows: int) -> list[Case]:
        """Library and ours at full depth, every exit with every state fill, random exits, speculation, heads."""
        prompts = self._take(rows if rows > 1 else self.settings["prompts"])
        if rows > 1:
            length = min(self.settings["prompt_tokens"], *map(len, prompts))
            prompts = [prompt[-length:] for prompt in prompts]
        whole, first = Job(prompts, rows, self.full_rule), Job(prompts, rows, self.first_rule)
        library_prefill = self._library("prefill", first)
        our_prefill = self._ours("prefill", first, baseline=library_prefill)
        library = self._library("full", whole, prefill=library_prefill)
        full = self._ours("full", whole, prefill=our_prefill, baseline=library)
        cases = [library_prefill, our_prefill, library, full]
        for name, variant in self._variants_without_heads(rows):
            cases.append(self._ours(name, whole, variant, prefill=our_prefill, baseline=full))
        for head in self.exits.heads:
            prefill = self._ours("prefill", first, head.variant, baseline=our_prefill)
            cases += [prefill, self._ours("heads", whole, head.variant, prefill=prefill, baseline=full)]
        return cases

    def natural(self, rows: int) -> list[Case]:
        """Library and ours at full depth on prompts and answers of their own lengths, `rows` at once."""
        job = Job(self._take(self.settings["natural_prompts"]), rows, self.natural_rule)
        library = self._library("natural", job)
        return [library, self._ours("natural", job, baseline=library)]

    def sweep(self, head: TimedHead) -> list[Case]:
        """All thresholds in one job, against a job for each; both with as many rows at once as the pipeline's jobs."""
        prompts, thresholds = self._take(self.settings["sweep_prompts"]), self.settings["sweep_thresholds"]
        variant = replace(head.variant, labels=head.variant.labels | {"threshold": None})
        job = Job(prompts, self.settings["slots"], self.natural_rule, [[threshold] for threshold in thresholds])
        apart = self._ours("sweep-separate", job, variant)
        return [apart, self._ours("sweep-joint", replace(job, calls=[thresholds]), variant, baseline=apart)]

    def _variants_without_heads(self, rows: int) -> list[tuple[str, Variant]]:
        """(case name, variant): every exit with every fill, random exits if rows run together, self-speculation."""
        variants = []
        for fill in self.fills:
            for block in self.exits.blocks:
                policy = partial(forced.FixedExit, [block])
                variants.append(("exit", Variant(policy, {"exit_block": block, "state_fill": fill})))
            if rows > 1:
                policy = partial(forced.RandomExit, self.exits.blocks, None, self.settings["seed"])
                variants.append(("random", Variant(policy, {"state_fill": fill})))
        for block, count in self.exits.drafts:
            variants.append(("speculative", Variant(labels={"exit_block": block, "draft_tokens": count})))
        return variants

    def _take(self, count: int) -> list[Sequence[int]]:
        if count > len(self.prompts):
            raise InputError(
                f"config key 'speed': {count} prompts are asked for, the test split has {len(self.prompts)}; raise the "
                "dataset's examples.test, or lower speed's numbers of prompts and batch_sizes"
            )
        return list(self.prompts[:count])

    def _library(self, name: str, job: Job, prefill: Case | None = None) -> Case:
        call = partial(library_answers, self.backbone, job.prompts, job.rows, job.rule)
        return Case("huggingface", name, job.rows, call, self._flops({}, prefill, 1), prefill)

    def _ours(
        self, name: str, job: Job, variant: Variant = Variant(), *, prefill: Case | None = None,
        baseline: Case | None = None,
    ) -> Case:  # fmt: skip
        """Our loop as a case."""
        labels = variant.labels
        calls = job.calls or [[labels.get("threshold", 1.0)]]

        def call() -> list[TimedAnswer]:
            answers = []
            for settings in calls:
                requests = [Request(f"{k:06d}", prompt, tuple(settings)) for k, prompt in enumerate(job.prompts)]
                rows = loop.generate(self._decoder(variant), requests, job.rule, slots=job.rows)
                answers += sorted(rows, key=lambda row: (row.example_id, row.setting))
            return [
                TimedAnswer(row.prompt_tokens, *map(tuple, (row.exit_blocks, row.drafted, row.accepted)))
                for row in answers
            ]

        # Passes over a prompt, for each of its answers.
        passes = sum(-(-len(settings) // job.rows) for settings in calls) / sum(map(len, calls))
        return Case("ours", name, job.rows, call, self._flops(labels, prefill, passes), prefill, baseline, labels)

    def _decoder(self, variant: Variant) -> Decoder:
        labels = variant.labels
        fill = fills.FILLS[self.backbone.family][labels["state_fill"]] if "state_fill" in labels else fills.Fill
        step = speculate.step(labels["exit_block"], labels["draft_tokens"]) if "draft_tokens" in labels else None
        return Decoder(self.backbone, variant.policy(), fill(), step=step, drafted=labels.get("draft_tokens", 0))

    def _flops(self, labels: Mapping[str, Any], prefill: Case | None, passes: float):
        """A function of answers: FLOPs of their decode passes, and of their prompts if those are timed along."""
        named = {name: labels[name] for name in ("head", "state_fill", "head_state") if name in labels}
        price = ExitPrice(self.exits.blocks, **named)

        def flops(answers: Sequence[TimedAnswer]) -> float:
            prompt_tokens, exit_blocks, *rounds = zip(*answers, strict=True)
            counted = generation_flops(self.costs, prompt_tokens=prompt_tokens, exit_blocks=exit_blocks, price=price)
            if "draft_tokens" in labels:
                drafts = dict(zip(("drafted", "accepted"), rounds, strict=True))
                counted |= round_flops(self.costs, counted, prompt_tokens=prompt_tokens, **drafts)
            return float(counted["flops"].sum() + (0 if prefill else passes * counted["prompt_flops"].sum()))

        return flops


@torch.inference_mode()
def library_answers(
    backbone: Backbone, prompts: Sequence[Sequence[int]], rows: int, rule: StopRule
) -> list[TimedAnswer]:
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
            answers += [TimedAnswer(len(prompt), (depth,) * n) for prompt, n in zip(batch, ends.lengths, strict=True)]
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
