"""The page of verdicts: every claim, nothing unescaped, and what few resamples cannot show."""

from html import unescape

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
