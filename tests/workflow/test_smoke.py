"""The whole DAG for real, on few questions: every rule runs on both families, to a report."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from jsonschema import Draft202012Validator
from safetensors.torch import load_file

from conftest import ROOT
from early_exit.base import records
from early_exit.evaluation import promise

CONFIG = {
    "preset": "tiny",
    "name": "smoke",
    "datasets": {
        "triviaqa": None,
        "coqa": {"examples": {"calibration": 6, "test": 8}, "max_new_tokens": 10},
        "truthfulqa": {"examples": {"calibration": 6, "test": 8}, "max_new_tokens": 12},
    },
    "corpus": {"documents": 20, "held_out": 10},
    "distillation": {"epochs": 1},
    "head_quality": {"seeds": 2},
    "pruning": {"documents": 2},
    "recipes": {"paper": ["calm", "ffn", "mamba", "hybrid"]},
    "thresholds": [0.5, 0.9],
    "bootstrap": {"resamples": 50},
    "policies": {"pruned": {"drop": [2, 4]}}
    | {"oracle": {"datasets": ["coqa"]}}
    | {"pruned-greedy": {"kind": "pruned", "by": "one-by-one", "prompt": "full", "drop": [1], "datasets": ["coqa"]}}
    | {"self-speculative": {"draft_tokens": [2]}}
    | dict.fromkeys(f"{head}-{fill}" for head in ("calm", "ffn") for fill in ("copy", "skip", "propagate"))
    | dict.fromkeys(["mamba-propagate", "calm-decay", "ffn-slim", "mamba-slim", "softmax"])
    | {
        "chance": {"kind": "random", "match": "mamba-copy"},
    },
}
TOKEN = "hf_" + "Zk4" * 11  # of a hub's shape, and nobody's
RUNS = {
    "tiny-transformer": ["full", "pruned", "mamba-copy"],
    "tiny-mamba": ["full", "pruned", "mamba-skip"],
}


def snakemake(folder, *options):
    path = folder / "user.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder,
               "--cores", "2", "--replace-workflow-config", "--configfile", path, *options]  # fmt: skip
    environment = os.environ | {"HF_TOKEN": TOKEN}
    done = subprocess.run(command, text=True, capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    snakemake(folder)
    return folder / "results/smoke"


def test_the_report_holds_the_figures_and_the_table(results):
    html = (results / "report.html").read_text(encoding="utf-8")
    assert len(html) > 1_000_000  # one file with its assets
    for figure in ("reliability_tiny-mamba", "head_savings", "head_differences_tiny-mamba", "quality_coqa",
                   "quality_truthfulqa", "exits_tiny-mamba", "settle", "calibration_tiny-mamba_same-answer", "transfer",
                   "pruned_blocks"):  # fmt: skip
        assert f"{figure}.svg" in html or f"{figure}.png" in html
    for name in ("heads.csv", "results.csv", "promise.csv", "block_scores.csv", "provenance.html"):
        assert name in html


def test_a_second_run_does_nothing(results):
    assert "Nothing to be done" in snakemake(results.parents[1])


def test_neither_tokens_nor_answers_are_in_what_people_look_at(results):
    """A token of the environment is in no file at all; what models say is on no page of the report."""
    files = [path for path in results.parents[1].rglob("*") if path.is_file()]
    assert len(files) > 150 and not [path for path in files if TOKEN.encode() in path.read_bytes()]
    said = {text for path in results.glob("answers/*/*/*/test.parquet") for text in pd.read_parquet(path)["text"]}
    said = [text for text in said if len(text) >= 20]
    pages = [path for kind in ("html", "csv", "svg") for path in results.rglob(f"*.{kind}")]
    assert said and len(pages) > 20
    assert not [path for path in pages for text in said if text in path.read_text()]


def test_every_handover_file_validates(results):
    """Parquet files have their schema (reading refuses others), JSON files theirs."""
    for backbone, dataset in ((b, d) for b in RUNS for d in ("coqa", "truthfulqa")):
        answers = records.read_answers(results.glob(f"answers/{backbone}/{dataset}/*/test.parquet"))
        evaluated = records.read_table(
            results / f"evaluated/{backbone}/{dataset}.parquet", records.evaluated_schema(dataset)
        )
        assert len(evaluated) == len(answers)
        for policy in RUNS[backbone]:
            run = answers[answers["policy"] == policy]
            assert len(run) == 8 * run["setting"].nunique() > 0
            assert (run["token_ids"].map(len) == run["exit_blocks"].map(len)).all()
    for dataset in ("coqa", "truthfulqa"):
        data = records.read_table(results / "data" / f"{dataset}.parquet", records.EXAMPLES)
        assert data["split"].value_counts().to_dict() == {"test": 8, "calibration": 6}
    corpus = records.read_table(results / "data/corpus.parquet", records.CORPUS)
    assert corpus["split"].value_counts().to_dict() == {"train": 20, "held_out": 10}
    patterns = {"backbone": "backbones/*.json", "costs": "costs/*.json", "disjoint": "data/disjoint.json",
                "heads": "heads/*/*/manifest.json", "thresholds": "thresholds/*/*.json",
                "adaptive": "adaptive/*/*.json"}  # fmt: skip
    for schema, pattern in patterns.items():
        rules = yaml.safe_load((ROOT / f"workflow/schemas/{schema}.schema.yaml").read_text())
        files = sorted(results.glob(pattern))
        assert files, pattern
        for file in files:
            Draft202012Validator(rules).validate(json.loads(file.read_text()))


def test_the_four_exits_of_a_head_have_different_weights(results):
    weights = load_file(results / "heads/tiny-mamba/paper/heads.safetensors")
    for name in ("calm", "ffn", "mamba", "hybrid"):
        exits = {key.split(".")[1] for key in weights if key.startswith(f"{name}.")}
        assert exits == {"8", "10", "12", "14"}
        first = next(key for key in weights if key.startswith(f"{name}.8."))
        tensors = [weights[first.replace(".8.", f".{n}.", 1)] for n in exits]
        assert all((tensors[0] != other).any() for other in tensors[1:])


def test_the_quality_of_every_head_is_in_the_table_beside_its_cost(results):
    table = pd.read_csv(results / "tables/heads.csv")
    every = ["calm", "ffn", "hybrid", "majority", "mamba", "oracle"]
    for _, own in table.groupby("backbone"):
        assert sorted(own["head"].unique()) == every and len(own) == 5 * len(every)
    trained = table[table["recipe"].notna()]
    assert (trained["seeds"] == 2).all() and (trained["documents"] == 10).all() and (trained["check_percent"] > 0).all()
    folders = results / "heads/tiny-mamba/paper", results / "quality/tiny-mamba/paper/2"
    first, second = (load_file(folder / "heads.safetensors")["ffn.8.up.weight"] for folder in folders)
    assert (first != second).any()


def test_the_table_adds_up(results):
    table = pd.read_csv(results / "tables/results.csv")
    assert list(table.columns) == list(records.RESULTS_COLUMNS)
    full = table[table["policy"] == "full"]
    assert (full["flops_saved"] == 0).all() and (full["agreement"] == 1).all() and (full["mean_blocks"] == 16).all()
    pruned = table[table["policy"] == "pruned"]
    assert (pruned["mean_blocks"] == 16 - pruned["setting"]).all()
    assert set(pruned["setting_kind"]) == {"blocks dropped"}
    greedy = table[table["policy"] == "pruned-greedy"]
    assert (greedy["mean_blocks"] == 15).all()
    assert (greedy["flops_saved_with_prompt"] < greedy["flops_saved"]).all()  # the prompt ran whole
    drafted = table[table["policy"] == "self-speculative"]
    assert drafted["acceptance_rate"].between(0, 1).all() and (drafted["tokens_per_round"] >= 1).all()
    assert (drafted["flops_saved"] < 0).all() and (drafted["agreement"] == 1).all()
    assert table["acceptance_rate"].notna().sum() == len(drafted)
    heads = table[table["policy"].str.startswith("mamba")]
    own = heads[~heads["fallback"]]
    assert (own["flops_saved"] < own["flops_saved_blocks"]).all()  # heads and fill are not free
    assert heads.groupby(["backbone", "dataset"])["calibrated"].sum().between(1, 3).all()
    fallback = table[table["fallback"]]  # six questions prove too little, so there are some
    assert len(fallback) and fallback["setting"].isna().all() and fallback["promises"].notna().all()
    assert (fallback["flops_saved"] == 0).all() and (fallback["agreement"] == 1).all()


def test_promises_are_held_against_resampled_splits(results):
    table = pd.read_csv(results / "tables/promise.csv")
    assert tuple(table.columns) == promise.COLUMNS
    # Backbones and promises; of the head on datasets calibrated and tested on, of per-exit and of hybrid on one.
    assert len(table) == 2 * 3 * (2 * 2 + 2)
    assert (table["splits"] == 1000).all() and (table["exceeds_pool"] <= 1).all()
