"""The page of verdicts: one HTML file without scripts and outside assets; all text is escaped."""

from collections.abc import Callable
from html import escape

import pandas as pd

from early_exit.evaluation.claims import CLAIMS, FEWEST_GROUPS, LITTLE, MUCH, POOLED
from early_exit.evaluation.tables import metric_name

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; color: #222; }
h1, h2, h3 { line-height: 1.2; margin-top: 1.6em; }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: .25em .7em; text-align: left; vertical-align: top; }
th { background: #f4f4f4; }
td:nth-last-child(-n+2) { max-width: 40em; }
"""
SIGNS = {"supported": "✓\N{NO-BREAK SPACE}supported", "contradicted": "✗\N{NO-BREAK SPACE}contradicted",
         "undecided": "?\N{NO-BREAK SPACE}undecided"}  # fmt: skip


def page(table: pd.DataFrame, *, experiment: str, preset: str, resamples: int) -> str:
    """The page of `claims.test`'s table; `resamples` says how many the intervals come from."""
    pooled = table[table["dataset"] == POOLED]
    title = f"The paper's claims, tested on {escape(experiment)}"
    body = [
        f"<p>The claims are those of DYNAMAX (arXiv 2504.20922). A verdict is about what was run here, the experiment "
        f"<b>{escape(experiment)}</b> (preset {escape(preset)}) with the backbones, heads and questions named below, "
        f"and about nothing else: of other models, or of more training, it says nothing.</p>",
        "<h2>Verdicts</h2>",
        _table(pooled, _pooled_cells),
        "<h2>How a verdict comes about</h2>",
        *(f"<p>{escape(text)}</p>" for text in _method(pooled, resamples)),
        "<h2>Claim by claim</h2>",
    ]
    for claim in CLAIMS:
        rows = table[(table["claim"] == claim.name) & (table["dataset"] != POOLED)]
        body += [f"<h3>{escape(claim.says)}</h3>", f"<p>{escape(claim.tested)}</p>"]
        body += [_table(rows, _single_cells) if len(rows) else "<p>No backbone of that family here: not tested.</p>"]
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def _method(pooled: pd.DataFrame, resamples: int) -> list[str]:
    tests = int(pooled["p"].notna().sum())
    texts = [
        "Supported: the 95 % bootstrap interval of the effect lies wholly on the side of the bound that the claim "
        "names. Contradicted: wholly on the other side. Undecided: anything else, also where nothing was run, where "
        f"curves share no range of compute, or where fewer than {FEWEST_GROUPS} groups can be resampled. All effects "
        "are in points of 0 to 100. Resamples draw questions, in CoQA whole conversations, the same ones for all "
        "policies; scores and FLOPs are taken of the same draw.",
        "A pooled row is the mean over those datasets and backbones of a family that have an interval, and groups "
        "enough, each with the same weight. It is about these datasets, not about datasets as such, of which they are "
        "no sample.",
        f"The {tests} pooled rows with an interval are judged together: their p-values are adjusted by Holm's "
        "procedure, so that with a chance of 95 % none of them claims an effect that is not there, and a verdict "
        "stands only if its adjusted p is at most 0.05. Rows of single datasets are not adjusted: they show where a "
        "pooled verdict comes from, and of so many some leave the bound out by chance.",
        "Curves at equal compute are straight lines between the settings that were run and end with them; where those "
        "are few, the lines are long (tables/equal_compute.csv counts them). "
        "Compute is that of a generated token: a policy that rambles pays for more tokens, too, which "
        "tables/differences.csv shows. An interval of 0 to 0 means that no answer differed; with n questions an event "
        "that happens to as many as 3 in n may well have gone unseen.",
        f"What is little (less than {LITTLE:g} % of the saving) and much (more than {MUCH:g} %) is our choice: the "
        "paper names no number. What propagate costs is arithmetic on the blocks that were skipped, so its interval "
        "is narrow or none.",
    ]
    if tests and 2 / (resamples + 1) * tests > 0.05:
        texts.append(
            f"With {resamples} resamples no p-value can be small enough for {tests} hypotheses: every pooled row "
            f"stays undecided. Set bootstrap.resamples to {40 * tests} or more."
        )
    return texts


def _table(rows: pd.DataFrame, cells: Callable[[pd.Series], dict[str, str]]) -> str:
    frame = pd.DataFrame([cells(row) for _, row in rows.iterrows()])
    return frame.to_html(index=False, border=0, justify="left")


def _pooled_cells(row: pd.Series) -> dict[str, str]:
    claim = next(claim for claim in CLAIMS if claim.name == row["claim"])
    return {
        "claim": claim.says,
        "family": row["family"],
        "measured by": metric_name(row["metric"]),
        "effect [95 %]": _effect(row),
        "bound": f"{row['bound']:g}",
        "p (Holm)": "-" if pd.isna(row["p_holm"]) else f"{row['p_holm']:.3g}",
        "verdict": SIGNS[row["verdict"]],
        "note": row["note"],
        "questions": str(row["examples"]),
        "backbones/datasets": row["compared"],
    }


def _single_cells(row: pd.Series) -> dict[str, str]:
    return {
        "backbone": row["backbone"],
        "dataset": row["dataset"],
        "measured by": metric_name(row["metric"]),
        "effect [95 %]": _effect(row),
        "verdict": SIGNS[row["verdict"]],
        "note": row["note"],
        "questions": str(row["examples"]),
        "groups": str(row["groups"]),
        "runs compared, their mean": row["compared"],
    }


def _effect(row: pd.Series) -> str:
    if pd.isna(row["effect"]):
        return "-"
    interval = "-" if pd.isna(row["low"]) else f"[{row['low']:.1f}, {row['high']:.1f}]"
    return f"{row['effect']:+.1f} {interval}".replace(" ", "\N{NO-BREAK SPACE}")
