"""The table and the claims of number formats, against made-up measurements whose answers are known."""

import numpy as np
import pandas as pd
import pytest

from early_exit.evaluation import claims, precision

HOW = precision.Resampling(1, 200)
EXAMPLES = [f"e{k}" for k in range(30)]


def measured(family: str, flips: int, slope: float = -0.1) -> precision.Measured:
    """Each answer has 10 tokens, of which `flips` change; a change grows by `slope` per token."""
    same = {"format": "bfloat16"}
    lags = [4, 8, 16, 32]
    followed = ["hidden", "state"] if family == "mamba" else ["hidden"]
    return precision.Measured(
        labels={"preset": "p", "backbone": f"one-{family}", "family": family, "dataset": "d"},
        groups=dict(zip(EXAMPLES, EXAMPLES, strict=True)),
        states=pd.DataFrame(
            [{**same, "example_id": e, "block": n, "position": at, "tokens": tokens, "difference": 0.1 * n, "kl": value}
             for e in EXAMPLES for n in (1, 2) for at, tokens, value in ((0, 16, 1.0), (16, 4, 2.0))]
        ),
        predictions=pd.DataFrame(
            {**same, "example_id": EXAMPLES, "tokens": 10, "flips": [flips, 0] * 15, "first": 3.0 if flips else np.nan}
        ),
        decisions=pd.DataFrame(
            {**same, "example_id": EXAMPLES, "policy": "x", "setting": 0.5, "passes": 9, "flips": 3}
        ),
        changes=pd.DataFrame(
            [{"example_id": e, "followed": what, "block": 1, "size": 0.1, "lag": lag,
              "log_distance": slope * steeper * lag - 2}
             for k, e in enumerate(EXAMPLES) for steeper in [1 + k % 2] for what in followed for lag in lags]
        ),
        evaluated=pd.DataFrame(
            {**same, "example_id": EXAMPLES, "policy": "full", "setting": 1.0, "changed": False, "metric": 50.0,
             "agreement": True, "flops": 6.0, "flops_full": 8.0}
        ),
    )  # fmt: skip


def value(table: pd.DataFrame, measure: str, **where) -> float:
    rows = table[table["measure"] == measure]
    for name, wanted in where.items():
        rows = rows[rows[name].isna() if wanted is None else rows[name] == wanted]
    (row,) = rows.itertuples()
    assert row.low <= row.value <= row.high
    return row.value


def test_the_table_has_the_ratios_of_sums():
    table = precision.table(measured("mamba", 2, -0.25), HOW)
    assert tuple(table.columns) == precision.COLUMNS
    assert value(table, "kl", block=2, position=None) == pytest.approx((16 * 1 + 4 * 2) / 20)
    assert value(table, "kl", position=16) == pytest.approx(2.0)
    assert value(table, "tokens_flipped") == pytest.approx(0.1)
    assert value(table, "first_flip") == pytest.approx(3.0)
    assert value(table, "decisions_flipped", policy="x", setting=0.5) == pytest.approx(1 / 3)
    assert value(table, "flops_saved") == pytest.approx(0.25)
    assert value(table, "state_exponent", block=1, position=4) == pytest.approx(-0.375)


@pytest.mark.parametrize(
    ("mamba", "transformer", "slope", "harm", "growth"),
    [(0, 2, -0.1, "supported", "supported"), (2, 0, 0.1, "contradicted", "contradicted")],
)
def test_claims_are_judged_on_the_side_that_they_are_on(mamba, transformer, slope, harm, growth):
    both = [measured("mamba", mamba, slope), measured("transformer", transformer)]
    table = precision.test(both, HOW, experiment="x", preset="p")
    assert tuple(table.columns) == claims.COLUMNS
    pooled = table[table["dataset"] == claims.POOLED].set_index(["claim", "metric"])
    flipped = pooled.loc[("precision-harms-mamba-no-more", "tokens flipped in bfloat16")]
    assert (flipped["verdict"], flipped["effect"]) == (harm, pytest.approx(5.0 * (mamba - transformer)))
    for lags in precision.FIRST_LAGS:
        exponent = pooled.loc[("change-dies-out-in-mamba", f"state exponent, {lags}")]
        assert (exponent["verdict"], exponent["effect"]) == (growth, pytest.approx(150 * slope))
    assert set(table["compared"]) >= {"one-mamba - one-transformer", "one-mamba"}


def test_texts_that_are_all_alike_decide_nothing():
    both = [measured("mamba", 0), measured("transformer", 0)]
    table = precision.test(both, HOW, experiment="x", preset="p").set_index(["claim", "dataset"])
    harm = table.loc[("precision-harms-mamba-no-more", "d")]
    assert set(harm["verdict"]) == {"undecided"} and harm["note"].str.contains("spread").all()
    assert set(table.loc[("change-dies-out-in-mamba", "d"), "verdict"]) == {"supported"}


def test_a_transformer_alone_makes_no_claim():
    assert precision.test([measured("transformer", 1)], HOW, experiment="x", preset="p").empty
