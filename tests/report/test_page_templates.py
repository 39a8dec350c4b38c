"""Templates: what is escaped, how cells look, and which files a page is made from."""

import numpy as np
import pytest
from jinja2 import UndefinedError, meta

from early_exit.report import pages


def cell(value):
    return pages.TEMPLATES.get_template("tables.html").module.cell(value)


@pytest.mark.parametrize(
    ("value", "html"),
    [
        ("<b>&", "<td>&lt;b&gt;&amp;</td>"),
        ("x" * 65, f'<td class="long">{"x" * 65}</td>'),
        (None, "<td>-</td>"),
        (123456, '<td class="number">123456</td>'),
        (np.int64(123456), '<td class="number">123456</td>'),
        (0.123456, '<td class="number">0.1235</td>'),
        (np.float64("nan"), '<td class="number">-</td>'),
    ],
)
def test_cells(value, html):
    assert cell(value) == html


def test_a_value_that_a_template_lacks_is_an_error():
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        pages.render("claims")


@pytest.mark.parametrize("page", ["claims", "provenance"])
def test_a_page_is_made_from_its_template_and_the_two_shared_ones(page):
    """The rules declare these three as inputs."""
    source, _, _ = pages.TEMPLATES.loader.get_source(pages.TEMPLATES, f"{page}.html")
    used = set(meta.find_referenced_templates(pages.TEMPLATES.parse(source)))
    assert used == {"base.html", "tables.html"}
