"""Classes of exit heads and policies in Python files of the user.

In the config, `kind: folder/my_head.py:MyHead` names the class `MyHead` defined in that file. A relative path starts at
the repository, else at the working directory. Nothing is downloaded. Only `load_class` runs the file, in a job; all
other functions read it as text, so that checking a config needs no torch.
"""

import ast
import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from early_exit.base.errors import InputError
from early_exit.base.files import ROOT

_EXTERNAL = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")


def is_external(kind: str) -> bool:
    """Returns whether a kind is meant as a class in a file, correctly written or not."""
    return ".py" in kind


def problem(kind: str, root: Path = ROOT) -> str | None:
    """Returns in a few words what is wrong with a kind that names a class in a file; None if the class is there."""
    try:
        path, name = _split(kind, root)
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except InputError as error:
        return str(error)
    except (OSError, ValueError, SyntaxError) as error:
        return f"cannot be read ({' '.join(str(error).split())})"
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    return None if name in classes else f"names no class of the file; it has {', '.join(classes) or 'none'}"


def files(kinds: Iterable[str], root: Path = ROOT) -> list[str]:
    """Returns the files that define the classes of these kinds (of heads or policies), sorted, without repeats."""
    return sorted({str(_split(kind, root)[0]) for kind in kinds if is_external(kind)})


def digests(kinds: Iterable[str], root: Path = ROOT) -> dict[str, str]:
    """Returns the SHA-256 of the file of each kind that names a class in a file, by kind."""
    external = sorted({kind for kind in kinds if is_external(kind)})
    return {kind: hashlib.sha256(_split(kind, root)[0].read_bytes()).hexdigest() for kind in external}


def load_class(kind: str, root: Path = ROOT) -> type:
    """Returns the class that a kind `file.py:Class` names, imported; InputError if that fails."""
    try:
        path, name = _split(kind, root)
    except InputError as error:
        raise InputError(f"kind '{kind}': {error}") from error
    # The name contains the file's content, so that an edited file is imported again.
    module_name = f"early_exit_user_{hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"kind '{kind}': {path} cannot be imported ({what})") from error
    head_class = getattr(sys.modules[module_name], name, None)
    if not isinstance(head_class, type):
        raise InputError(f"kind '{kind}': {path} has no class {name}")
    return head_class


def _split(kind: str, root: Path) -> tuple[Path, str]:
    """Returns the existing file and the name of the class."""
    match = _EXTERNAL.fullmatch(kind)
    if match is None:
        raise InputError("is not written as file.py:Class")
    places = [Path(base, Path(match["file"]).expanduser()) for base in (root, Path.cwd())]
    for path in places:
        if path.is_file():
            return path.resolve(), match["name"]
    raise InputError(f"names a file that does not exist (looked for {' and '.join(map(str, dict.fromkeys(places)))})")
