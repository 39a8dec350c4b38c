"""Lists and objects that a program wrote as text, as cells of a CSV file have them.

Accepted are JSON (`["a", "b"]`), Python's `repr` (`['a', "it's"]`), and numpy's arrays, which have no commas where they
are not inside an object (`['a' 'b']`, `{'aliases': array(['a', 'b'], dtype=object)}`). A text is either parsed exactly
or refused.
"""

import ast
import json
import re
from typing import Any

from early_exit.sources import readers

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<word>[\w.+-]+)|(?P<mark>[\[\](){},:=]))""", re.DOTALL
)
# How a list, an object, or a list behind a function's name (`array([`, R's `c(`) begins.
_BEGIN = re.compile(r"""["'\s]*(?:\[|\{|[\w.]*\(\s*["'\[{])""")
_WORDS = {"nan": None, "null": None, "true": True, "false": False}
_WRAPPERS = re.compile(r"(np\.|numpy\.)?(array|str_|u?int\d+|float\d+|bool_)")


def looks_written(text: str) -> bool:
    """Returns whether a text begins as a written list or object does."""
    return _BEGIN.match(text) is not None


def parse(text: str) -> Any:
    """Returns the list or dict that a text was written from; ValueError, which says why, if it is none."""
    try:
        value = readers.parse_json(text)
    except json.JSONDecodeError:
        value = _parse_python(text)
    if not isinstance(value, list | dict):
        raise ValueError("it is text, and no list or object was written there")
    return value


def _parse_python(text: str) -> Any:
    try:
        return _value(ast.parse(_with_commas(text), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("it is neither JSON nor a list or object as Python or numpy writes them") from error


def _with_commas(text: str) -> str:
    """Returns the text with the commas that numpy leaves out; else Python would join `'a' 'b'` to one text."""
    parts, place, behind_value = [], 0, False
    text = text.strip()
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None:
            raise ValueError(f"there is no list or object at {text[place : place + 20]!r}")
        value, place = token[0].strip(), token.end()
        if value == "...":
            raise ValueError("numpy left out the middle of a long list (`...`); write the file from Python lists")
        begins_value = value not in "])},:=" and not (value == "(" and parts and _WRAPPERS.fullmatch(parts[-1]))
        if begins_value and behind_value:
            parts.append(",")
        parts.append(value)
        behind_value = value not in "[({,:="
    return " ".join(parts)


def _value(node: ast.expr) -> Any:
    """Returns the value of a literal; arrays and numpy's scalars are the lists and scalars that they hold."""
    match node:
        case ast.Constant(value=value) if not isinstance(value, bytes | complex) and value is not ...:
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=names, values=values) if None not in names:
            return dict(zip(map(_name, names), map(_value, values), strict=True))
        case ast.Call(func=function, args=[value]) if _WRAPPERS.fullmatch(ast.unparse(function)):
            return _value(value)
        case ast.Name(id=name) if name in _WORDS:
            return _WORDS[name]
    raise ValueError(f"{ast.unparse(node)[:40]!r} is no text, number, list or object")


def _name(node: ast.expr) -> str:
    name = _value(node)
    if isinstance(name, list | dict):
        raise ValueError("a name in an object is no text")
    return str(name)
