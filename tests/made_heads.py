"""Made-up confidences of heads, and the tables of their quality."""

import numpy as np
import pandas as pd

from early_exit.evaluation import head_tables

EXITS, DEPTH = [2, 4, 5], 6
KINDS = {name: name for name in ("calm", "ffn", "mamba")}
COST = {"linear": 50, "recurrence": 0, "per_context": 0}
COSTS = {"depth": DEPTH, "block": {"linear": 80, "recurrence": 20, "per_context": 7},
         "heads": {"calm": {**COST, "linear": 1}, "ffn": COST, "mamba": {**COST, "recurrence": 10}}}  # fmt: skip


def make_confidences(seeds=(1, 2), count=12, length=20):
    """Rows of a confidences file: mamba knows most, calm nothing, agreement is rarer than the label."""
    generator = np.random.default_rng(0)
    label = generator.random((count * length, len(EXITS))) < (0.5, 0.7, 0.9)
    agreement = label & (generator.random(label.shape) < 0.95)
    frames = []
    for seed in seeds:
        index = [(seed, f"d{t // length:02}", t % length, n) for t in range(len(label)) for n in EXITS]
        frame = pd.DataFrame(index, columns=["seed", "document_id", "position", "exit"])
        frame = frame.assign(label=label.ravel(), agreement=agreement.ravel())
        for name, knows in (("calm", 0.0), ("ffn", 0.5), ("mamba", 0.9)):
            frame[f"confidence_{name}"] = knows * label.ravel() + (1 - knows) * generator.random(label.size)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def make_tables(rows=None, **options):
    """The tables of heads, their differences and their reliability, of two backbones with the same rows."""
    rows = make_confidences(**options) if rows is None else rows
    measured = [
        *head_tables.heads_of_recipe(rows, "b1", "r", KINDS, COSTS, 1),
        *head_tables.heads_of_recipe(rows, "b2", "r", KINDS, COSTS, 1),
    ]
    found = [head_tables.statistics(head, 1, 40) for head in measured]
    return (head_tables.heads(measured, found, 1, 40), head_tables.differences(measured, found, 1),
            head_tables.reliability(measured))  # fmt: skip
