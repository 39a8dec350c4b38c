"""What a job that lets a policy answer needs, made of its rule's params and files: questions, answerer, oracle."""

from pathlib import Path

import pandas as pd

from early_exit.base import records
from early_exit.blocks import pruning
from early_exit.data import shards
from early_exit.decoding import memory, oracle, run_parts, teacher_forced
from early_exit.decoding.answer import Answerer, Rules
from early_exit.decoding.run_parts import RunPart
from early_exit.decoding.stopping import StopRule
from early_exit.experiment.config.policies import Pruned, SelfSpeculative, parse
from early_exit.models import loading
from early_exit.models.backbone import Backbone
from early_exit.policies import forced, plan
from early_exit.policies.build import Given


def questions(params, files, place: str | None) -> pd.DataFrame:
    """The rows of records.EXAMPLES that a job of rule generate answers, of all of its splits.

    Questions that a policy's thresholds were chosen on are left out: they may not calibrate it. `place` is the job's
    shard (see `shards.part`).
    """
    examples = records.read_table(files.data, records.EXAMPLES)
    examples = examples[examples["split"].isin(params.splits)]
    if params.leaves_out_chosen:
        calibration = examples[examples["split"] == "calibration"]
        chosen = plan.chosen_on(calibration, params.runtime["seed"])
        examples = examples.drop(index=calibration.index[chosen])
    return shards.part(examples, place)


def dropped(params, files) -> dict[float, tuple[int, ...]]:
    """The blocks that a pruned backbone lacks at each setting; nothing for a policy that does not prune."""
    depth = records.read_json(files.manifest)["depth"]
    return pruning.read_drops(params.policy, depth, files.get("block_scores"))


def answerer(params, files, job_mib: float) -> Answerer:
    """The job's backbone and policy, ready for prompts; stop strings are the dataset's, `job_mib` the job's memory."""
    backbone, tokenizer = loading.open_backbone(records.read_json(files.manifest), params.runtime)
    ends = loading.stop_token_ids(backbone, tokenizer)
    stop_strings = records.read_table(files.data, records.EXAMPLES)["stop_strings"].iloc[0]
    rules = Rules(StopRule(tokenizer, ends, list(stop_strings), params.max_new_tokens), **params.rules)
    budget = memory.budget(params.runtime["memory"], job_mib, backbone.device)
    limits = memory.Limits(params.runtime["batch_size"], budget)
    matched = records.read_table(files.matched, records.GENERATIONS) if files.get("matched") else None
    kind = parse(params.policy).setting_kind if matched is None else matched["setting_kind"].iloc[0]
    parts = _parts(params, files, backbone, matched)
    return Answerer(tokenizer, parts, rules, limits, kind, params.runtime["seed"])


def _parts(params, files, backbone: Backbone, matched: pd.DataFrame | None) -> list[RunPart]:
    """The decoders of the job's policy; `matched` is the run that it draws random exits from, if it does."""
    policy = parse(params.policy)
    if isinstance(policy, Pruned):
        return run_parts.pruned(policy, backbone, dropped(params, files))
    if isinstance(policy, SelfSpeculative):
        return run_parts.self_speculative(policy, backbone, params.settings, params.exits)
    rates = None if matched is None else forced.exit_rates(matched, params.exits)
    given = Given(
        records.read_json(files.manifest),
        params.exits,
        params.max_new_tokens,
        params.runtime["seed"],
        head_folder=Path(files.heads).parent if files.get("heads") else None,
        plan=records.read_json(files.plan) if files.get("plan") else None,
        rates=rates,
    )
    settings = params.settings or sorted(rates)  # a policy that matches a run has its settings
    return run_parts.whole(policy, backbone, settings, given)


def oracle_run(params, files, examples: pd.DataFrame) -> pd.DataFrame:
    """The full model's answers to `examples` with the oracle's exits, a frame of records.GENERATIONS.

    InputError with a repetition penalty.
    """
    oracle.check(params.rules["repetition_penalty"])
    full = records.read_table(files.full, records.GENERATIONS)
    full = full[full["example_id"].isin(examples["example_id"])].reset_index(drop=True)
    backbone, tokenizer = loading.open_backbone(records.read_json(files.manifest), params.runtime)
    answers = teacher_forced.answers(
        backbone, tokenizer, examples, full,
        max_new_tokens=params.max_new_tokens, overflow=params.rules["prompt_overflow"],
    )  # fmt: skip
    return full.assign(exit_blocks=oracle.exit_blocks(backbone, params.exits, answers))
