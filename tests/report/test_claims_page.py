"""The page of verdicts: every claim, nothing unescaped, and what few resamples cannot show."""

from html import unescape

import pandas as pd

from early_exit.evaluation import claims
from early_exit.report import claims_page
from made_claims import compared, judged
from made_runs import make_runs


def test_the_page_names_every_claim_and_escapes_what_it_is_given():
    found = judged(compared("mamba-heads-over-linear", 8.0)).assign(note="<b>")
    page = claims_page.page(found, experiment="<mine>", preset="tiny", resamples=1000)
    assert "<mine>" not in page and "&lt;mine&gt;" in page and "<b></td>" not in page
    for claim in claims.CLAIMS:
        assert claim.says in unescape(page) and claim.tested in unescape(page)
    assert "✓\N{NO-BREAK SPACE}supported" in page and "Holm" in page
    assert page.count("not tested") == 1  # Mamba's recomputation: no such backbone
    assert "no p-value can be small enough" not in page
    assert page == claims_page.page(found, experiment="<mine>", preset="tiny", resamples=1000)


def test_the_page_warns_of_too_few_resamples():
    found = judged(compared("mamba-heads-over-linear", 8.0))
    page = claims_page.page(found, experiment="mine", preset="tiny", resamples=50)
    assert "With 50 resamples no p-value can be small enough for 4 hypotheses" in " ".join(page.split())


def test_the_page_of_cells_that_are_too_small_counts_no_tests():
    found = judged([make_runs({"calm-copy": [(0.5, 0.4, 50.0), (0.9, 0.0, 70.0)]}, per_group=10)])
    assert "The 0 pooled rows" in claims_page.page(found, experiment="mine", preset="tiny", resamples=50)


def test_claims_of_the_second_paper_are_shown_and_not_counted_with_the_first_s():
    names = ["mamba-heads-over-ffn", "change-dies-out-in-mamba"]
    row = dict.fromkeys(claims.COLUMNS, "x") | {"dataset": claims.POOLED, "metric": "em", "verdict": claims.SUPPORTED}
    numbers = {"effect": -1.2, "low": -1.4, "high": -1.0, "bound": 0.0, "p": 0.01, "p_holm": 0.01, "examples": 20}
    table = pd.DataFrame([row | numbers | {"claim": name} for name in names])
    both, first = (claims_page.page(t, experiment="e", preset="tiny", resamples=10) for t in (table, table.iloc[:1]))
    assert "dies out along the sequence" in both and "dies out along the sequence" not in first
    assert [line for line in both.splitlines() if "Holm" in line] == [s for s in first.splitlines() if "Holm" in s]
