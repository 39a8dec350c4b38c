"""What a job that lets a policy answer has been given: its rule's files and params in, questions and answerer out."""

from pathlib import Path
from typing import Any

import pandas as pd

from early_exit.base import records
from early_exit.blocks import pruning
from early_exit.data import shards
from early_exit.decoding.answer import Answerer
from early_exit.experiment import policy_kinds
from early_exit.policies import forced, plan


def questions(params, files, place: str | None) -> pd.DataFrame:
    """The rows of records.EXAMPLES that a job of rule generate answers, of all of its splits.

    What a policy's thresholds were chosen on may not calibrate them. `place` is the job's shard (see `shards.part`).
    """
    examples = records.read_table(files.data, records.EXAMPLES)
    examples = examples[examples["split"].isin(params.splits)]
    if params.leaves_out_chosen:
        calibration = examples[examples["split"] == "calibration"]
        chosen = plan.chosen_on(calibration, params.runtime["seed"])
        examples = examples.drop(index=calibration.index[chosen])
    return shards.part(examples, place)


def dropped(params, files) -> dict[float, tuple[int, ...]]:
    """The blocks that are left out at each setting, by a policy that prunes; nothing by others."""
    depth = records.read_json(files.manifest)["depth"]
    return pruning.read_drops(params.policy, depth, files.get("block_scores"))


def answerer(params, files, job_mib: float) -> Answerer:
    """The job's backbone and policy, ready for prompts; the questions' file says where answers end."""
    given: dict[str, Any] = {"dropped": dropped(params, files)}
    kind = policy_kinds.setting_kind(params.policy)
    if files.get("heads"):
        given["head_folder"] = Path(files.heads).parent
    if files.get("plan"):
        given["plan"] = records.read_json(files.plan)
    if files.get("matched"):
        matched = records.read_table(files.matched, records.GENERATIONS)
        kind, given["rates"] = matched["setting_kind"].iloc[0], forced.exit_rates(matched, params.exits)
    settings = params.grid or sorted(given["rates"])  # what matches a run has its settings
    stop_strings = records.read_table(files.data, records.EXAMPLES)["stop_strings"].iloc[0]
    return Answerer(
        params.policy, records.read_json(files.manifest), settings, setting_kind=kind,
        stop_strings=stop_strings, max_new_tokens=params.max_new_tokens, rules=params.rules, runtime=params.runtime,
        job_mib=job_mib, exits=params.exits, **given,
    )  # fmt: skip
