"""What people meet first: the graph of the rules, how to cite, the entry in the catalogue."""

import re
import subprocess
import sys
import tomllib
from html import unescape
from xml.etree import ElementTree

import yaml

from conftest import ROOT

SVG = "{http://www.w3.org/2000/svg}"
README = (ROOT / "README.md").read_text()


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
    assert {"all", "answer", "report"} <= today[0] and ("answer", "evaluate") in today[1]
    assert drawn() == today, "the rules have changed: make rulegraph"


def test_how_to_cite_is_complete_and_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}  # what the format asks for
    newest = re.search(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation["version"] == project["version"] == newest[1]
    assert str(citation["date-released"]) == newest[2]
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
