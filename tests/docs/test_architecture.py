"""docs/architecture.md: its table has every package, and packages import only from lines with a lower number."""

import ast
import re

import pytest

from conftest import ROOT

FOLDER = ROOT / "workflow/scripts/early_exit"
PAGE = (ROOT / "docs/architecture.md").read_text()
LINES = {name: int(line) for line, name in re.findall(r"^\| (\d) \| `(\w+)` \|", PAGE, re.MULTILINE)}


def imported(package: str) -> set[str]:
    """The other packages that a package's modules import, anywhere in them."""
    found = set()
    for path in (FOLDER / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "early_exit":
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom | ast.Import):
                modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                found |= {parts[1] for parts in (name.split(".") for name in modules) if parts[0] == "early_exit"}
    return found - {package}


def test_the_table_has_every_package():
    assert LINES.keys() == {path.parent.name for path in FOLDER.glob("*/__init__.py")}


@pytest.mark.parametrize("package", LINES)
def test_a_package_imports_only_from_lower_lines(package):
    assert not [other for other in imported(package) if LINES[other] >= LINES[package]]
