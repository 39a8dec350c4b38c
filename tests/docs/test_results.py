"""docs/results.md lists every column of every table that the code writes, and no others."""

import re

import pandas as pd
import pytest

from conftest import ROOT
from early_exit.base import records
from early_exit.blocks import pruning
from early_exit.evaluation import claims, compare, head_tables, precision, promise, tables
from early_exit.speed import interleaved, run_seconds

PAGE = (ROOT / "docs/results.md").read_text()
SETTLE = ("backbone", "block", "share", "cosine", "tokens")


def differences() -> list[str]:
    """The columns of tables/differences.csv, which follow from the run's."""
    run = {"backbone": "b", "family": "transformer", "dataset": "d", "policy": "p", "kind": "triviaqa"}
    rows = pd.DataFrame({"example_id": ["a", "b"], "group_id": ["a", "b"], "setting": 1.0, "tokens": 1})
    return list(compare.differences_from_full(run, rows, rows, preset="tiny", seed=1, resamples=2))


COLUMNS = {
    "tables/results.csv": records.RESULTS_COLUMNS,
    "tables/exits.csv": tables.EXITS_COLUMNS,
    "tables/equal_compute.csv": compare.EQUAL_COLUMNS,
    "tables/policies.csv": compare.STANDING_COLUMNS,
    "tables/differences.csv": differences(),
    "tables/claims.csv": claims.COLUMNS,
    "tables/promise.csv": promise.COLUMNS,
    "tables/heads.csv": head_tables.HEADS_COLUMNS,
    "tables/head_differences.csv": head_tables.DIFFERENCES_COLUMNS,
    "tables/reliability.csv": head_tables.RELIABILITY_COLUMNS,
    "tables/training.csv": tables.TRAINING_COLUMNS,
    "tables/settle.csv": SETTLE,
    "tables/block_scores.csv": pruning.SCORE_COLUMNS,
    "tables/pruned_blocks.csv": ("backbone", *pruning.DROP_COLUMNS),
    "tables/precision.csv": precision.COLUMNS,
    "tables/speed.csv": interleaved.COLUMNS,
    "data/{dataset}.parquet": records.EXAMPLES.names,
    "data/corpus.parquet": records.CORPUS.names,
    "answers/{backbone}/{dataset}/{part}/{split}.parquet": records.GENERATIONS.names,
    "evaluated/{backbone}/{dataset}.parquet": records.evaluated_schema("triviaqa").names,
    "seconds/{backbone}/{dataset}.csv": run_seconds.COLUMNS,
    "losses/{backbone}/{dataset}.parquet": records.LOSSES.names,
    "quality/{backbone}/{recipe}/confidences.parquet": records.confidences_schema(["HEAD"]).names,
}


def listed(file: str) -> list[str]:
    """The columns in a section's table; (+) stands for the value and both ends of its interval."""
    section = PAGE.partition(f"\n### `{file}`\n")[2].partition("\n#")[0]
    first = "".join(re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE))
    found = re.findall(r"`([^`]+)`( \(\+\))?", first)
    return [name + end for name, plus in found for end in (("", "_low", "_high") if plus else ("",))]


@pytest.mark.parametrize("file", COLUMNS)
def test_a_section_lists_the_columns_of_its_table(file):
    assert sorted(listed(file)) == sorted(COLUMNS[file])


def test_every_section_is_of_a_table_that_there_is():
    assert re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE) == list(COLUMNS)


def test_every_table_that_a_rule_writes_has_a_section():
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    written = set(re.findall(r'\{R\}/(tables/\w+\.csv)"', rules))
    assert len(written) > 10 and written <= COLUMNS.keys()
