"""What people meet first: the graph of the rules, how to cite, how to contribute, the entry in the catalogue."""

import importlib
import re
import subprocess
import sys
import tomllib
from html import unescape
from xml.etree import ElementTree

import pytest
import yaml

from conftest import ROOT

SVG = "{http://www.w3.org/2000/svg}"
README, CONTRIBUTING = ((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))
PACKAGE = ROOT / "workflow/scripts/early_exit"


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


def test_the_graph_has_the_rules_and_arrows_of_today_s_default_target(tmp_path):
    config = tmp_path / "user.yaml"
    config.write_text("preset: tiny")
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", tmp_path,
               "--replace-workflow-config", "--configfile", config, "--rulegraph", "dot"]  # fmt: skip
    dot = subprocess.run(command, text=True, capture_output=True, check=True).stdout
    labels = dict(re.findall(r'^\t(\d+)\[label = "(\w+)"', dot, re.MULTILINE))
    today = named(labels, re.findall(r"^\t(\d+) -> (\d+)", dot, re.MULTILINE))
    assert {"all", "generate", "report"} <= today[0] and ("generate", "score") in today[1]
    assert drawn() == today, "the rules have changed: make rulegraph"


def test_the_readme_shows_the_graph():
    assert "](report/rulegraph.svg)" in README


def test_how_to_cite_is_complete_and_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}  # what the format asks for
    assert citation["version"] == project["version"]
    assert f"\n## {citation['version']}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert (ROOT / "LICENSE").read_text().startswith(f"{citation['license']} License")
    papers = {entry["value"] for paper in citation["references"] for entry in paper["identifiers"]}
    assert papers == {f"arXiv:{number}" for number in re.findall(r"\[arXiv ([\d.]+)\]", README)}


def test_the_catalogue_is_told_what_is_there():
    """Its keys; conda where a rule has it, a report where the Snakefile has one."""
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage.keys() == {"mandatory-flags", "software-stack-deployment", "report"}
    assert usage["mandatory-flags"].keys() == {"desc", "flags"}
    assert usage["software-stack-deployment"] == {"conda": True} and list((ROOT / "envs").glob("*.yaml"))
    assert usage["report"] is True and "\nreport:" in (ROOT / "Snakefile").read_text()


@pytest.mark.parametrize("thing", ["backbone", "head", "dataset", "metric", "figure"])
def test_contributing_says_how_to_add_each_kind_of_thing(thing):
    assert re.search(rf"^\*\*An? {thing}\.\*\* \w", CONTRIBUTING, re.MULTILINE)


def test_contributing_fits_a_page_and_names_what_is_there():
    assert len(CONTRIBUTING.splitlines()) <= 60
    named = set(re.findall(r"`([^`\n]+)`", CONTRIBUTING))
    files = {name for name in named if name.endswith((".py", ".md", ".txt", ".yaml", ".smk")) and "*" not in name}
    assert len(files) > 15
    assert not [name for name in files if not (PACKAGE / name).is_file() and not (ROOT / name).is_file()]
    dotted = [name.split(".") for name in named - files if re.fullmatch(r"\w+\.\w+", name)]
    assert len(dotted) > 5
    for module, attribute in dotted:
        assert hasattr(importlib.import_module(f"early_exit.{module}"), attribute), f"{module}.{attribute}"


def test_make_has_the_targets_that_the_pages_name():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`make ([a-z]+)|^make ([a-z]+)(?: +#.*)?$", README + CONTRIBUTING, re.MULTILINE))
    named = {one or other for one, other in named}
    assert {"demo", "test", "freeze", "rulegraph"} <= named
    assert named == set(re.search(r"^\.PHONY:(.*)", makefile, re.MULTILINE)[1].split()) - {"help", "clean"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)
