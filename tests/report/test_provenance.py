"""The provenance page: everything on it, nothing of this machine, no markup from outside."""

import json
import logging
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from conftest import ROOT
from early_exit.base import files, job
from early_exit.costs.parts import linear
from early_exit.report import provenance
from made_results import make_results

CONFIG = {
    "preset": "tiny",
    "name": "tiny",
    "seed": 7,
    "bootstrap": {"resamples": 1000},
    "datasets": {
        "coqa": {"source": "stanfordnlp/coqa", "revision": "c" * 40, "path": None},
        "triviaqa": {
            "source": "/somewhere/else/trivia.jsonl",
            "revision": None,
            "path": "/somewhere/else/trivia.jsonl",
        },
    },
    "corpus": {"source": "<script>alert(1)</script>", "name": "sample-10BT", "revision": "d" * 40},
}
MANIFEST = {
    "name": "tiny-mamba", "source": "workflow/resources/tiny/mamba", "revision": None, "family": "mamba", "depth": 16,
    "dtype": "float32", "context": None, "sha256": "a" * 64, "files": {"model.safetensors": "b" * 64},
}  # fmt: skip
DISJOINT = {
    "splits": {
        "corpus/train": {"documents": 600, "sha256": "e" * 64},
        "coqa/test": {"documents": 40, "sha256": "f" * 64},
    },
    "compared": [["corpus/train", "coqa/test"]],
    "searched": {"documents": 660, "examples": 411},
}


def make_page(benchmarks=None, **config):
    results = make_results().assign(agreement=0.9, agreement_low=0.8, agreement_high=0.95)
    origin = provenance.Origin(
        config=provenance.relative(CONFIG | config, [Path.cwd()]),
        manifests=[MANIFEST],
        costs={"tiny-mamba": {"block": linear(1_250), "counted": {"torch": 2_500, "fvcore": 2_500}}},
        disjoint=DISJOINT,
        benchmarks=benchmarks or {},
        versions={"torch": "2.13.0", "mamba-ssm": "not installed"},
        pipeline={"version": "0.3.0", "commit": "9" * 40, "working tree": "clean"},
        hardware={"answer": {"processor AMD, gpu H200": 4}},
    )
    return provenance.page(origin, results)


class Cells(HTMLParser):
    """Rows of cells of every table, and every tag and attribute."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.tags, self.attributes = [], set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [name for name, _ in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1] and self.lasttag in ("td", "th") and data.strip():
            self.rows[-1][-1] += data


def test_page_shows_seeds_versions_revisions_hashes_and_the_config():
    rows = Cells(make_page()).rows
    for row in (
        ["seed", "7"], ["torch", "2.13.0"], ["mamba-ssm", "not installed"],
        ["commit", "9" * 40], ["working tree", "clean"], ["answer", "4", "processor AMD, gpu H200"],
        ["source", "workflow/resources/tiny/mamba"], ["sha256", "a" * 64], ["model.safetensors", "b" * 64],
        ["FLOPs a token of a block's products", "2,500; counted: torch 2,500, fvcore 2,500"],
        ["coqa", "stanfordnlp/coqa", "", "c" * 40], ["triviaqa", ".../trivia.jsonl", "", "local"],
    ):  # fmt: skip
        assert row in rows
    assert "resamples: 1000" in make_page()


def test_page_has_a_row_of_results_for_every_setting():
    cells = Cells(make_page()).rows
    full = next(row for row in cells if row[:2] == ["tiny-mamba", "full"])
    assert full[4:7] == ["92.0 [86.0, 98.0]", "92.0 [86.0, 98.0]", "90.0 [80.0, 95.0]"]
    assert sum(row[0] in ("tiny-mamba", "tiny-transformer") for row in cells if row) == len(make_results())


def test_times_are_summed_by_rule_and_absent_jobs_listed():
    job = pd.DataFrame({"s": [3.0], "max_rss": [100.0]})
    long_job = pd.DataFrame({"s": [5.5], "max_rss": [None]})
    page = make_page({"generate": {"a.tsv": job, "b.tsv": long_job, "c.tsv": None}, "score": {"d.tsv": None}})
    assert ["generate", "2", "8.5", "5.5", "100"] in Cells(page).rows
    assert page.count("<li>") == 2 and "<code>c.tsv</code>" in page and "<code>d.tsv</code>" in page


def test_benchmark_of_a_job_too_short_to_be_measured(tmp_path):
    (tmp_path / "job.tsv").write_text("s\th:m:s\tmax_rss\n0.5\t0:00:00\t-\n")
    (tmp_path / "quick.tsv").write_text("s\th:m:s\tmax_rss\n0.5\t0:00:00\t0.0\n")
    assert pd.isna(provenance.read_benchmark(tmp_path / "quick.tsv")["max_rss"][0])  # not 0 MB
    table = provenance.read_benchmark(tmp_path / "job.tsv")
    assert table["s"][0] == 0.5 and pd.isna(table["max_rss"][0])
    assert provenance.read_benchmark(tmp_path / "absent.tsv") is None


def test_the_hardware_is_that_of_the_jobs_as_their_logs_say_it(tmp_path):
    for name, gpu in (("a", "H200"), ("b", "H200"), ("c", "A100")):
        log = tmp_path / f"logs/answer/{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        said = json.dumps({"processor": "x", "gpu": gpu})
        log.write_text(f"10:00:00 INFO begin\n10:00:01 INFO {job.HARDWARE}{said}\n10:00:02 INFO 4 answers\n")
    paths = [tmp_path / f"benchmarks/answer/{name}.tsv" for name in "abcd"]
    assert provenance.read_hardware(paths) == {"processor x, gpu H200": 2, "processor x, gpu A100": 1}


def test_a_job_says_what_it_runs_on_and_which_commit_it_is(caplog, monkeypatch):
    with caplog.at_level(logging.INFO, logger="early_exit"):
        job.prepare_torch(1, "cpu", "float32", 1)
    (said,) = (message.removeprefix(job.HARDWARE) for message in caplog.messages if job.HARDWARE in message)
    assert json.loads(said) == job.hardware() and set(job.hardware()) == {"processor", "system", "cores", "memory_gib"}
    found = job.pipeline()
    assert found["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.fullmatch("[0-9a-f]{40}", found["commit"]) and found["working tree"] in ("clean", "changed")
    monkeypatch.setattr(files, "ROOT", Path("/"))
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "[project]\nversion = '1'")
    assert job.pipeline() == {"version": "1", "commit": "unknown: no git repository", "working tree": "unknown"}


def test_text_from_outside_is_escaped_and_nothing_is_loaded():
    page = make_page()
    assert "<script" not in page and "&lt;script&gt;" in page
    parsed = Cells(page)
    assert not parsed.tags & {"script", "link", "img", "iframe"}
    assert not {"src", "href"} & set(parsed.attributes)


def test_page_is_the_same_twice_and_names_no_path_of_this_machine():
    page = make_page(corpus={"source": str(Path.cwd() / "corpus.jsonl"), "revision": None})
    assert page == make_page(corpus={"source": str(Path.cwd() / "corpus.jsonl"), "revision": None})
    assert "source: corpus.jsonl" in page
    assert str(Path.cwd()) not in page and "/somewhere" not in page


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/repo/results/x.tsv", "results/x.tsv"),
        ("/home/me/run/data", "data"),
        ("/elsewhere/model", ".../model"),
        ("~/models/mistral", ".../mistral"),
        ("owner/name", "owner/name"),
        ("../shared/data", "../shared/data"),
        ({"a": ["/repo/x", 3, None]}, {"a": ["x", 3, None]}),
    ],
)
def test_paths_become_relative(value, shown):
    assert provenance.relative(value, [Path("/repo"), Path("/home/me/run")]) == shown


def test_page_says_which_splits_share_no_text():
    page = make_page()
    words = " ".join(page.split())
    assert "by the SHA-256 of their words: 1 pairs of splits share none" in words
    assert "660 documents" in words and "411 examples" in words
    assert ["coqa/test", "40", "f" * 64] in Cells(page).rows
