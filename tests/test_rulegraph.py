"""The README's graph of the rules is the one that Snakemake draws today; `make rulegraph` draws it again."""

import re
import subprocess
import sys
from html import unescape
from xml.etree import ElementTree

from conftest import ROOT

SVG = "{http://www.w3.org/2000/svg}"


def named(labels: dict[str, str], arrows: list[tuple[str, str]]) -> tuple[set[str], set[tuple[str, str]]]:
    """Rules, and which one's output goes into which, without the numbers that the drawing gives them."""
    return set(labels.values()), {(labels[tail], labels[head]) for tail, head in arrows}


def drawn() -> tuple[set[str], set[tuple[str, str]]]:
    labels, arrows = {}, []
    for group in ElementTree.parse(ROOT / "report/rulegraph.svg").iter(f"{SVG}g"):
        title, text = group.findtext(f"{SVG}title"), group.findtext(f"{SVG}text")
        if group.get("class") == "node":
            labels[title] = text
        elif group.get("class") == "edge":
            arrows.append(tuple(unescape(title).split("->")))
    return named(labels, arrows)


def test_the_committed_graph_has_the_rules_and_arrows_of_today(tmp_path):
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", tmp_path,
               "--replace-workflow-config", "--rulegraph", "dot", "--config", "preset=tiny"]  # fmt: skip
    dot = subprocess.run(command, text=True, capture_output=True, check=True).stdout
    labels = dict(re.findall(r'^\t(\d+)\[label = "(\w+)"', dot, re.MULTILINE))
    today = named(labels, re.findall(r"^\t(\d+) -> (\d+)", dot, re.MULTILINE))
    assert len(labels) > 20
    assert drawn() == today, "the rules have changed: make rulegraph"


def test_the_readme_shows_it():
    assert "](report/rulegraph.svg)" in (ROOT / "README.md").read_text()
