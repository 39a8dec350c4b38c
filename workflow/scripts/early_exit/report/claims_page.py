"""The page of verdicts on the paper's claims, from the table claims.csv."""

import pandas as pd

from early_exit.evaluation import precision
from early_exit.evaluation.claims import CLAIMS, FEWEST_GROUPS, LITTLE, MUCH, POOLED
from early_exit.evaluation.tables import metric_name
from early_exit.report import pages

SIGNS = {"supported": "✓", "contradicted": "✗", "undecided": "?"}
ALL_CLAIMS = (*CLAIMS, *precision.CLAIMS)
SPACE = "\N{NO-BREAK SPACE}"


def page(table: pd.DataFrame, *, experiment: str, preset: str, resamples: int) -> str:
    """The page as HTML.

    Args:
        table: the verdicts, as `claims.test` returns them.
        resamples: how many bootstrap resamples the intervals come from.
    """
    is_pooled = table["dataset"] == POOLED
    pooled, single = table[is_pooled], table[~is_pooled]
    tests = int(pooled.loc[pooled["claim"].isin([claim.name for claim in CLAIMS]), "p"].notna().sum())
    return pages.render(
        "claims",
        title=f"The paper's claims, tested on {experiment}",
        experiment=experiment,
        preset=preset,
        pooled=[_pooled_row(row) for _, row in pooled.iterrows()],
        claims=[
            {
                "says": claim.says,
                "tested": claim.tested,
                "rows": [_single_row(row) for _, row in single[single["claim"] == claim.name].iterrows()],
            }
            for claim in ALL_CLAIMS
            if claim in CLAIMS or claim.name in set(table["claim"])
        ],
        tests=tests,
        resamples=resamples,
        too_few_resamples=bool(tests) and 2 / (resamples + 1) * tests > 0.05,
        fewest_groups=FEWEST_GROUPS,
        little=f"{LITTLE:g}",
        much=f"{MUCH:g}",
    )


def _pooled_row(row: pd.Series) -> list[str]:
    claim = next(claim for claim in ALL_CLAIMS if claim.name == row["claim"])
    p = "-" if pd.isna(row["p_holm"]) else f"{row['p_holm']:.3g}"
    return [
        claim.says,
        row["family"],
        metric_name(row["metric"]),
        _effect(row),
        f"{row['bound']:g}",
        p,
        _verdict(row),
        row["note"],
        str(row["examples"]),
        row["compared"],
    ]


def _single_row(row: pd.Series) -> list[str]:
    return [
        row["backbone"],
        row["dataset"],
        metric_name(row["metric"]),
        _effect(row),
        _verdict(row),
        row["note"],
        str(row["examples"]),
        str(row["groups"]),
        row["compared"],
    ]


def _verdict(row: pd.Series) -> str:
    return f"{SIGNS[row['verdict']]}{SPACE}{row['verdict']}"


def _effect(row: pd.Series) -> str:
    """Effect and interval with one decimal, a dash for a missing one."""
    if pd.isna(row["effect"]):
        return "-"
    interval = "-" if pd.isna(row["low"]) else f"[{row['low']:.1f}, {row['high']:.1f}]"
    return f"{row['effect']:+.1f} {interval}".replace(" ", SPACE)
