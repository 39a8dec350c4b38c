"""The pages: links resolve, and the files, modules, make targets, rules and config keys that they name are there."""

import re
import shlex

import pytest
import yaml

from conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = ROOT / "workflow/scripts"
MAKEFILE = (ROOT / "Makefile").read_text()
RULES = {
    name for path in (ROOT / "workflow/rules").glob("*.smk")
    for name in re.findall(r"^ *(?:use rule \w+ as|rule) (\w+)", path.read_text(), re.MULTILINE)
} | {"all"}  # fmt: skip
PRESETS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "workflow/presets").glob("*.yaml")}
PACKAGES = [path.name for path in (SCRIPTS / "early_exit").iterdir() if path.is_dir()]
TOP = ("workflow", "tests", "docs", "envs", "profiles", "report")
WITH_VALUES = {"--cores", "--profile", "--configfile", "--sdm", "--jobs"}
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def prose(page) -> str:
    """A page without its blocks of code."""
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def shell(text: str) -> list[list[str]]:
    """The commands of a page's shell blocks, split into words, without comments and variables."""
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ").splitlines()
    commands = [shlex.split(part, comments=True) for line in lines for part in re.split(r" && ", line)]
    return [[word for k, word in enumerate(words) if k or "=" not in word] for words in commands if words]


@pages
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other.read_text()), target


@pages
def test_files_and_modules_that_are_named_exist(page):
    for name in re.findall(r"`([^`\n]+)`", prose(page)):
        if re.fullmatch(rf"({'|'.join(TOP)})/[\w./*-]*|({'|'.join(PACKAGES)})/\w+\.py", name):
            assert [*ROOT.glob(name.rstrip("/")), *(SCRIPTS / "early_exit").glob(name.rstrip("/"))], name


@pages
def test_make_has_the_targets_that_are_named(page):
    text = page.read_text()
    named = set(re.findall(r"`make ([a-z-]+)", text)) | {words[1] for words in shell(text) if words[0] == "make"}
    phony = re.search(r"^\.PHONY:(.*)", MAKEFILE, re.MULTILINE)[1].split()
    assert named <= set(phony)
    assert all(re.search(rf"^{target}:", MAKEFILE, re.MULTILINE) for target in named)


@pages
def test_snakemake_is_called_with_targets_presets_and_files_that_there_are(page):
    inline = re.findall(r"`(snakemake [^`\n]+)`", prose(page))
    for words in [*shell(page.read_text()), *map(shlex.split, inline)]:
        if words[0] != "snakemake":
            continue
        values = {words[k + 1] for k, word in enumerate(words[:-1]) if word in WITH_VALUES | {"--quiet"}}
        for word in words[1:]:
            key, _, value = word.partition("=")
            if word.startswith("workflow/") or word.startswith("tests/") or word.startswith("profiles/"):
                assert (ROOT / word).exists(), word
            elif key == "preset":
                assert value in PRESETS, word
            elif key == "group":
                assert value in {"all", *PRESETS["tiny"]["groups"]}, word
            elif re.fullmatch(r"[a-z_]+", word) and word not in values:
                assert word in RULES, word


@pages
def test_scripts_that_are_called_exist(page):
    for words in shell(page.read_text()):
        if words[0] == "python":
            assert (ROOT / words[1]).is_file() or words[1] == "-m", words
