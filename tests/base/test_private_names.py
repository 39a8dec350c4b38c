"""What is private to a package stays in it."""

import ast

import pytest

from conftest import ROOT

SCRIPTS = ROOT / "workflow/scripts"


def private_names(path, scripts=SCRIPTS):
    """Names with a leading underscore that a module imports or reads from a package other than its own."""
    package = path.relative_to(scripts).parent.as_posix().replace("/", ".")
    tree, of_others = ast.parse(path.read_text()), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(("early_exit.", "tiny.")):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if not full.startswith(f"{package}."):
                    of_others[alias.asname or alias.name] = full
    read = {
        f"{of_others[node.value.id]}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in of_others
    }
    private = [name for name in (*of_others.values(), *read) if any(map(is_private, name.split(".")))]
    return sorted(private)


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def test_no_module_uses_a_private_name_of_another_package():
    used = {path: private_names(path) for path in SCRIPTS.rglob("*.py")}
    assert {path: names for path, names in used.items() if names} == {}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("from early_exit.models import _private", ["early_exit.models._private"]),
        ("from early_exit.models import caches\ncaches._copy()", ["early_exit.models.caches._copy"]),
        ("from early_exit.heads.designs import _own", []),
    ],
)
def test_a_private_name_is_found(text, names, tmp_path):
    path = tmp_path / "early_exit/heads/store.py"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert private_names(path, tmp_path) == names
