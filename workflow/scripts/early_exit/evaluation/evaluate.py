"""What every answer is worth and what it cost: scores, agreement with the full model, and FLOPs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from early_exit.base.records import COSTS
from early_exit.costs.passes import CostTable, generation_flops
from early_exit.costs.speculation import round_flops
from early_exit.evaluation.scoring import score_run
from early_exit.experiment.config.policies import Policy


@dataclass(frozen=True)
class Yardstick:
    """What the answers of one backbone to one dataset are measured by.

    Args:
        kind: the dataset's, a key of `records.METRICS`.
        rules: scoring rules, one of `metrics.RULES`.
        costs: the backbone's cost table.
        exits: the blocks after which policies check.
    """

    kind: str
    rules: str
    costs: CostTable
    exits: Sequence[int]


def evaluate(
    answers: pd.DataFrame, examples: pd.DataFrame, policies: Mapping[str, Policy], yardstick: Yardstick
) -> pd.DataFrame:
    """Returns a row of `records.evaluated_schema` for each of `answers`, in their order.

    `answers` are rows of `records.GENERATIONS`, those of policy `full` among them; `examples` of `records.EXAMPLES`.
    InputError if the full model did not answer an example.
    """
    full = answers[answers["policy"] == "full"]
    scores = score_run(answers, full, examples, kind=yardstick.kind, rules=yardstick.rules)
    costs = [answer_costs(rows, policies[name], yardstick) for name, rows in answers.groupby("policy", sort=False)]
    return scores.join(pd.concat(costs))


def answer_costs(answers: pd.DataFrame, policy: Policy, yardstick: Yardstick) -> pd.DataFrame:
    """Returns `records.COSTS` of one policy's answers, and of the full model on the same tokens, by their index."""
    table = yardstick.costs
    # A pruned run's setting is the number of blocks dropped; whether the prompt's pass had them is in the record.
    decode_blocks = table["depth"] - answers["setting"].astype(int) if policy.kind == "pruned" else None
    counted = generation_flops(
        table,
        prompt_tokens=answers["prompt_tokens"],
        exit_blocks=answers["exit_blocks"],
        prompt_blocks=answers["exit_blocks"].str[0],
        decode_blocks=decode_blocks,
        price=policy.price(yardstick.exits),
    )
    if policy.kind == "self-speculative":
        counted |= round_flops(table, counted, **answers[["prompt_tokens", "drafted", "accepted"]])
    return pd.DataFrame(counted, index=answers.index)[list(COSTS)]
