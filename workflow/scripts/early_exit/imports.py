"""Which modules of this package a script uses, by itself or through others, read from its import statements.

Snakemake looks at a rule's script alone; with a digest of these files as a param an edit of one re-runs the rules that
use it, and no others. (As inputs, dozens for each job, they would take longer to look after than some jobs to run.)
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent


def modules(script: Path) -> list[str]:
    """Names of the modules that a script imports, and of those that they import in turn, sorted."""
    seen, waiting = set(), set(_imported(script))
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= _imported(PACKAGE / f"{name}.py") - seen
    return sorted(seen)


def digest(script: Path) -> str:
    """SHA-256 over the names and contents of these modules; the script itself is not among them."""
    found = hashlib.sha256()
    for name in modules(script):
        found.update(f"{name}\0{_content_digest(PACKAGE / f'{name}.py')}\n".encode())
    return found.hexdigest()


@cache
def _content_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def _imported(path: Path) -> frozenset[str]:
    """Modules of the package that a file imports, anywhere in it, but for type checking alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {id(inner) for node in ast.walk(tree) if _is_for_typing(node) for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE.name:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE.name}."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {name.split(".")[1] for name in (alias.name for alias in node.names)
                      if name.startswith(f"{PACKAGE.name}.")}  # fmt: skip
    return frozenset(found)


def _is_for_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
