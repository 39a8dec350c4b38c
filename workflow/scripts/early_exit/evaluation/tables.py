"""The tables of results, with a row per backbone, dataset, policy and setting. Frames in and out.

Compute is that of the decode passes: of the generated tokens but the first, which the pass over the prompt returns.
Averages over passes are ratios of sums, so a long answer weighs as much as its tokens. Intervals resample groups
(conversations in CoQA, else examples), so that dependent questions stay together.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pandas as pd

from early_exit.base.errors import InputError
from early_exit.base.records import COMPARISON, MAIN_METRIC, METRICS, RESULTS_COLUMNS
from early_exit.evaluation import bootstrap

SETTING = ["backbone", "dataset", "policy", "head", "state_fill", "setting"]
EXITS_COLUMNS = [*SETTING, "block", "share"]
TRAINING_COLUMNS = ["backbone", "recipe", "step", "tokens", "head", "exit", "loss", "positive_rate"]
METRIC_NAMES = {"em": "EM", "f1": "F1", "bleu": "BLEU", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


@dataclass(frozen=True)
class ScoredRun:
    """One policy on one dataset of one backbone: its answers, and what rule evaluate made of them.

    Args:
        kind: the dataset's (a key of `records.METRICS`).
        generations, evaluated: its rows of `records.GENERATIONS` and of `records.evaluated_schema(kind)`.
        seconds: per generated token, by setting; None if they were not measured.
    """

    backbone: str
    family: str
    dataset: str
    kind: str
    policy: str
    head: str
    state_fill: str
    generations: pd.DataFrame
    evaluated: pd.DataFrame
    seconds: Mapping[float, float] | None = None


def results(run: ScoredRun, *, preset: str, seed: int, resamples: int) -> pd.DataFrame:
    """results.csv of one run: a row per setting, with the columns `records.RESULTS_COLUMNS`.

    Metrics are 0..100, shares 0..1, intervals 95 % bootstrap over groups. A metric of another kind of dataset is NaN,
    and so is a ratio without any decode pass.
    """
    settings = [
        {
            "preset": preset,
            "backbone": run.backbone,
            "family": run.family,
            "dataset": run.dataset,
            "policy": run.policy,
            "head": run.head,
            "state_fill": run.state_fill,
            "setting": setting,
            "setting_kind": run.generations["setting_kind"].iloc[0],
            "calibrated": False,
            "promises": "",
            "fallback": False,
            **_quality(group, METRICS[run.kind], seed, resamples),
            **_compute(group, seed, resamples),
            **_rounds(run.generations[run.generations["setting"] == setting]),
            "seconds_per_token": (run.seconds or {}).get(setting, float("nan")),
        }
        for setting, group in run.evaluated.sort_values("example_id").groupby("setting")
    ]
    return pd.DataFrame(settings).reindex(columns=list(RESULTS_COLUMNS))


def with_calibration(
    results: pd.DataFrame, chosen: Mapping[tuple[str, str, str], Mapping[str, float | None]]
) -> pd.DataFrame:
    """The table with what calibration chose: `calibrated`, and as `promises` the names of those that a row keeps.

    `chosen` has each promise's setting by (backbone, dataset, policy); None if no setting keeps it and the full model
    answers. Such a policy gets one more row, a `fallback`, without a setting: a copy of the full model's, since no head
    is asked then. InputError if a setting was not run.
    """
    parts = []
    for key, rows in results.groupby(["backbone", "dataset", "policy"], sort=False):
        promised = chosen.get(key, {})
        if None in promised.values():
            same = (results["backbone"] == key[0]) & (results["dataset"] == key[1])
            names = {name: rows[name].iloc[0] for name in ("policy", "head", "state_fill", "setting_kind")}
            full = results[same & (results["policy"] == "full")]
            rows = pd.concat([rows, full.assign(**names, setting=float("nan"), fallback=True)])
        settings = [None if pd.isna(setting) else setting for setting in rows["setting"]]
        for promise, level in promised.items():
            if level not in settings:
                why = f"was not run at {level}, which keeps {promise}; delete the answers and run again"
                raise InputError(f"{'/'.join(key)}: {why}")
        keeps = [" ".join(name for name, level in promised.items() if level == setting) for setting in settings]
        parts.append(rows.assign(promises=keeps, calibrated=[bool(names) for names in keeps]))
    return pd.concat(parts, ignore_index=True)


def with_oracle_share(results: pd.DataFrame, oracles: Collection[str]) -> pd.DataFrame:
    """The table with `oracle_share`: compute saved as a share of what the oracle saves on the same dataset.

    `oracles` names the policies of kind oracle; NaN if there is none or it saves nothing. A share may be above 1 if
    answers differ from the full model's, which the oracle's never do.
    """
    key = ["backbone", "dataset"]
    ceiling = results[results["policy"].isin(oracles)].groupby(key)["flops_saved"].max()
    saved = results[key].merge(ceiling.where(ceiling > 0), how="left", on=key)["flops_saved"]
    return results.assign(oracle_share=results["flops_saved"].to_numpy() / saved.to_numpy())


def _quality(rows: pd.DataFrame, metrics: tuple[str, ...], seed: int, resamples: int) -> dict[str, float]:
    """Means over examples of the metrics and of the comparison with the full model, with intervals."""
    columns = {"examples": len(rows), "tokens": rows["tokens"].sum()}
    columns |= rows.iloc[0][["rules", "score_version"]].to_dict()
    for column in (*metrics, *COMPARISON):
        values = rows["tokens" if column == "mean_tokens" else column].to_numpy(dtype=float)
        low, high = bootstrap.interval(values, rows["group_id"].to_numpy(), seed=seed, resamples=resamples)
        columns |= {column: values.mean(), f"{column}_low": low, f"{column}_high": high}
    return columns


def _compute(rows: pd.DataFrame, seed: int, resamples: int) -> dict[str, float]:
    """What the decode passes cost, and what they save against the full model on the same tokens."""
    total = rows[["passes", "blocks", "flops", "flops_full", "flops_blocks", "flops_blocks_full"]].sum()
    prompt, prompt_full = rows["prompt_flops"].sum(), rows["prompt_flops_full"].sum()
    low, high = bootstrap.ratio_interval(
        rows["flops"].to_numpy(),
        rows["flops_full"].to_numpy(),
        rows["group_id"].to_numpy(),
        seed=seed,
        resamples=resamples,
    )
    return {
        "mean_blocks": _ratio(total["blocks"], total["passes"]),
        "flops_per_token": _ratio(total["flops"], total["passes"]),
        "flops_saved": 1 - _ratio(total["flops"], total["flops_full"]),
        "flops_saved_low": 1 - high,
        "flops_saved_high": 1 - low,
        "flops_saved_blocks": 1 - _ratio(total["flops_blocks"], total["flops_blocks_full"]),
        "flops_saved_with_prompt": 1 - _ratio(total["flops"] + prompt, total["flops_full"] + prompt_full),
    }


def _rounds(generations: pd.DataFrame) -> dict[str, float]:
    """Of self-speculation: the share of drafted tokens that are in the answers, and tokens per round."""
    drafted, accepted = (generations[name].explode().dropna() for name in ("drafted", "accepted"))
    tokens = generations["exit_blocks"].str.len().sum() - len(generations)  # without those of the prompts
    return {"acceptance_rate": _ratio(accepted.sum(), drafted.sum()), "tokens_per_round": _ratio(tokens, len(drafted))}


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")


def exits(run: ScoredRun) -> pd.DataFrame:
    """exits.csv of one run: where its decode passes left, with EXITS_COLUMNS; the shares (0..1) of a setting sum to 1.

    Blocks at which nothing left have no row. A setting whose answers are all one token long has no row at all.
    """
    passes = (
        run.generations.assign(block=run.generations["exit_blocks"].str[1:]).explode("block").dropna(subset="block")
    )
    shares = passes.groupby("setting")["block"].value_counts(normalize=True).rename("share").reset_index()
    shares = shares.astype({"block": int}).sort_values(["setting", "block"], ignore_index=True)
    run_columns = {column: getattr(run, column) for column in SETTING if column != "setting"}
    return shares.assign(**run_columns)[EXITS_COLUMNS]


def training(curves: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """training.csv: the training curves of every (backbone, recipe), with TRAINING_COLUMNS."""
    frames = [frame.assign(backbone=backbone, recipe=recipe) for (backbone, recipe), frame in curves.items()]
    return pd.concat(frames, ignore_index=True)[TRAINING_COLUMNS] if frames else pd.DataFrame(columns=TRAINING_COLUMNS)


def main_metric(results: pd.DataFrame, dataset: str) -> str:
    """The main metric of a dataset: that of its kind, or the first main metric that it has values of."""
    if dataset in MAIN_METRIC:
        return MAIN_METRIC[dataset]
    rows = results[results["dataset"] == dataset]
    for metric in MAIN_METRIC.values():
        if rows[metric].notna().any():
            return metric
    raise InputError(f"dataset {dataset}: results.csv has no score of it; delete it and run again")


def metric_name(metric: str) -> str:
    """The name of a metric in text: ROUGE-L acc for `rougeL_acc`."""
    stem, _, kind = metric.partition("_")
    return " ".join(filter(None, (METRIC_NAMES.get(stem, stem), kind)))


def to_latex(results: pd.DataFrame) -> str:
    """The results as a booktabs longtable: each policy at its calibrated settings, by dataset.

    A policy without calibration (full, pruned) has all its settings. Cells are `value [low, high]` in percent.
    """
    run = results.groupby(["backbone", "dataset", "policy"])["calibrated"]
    chosen = results[results["calibrated"] | ~run.transform("any")]
    lines = [
        "% Needs booktabs and longtable.",
        "% Brackets: 95 % bootstrap intervals. FLOPs saved: decode passes, with heads and state fill.",
        "% Setting: the calibrated one, and the promises that it keeps; the number of blocks dropped (pruned), of",
        "% tokens drafted (self-speculative). Full depth: no setting keeps the promise, and the full model answers.",
        r"\begin{longtable}{llrlrrr}",
        r"\toprule",
        r"Backbone & Policy & Setting & Promise & Quality & Agreement (\%) & FLOPs saved (\%) \\",
        r"\endhead",
        r"\bottomrule",
        r"\endfoot",
    ]
    for dataset, rows in chosen.groupby("dataset", sort=False):
        metric = main_metric(results, dataset)
        lines += [
            r"\midrule",
            rf"\multicolumn{{7}}{{l}}{{\textit{{{_latex(f'{dataset}: {metric_name(metric)}')}}}}} \\",
        ]
        for _, row in rows.iterrows():
            setting = "full depth" if row["fallback"] else f"{row['setting']:g}"
            cells = [_latex(row["backbone"]), _latex(row["policy"]), setting, _latex(row["promises"])]
            cells += [with_interval(row, metric), with_interval(row, "agreement", 100)]
            cells += [with_interval(row, "flops_saved", 100)]
            lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\end{longtable}", ""])


def with_interval(row: Mapping[str, float], column: str, scale: float = 1.0) -> str:
    """`value [low, high]` with one decimal; a dash where there is no value."""
    value, low, high = (row[column + end] * scale for end in ("", "_low", "_high"))
    return "-" if pd.isna(value) else f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _latex(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text)
