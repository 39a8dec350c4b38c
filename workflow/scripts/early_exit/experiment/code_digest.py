"""Digests of the code that a script runs: the script, and our modules that it imports.

Snakemake judges a script by its date and does not see modules. With this digest as a param, an edit of either re-runs
the rules that use it, and no others; a new date re-runs nothing. (Declared as inputs, dozens of modules for each job
would take longer to check than some jobs take.)
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

SCRIPTS = Path(__file__).parents[2]  # the folder that the packages lie in
PACKAGES = ("early_exit", "tiny")


def modules(script: Path) -> list[str]:
    """Dotted names of the modules that a script imports, directly or through others, sorted.

    A package counts where a module of it is imported, since its `__init__` runs too.
    """
    seen, waiting = set(), set(_imported(script))
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= _imported(_path(name)) - seen
    return sorted(seen)


def digest(script: Path) -> str:
    """SHA-256 over the script's content and over the names and contents of these modules, wherever they lie."""
    sources = {"": script, **{name: _path(name) for name in modules(script)}}
    code = "".join(f"{name}\0{_content_digest(path)}\n" for name, path in sources.items())
    return hashlib.sha256(code.encode()).hexdigest()


@cache
def _content_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def _imported(path: Path) -> frozenset[str]:
    """Modules and packages of ours that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    ours = (name.split(".") for name in names if name.split(".")[0] in PACKAGES)
    prefixes = {".".join(parts[: k + 1]) for parts in ours for k in range(len(parts))}
    return frozenset(name for name in prefixes if _path(name) is not None)


@cache
def _path(name: str) -> Path | None:
    """The file of a module, or of a package's `__init__`; None if the name is something inside a module."""
    path = SCRIPTS.joinpath(*name.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)
