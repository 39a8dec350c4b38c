"""What a job that lets policies answer needs, made of its rule's params and files."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from early_exit.base import job, records
from early_exit.base.kept_answers import Row
from early_exit.base.records import Manifest
from early_exit.blocks import pruning
from early_exit.data import shards
from early_exit.decoding import answer_keys, memory, oracle, run_parts, stopping, teacher_forced
from early_exit.decoding.answer import Answerer, Column, Kept, Rules
from early_exit.decoding.run_parts import RunPart
from early_exit.decoding.stopping import StopRule
from early_exit.experiment.config.policies import Policy, Pruned, SelfSpeculative, parse
from early_exit.models import loading
from early_exit.models.backbone import Backbone
from early_exit.policies import forced, plan
from early_exit.policies.base import Given

# Those that may change an answer.
LIBRARIES = ("torch", "transformers", "tokenizers", "mamba-ssm", "causal-conv1d")


@dataclass(frozen=True)
class AnsweringJob:
    """A job of the rules that answer.

    Args:
        params: `policies` and `splits` by the policy's name, `exits`, `max_new_tokens`, `rules`, `runtime`.
        files: `data`, `manifest`; where a policy needs them `heads` of all recipes, `plan`, `matched`, `block_scores`.
        shard: the job's place (see `shards.part`); empty for the only job.
    """

    params: Any
    files: Any
    shard: str = ""

    @cached_property
    def policies(self) -> dict[str, Policy]:
        return {name: parse(values) for name, values in self.params.policies.items()}

    @cached_property
    def manifest(self) -> Manifest:
        return records.read_json(self.files.manifest)

    @cached_property
    def examples(self) -> pd.DataFrame:
        """The rows of records.EXAMPLES that some policy answers in this shard."""
        splits = {split for splits in self.params.splits.values() for split in splits}
        return shards.part(self._all_examples[self._all_examples["split"].isin(splits)], self.shard)

    @cached_property
    def columns(self) -> list[Column]:
        """Every policy at each of its settings, but for the oracle, which answers nothing."""
        return [
            (name, float(setting))
            for name, policy in self.policies.items()
            if policy.kind != "oracle"
            for setting in policy.settings(self.params.exits) or sorted(self.given[name].rates)
        ]

    @cached_property
    def excluded(self) -> set[tuple[str, Column]]:
        """Which examples a policy does not answer: of splits not its own, and those that its thresholds were chosen on.

        The latter may not calibrate it.
        """
        calibration = self._all_examples[self._all_examples["split"] == "calibration"]
        chosen = set(calibration["example_id"][plan.chosen_on(calibration, self.params.runtime["seed"])])
        left_out = {}
        for name, policy in self.policies.items():
            other = self.examples["example_id"][~self.examples["split"].isin(self.params.splits[name])]
            left_out[name] = {*other, *(chosen if policy.fits_on_calibration else ())} & {*self.examples["example_id"]}
        return {(example_id, column) for column in self.columns for example_id in left_out[column[0]]}

    @cached_property
    def dropped(self) -> dict[str, dict[float, tuple[int, ...]]]:
        """The blocks that each pruned backbone lacks at each setting."""
        scores = {Path(path).stem: path for path in self.files.get("block_scores") or ()}
        return {
            name: pruning.read_drops(policy.model_dump(), self.manifest["depth"], scores.get(policy.measure))
            for name, policy in self.policies.items()
            if isinstance(policy, Pruned)
        }

    def keys(self) -> dict[Column, str]:
        """The key of each column's answers, and of each oracle's (see `answer_keys`)."""
        params, versions = self.params, job.versions()
        engine = answer_keys.engine(
            backbone=self.manifest["sha256"],
            libraries={name: versions.get(name) for name in LIBRARIES},
            device=job.device_name(params.runtime["device"]),
            threads=params.runtime["threads"],
            dtype=params.runtime["dtype"],
            max_new_tokens=params.max_new_tokens,
            stop_strings=self._stop_strings,
            rules={key: params.rules[key] for key in ("prompt_overflow", "repetition_penalty")},
        )
        return {
            (name, setting): engine.key(self.policies[name], setting, self.given[name], self.dropped.get(name, {}))
            for name, setting in [*self.columns, *((name, 1.0) for name in self._oracles)]
        }

    def answerer(self, job_mib: float) -> Answerer:
        """Backbone and policies, ready for prompts; `job_mib` is the memory of the job in MiB."""
        backbone, tokenizer = self.model
        params, ends = self.params, loading.stop_token_ids(backbone, tokenizer)
        rules = Rules(
            StopRule(tokenizer, ends, self._stop_strings, params.max_new_tokens),
            params.rules["prompt_overflow"],
            params.rules["repetition_penalty"],
        )
        budget = memory.budget(params.runtime["memory"], job_mib, backbone.device)
        parts = {name: self._parts(name, backbone) for name in dict.fromkeys(name for name, _ in self.columns)}
        return Answerer(tokenizer, parts, rules, memory.Limits(params.runtime["batch_size"], budget))

    def oracle_rows(self, full: Sequence[Row], kept: Kept) -> list[tuple[Column, Row]]:
        """The full model's test answers with each oracle's exits; InputError with a repetition penalty."""
        test = set(self.examples["example_id"][self.examples["split"] == "test"])
        full, rows = [row for row in full if row["example_id"] in test], []
        for column in ((name, 1.0) for name in self._oracles):
            oracle.check(self.params.rules["repetition_penalty"])
            known = {row["example_id"]: kept.get(column, row["example_id"], row["prompt_sha256"]) for row in full}
            missing = [row for row in full if known[row["example_id"]] is None]
            for row, exit_blocks in zip(missing, self._oracle_exits(missing), strict=True):
                known[row["example_id"]] = row | {"exit_blocks": exit_blocks}
                kept.add(column, known[row["example_id"]])
            rows += [(column, row) for row in known.values()]
        return rows

    def frame(self, rows: Sequence[tuple[Column, Row]], split: str) -> pd.DataFrame:
        """Answers to one split as a frame of records.GENERATIONS."""
        wanted = set(self.examples["example_id"][self.examples["split"] == split])
        same = {
            "repetition_penalty": self.params.rules["repetition_penalty"],
            "seed": self.params.runtime["seed"],
        }
        found = [
            {
                "policy": name,
                "setting": setting,
                "setting_kind": self._setting_kind(self.policies[name]),
                "degenerate": stopping.is_degenerate(row["token_ids"], **self.params.rules["degeneration"]),
                **row,
                **same,
            }
            for (name, setting), row in rows
            if row["example_id"] in wanted
        ]
        frame = pd.DataFrame(found, columns=records.GENERATIONS.names)
        return frame.sort_values(["policy", "example_id", "setting"], ignore_index=True)

    @cached_property
    def _all_examples(self) -> pd.DataFrame:
        return records.read_table(self.files.data, records.EXAMPLES)

    @cached_property
    def _stop_strings(self) -> list[str]:
        return list(self._all_examples["stop_strings"].iloc[0])

    @cached_property
    def model(self) -> tuple[Backbone, Any]:
        return loading.open_backbone(self.manifest, self.params.runtime)

    @property
    def _oracles(self) -> list[str]:
        return [name for name, policy in self.policies.items() if policy.kind == "oracle"]

    @cached_property
    def _matched(self) -> pd.DataFrame:
        return records.read_answers(self.files.matched)

    @cached_property
    def given(self) -> dict[str, Given]:
        folders = {Path(path).parent.name: Path(path).parent for path in self.files.get("heads") or ()}
        plans = records.read_json(self.files.plan) if self.files.get("plan") else {}
        given = {}
        for name, policy in self.policies.items():
            rates = None
            if policy.matched:
                matched = self._matched[self._matched["policy"] == policy.matched]
                rates = forced.exit_rates(matched, self.params.exits)
            given[name] = Given(
                self.manifest,
                self.params.exits,
                self.params.max_new_tokens,
                self.params.runtime["seed"],
                head_folder=folders[policy.trained[0]] if policy.trained else None,
                plan=plans.get(name) if policy.is_planned else None,
                rates=rates,
            )
        return given

    def _setting_kind(self, policy: Policy) -> str:
        if not policy.matched:
            return policy.setting_kind
        return self._matched["setting_kind"][self._matched["policy"] == policy.matched].iloc[0]

    def _parts(self, name: str, backbone: Backbone) -> list[RunPart]:
        """The decoders of a policy."""
        policy, settings = self.policies[name], [setting for column, setting in self.columns if column == name]
        if isinstance(policy, Pruned):
            return run_parts.pruned(policy, backbone, self.dropped[name])
        if isinstance(policy, SelfSpeculative):
            return run_parts.self_speculative(policy, backbone, settings, self.params.exits)
        return run_parts.whole(policy, backbone, settings, self.given[name])

    def _oracle_exits(self, full: Sequence[Row]) -> list[list[int]]:
        """The oracle's exits on some of the full model's answers."""
        if not full:
            return []
        backbone, tokenizer = self.model
        answers = teacher_forced.answers(
            backbone, tokenizer, self.examples, pd.DataFrame(full),
            max_new_tokens=self.params.max_new_tokens, overflow=self.params.rules["prompt_overflow"],
        )  # fmt: skip
        return oracle.exit_blocks(backbone, self.params.exits, answers)
