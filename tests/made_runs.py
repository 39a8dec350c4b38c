"""Made-up runs of policies whose quality at each setting is known."""

import numpy as np
import pandas as pd

from early_exit.base import records
from early_exit.evaluation import resampled

BOOTSTRAP = {"seed": 1, "resamples": 400}
POLICIES = {"full": "full", "pruned": "pruned", "calm-copy": "head", "mamba-copy": "head", "mamba-propagate": "head",
            "pruned-influence": "pruned"}  # fmt: skip
HEADS = {"calm": "calm", "mamba": "mamba"}


def make_run(policy, backbone="tiny-transformer", family="transformer", dataset="triviaqa"):
    head, _, fill = policy.partition("-")
    names = {"backbone": backbone, "family": family, "dataset": dataset, "kind": dataset, "policy": policy}
    files = {"scores": f"{policy}/scores.parquet", "flops": f"{policy}/flops.parquet"}
    return names | {"head": head if fill else None, "state_fill": fill or None} | files


def make_rows(points, *, examples=40, per_group=1, noise=0.0, seed=0, dataset="triviaqa", block_noise=0.0):
    """Scores and FLOPs of one policy: `points` are (setting, share saved, mean score[, degenerate share]).

    Of each example's saving and score the deviations average to zero exactly. A quarter of all blocks is skipped; each
    would have cost 100 FLOPs, give or take `block_noise` by the example.
    """
    generator = np.random.default_rng(seed)
    frames = []
    for setting, saved, score, *degenerate in points:
        wobble = generator.normal(size=(2, examples)) * noise
        wobble -= wobble.mean(axis=1, keepdims=True)
        per_block = 100.0 + block_noise * np.where(np.arange(examples) % 2, 1, -1)
        frame = pd.DataFrame({"example_id": [f"e{i:03}" for i in range(examples)]})
        frame["group_id"] = [f"g{i // per_group:03}" for i in range(examples)]
        frame["setting"] = float(setting)
        for metric in records.METRICS[dataset]:
            frame[metric] = score + wobble[0]
        frame["agreement"] = np.arange(examples) < round(score / 100 * examples)
        frame["degenerate"] = np.arange(examples) < round((degenerate or [0.0])[0] * examples)
        frame["token_agreement"], frame["tokens"] = 1.0, 5
        frame["passes"], frame["blocks"] = 4, 48
        frame["flops_full"] = 1000.0
        frame["flops"] = 1000.0 * (1.0 - saved) + 10.0 * wobble[1] * (saved > 0.0)
        frame["flops_blocks_full"], frame["flops_blocks"] = 64 * per_block, 48 * per_block
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def make_runs(
    points, *, dataset="triviaqa", backbone="tiny-transformer", family="transformer", seed=0, apart=False, **options
):
    """The resampled runs of policies by name, {policy: points}; full is added, saving nothing at a score of 90.

    Policies have the same noise, example by example, unless they are `apart`.
    """
    points = {"full": [(1.0, 0.0, 90.0)], **points}
    entries = [make_run(policy, backbone, family, dataset) for policy in points]
    rows = {
        policy: make_rows(settings, dataset=dataset, seed=seed + 100 * k * apart, **options)
        for k, (policy, settings) in enumerate(points.items())
    }
    kinds = {policy: POLICIES.get(policy, "head") for policy in points}
    heads = HEADS | {run["head"]: run["head"] for run in entries if run["head"]}
    return resampled.resample(entries, rows, kinds, heads, **BOOTSTRAP)


FLAT = {"pruned": [(2, 0.1, 80.0), (8, 0.5, 0.0)], "calm-copy": [(0.5, 0.4, 60.0), (0.9, -0.1, 90.0)]}
