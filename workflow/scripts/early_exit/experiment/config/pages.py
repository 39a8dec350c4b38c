"""The config's JSON schema and its page in the docs, both written from the classes."""

import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from early_exit.experiment.config.entry import Entry, fields, members
from early_exit.experiment.config.experiment import Experiment

SCHEMA, PAGE = "workflow/schemas/config.schema.json", "docs/configuration.md"
HEADER = """# What can be configured?

Written by `make config-pages` from the classes in `workflow/scripts/early_exit/experiment/config`; do not edit it here.

A config is a preset (`workflow/presets/`) with your keys over it, from `config.yaml`, `--configfile my.yaml` or
`--config key=value`. Mappings are merged key by key, lists are replaced, and `null` takes a named thing away. A key
that is unknown, misspelt, or of another kind of thing ends the run before any job, in one line that names it. The JSON
schema for editors is `{schema}`.

A default of *required* means that there is none; `null` means that the value follows from other keys, as described.
"""


def keys(model: type[Entry], path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of the config, dotted, with its field; `NAME` stands for the names of things."""
    for name, field in fields(model).items():
        yield f"{path}{name}", field
        inner = list(members(field.rebuild_annotation()))
        for member in inner:
            named = "NAME." if _is_mapping(field.rebuild_annotation()) else ""
            choice = f"[{_kind(member)}]." if len(inner) > 1 else ""
            yield from keys(member, f"{path}{name}.{named}{choice}")


def schema() -> str:
    """The JSON schema of a complete config, for editors and other tools."""
    return json.dumps(Experiment.model_json_schema(), indent=2, sort_keys=True) + "\n"


def page() -> str:
    """The page of all keys: type, default and meaning."""
    parts = [HEADER.format(schema=SCHEMA), "## The experiment", _table(Experiment)]
    for name, field in fields(Experiment).items():
        for section in _sections(name, field):
            parts += section
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _sections(name: str, field: FieldInfo) -> Iterator[list[str]]:
    """The headed tables of a key that holds entries."""
    annotation = field.rebuild_annotation()
    kinds, title = list(members(annotation)), f"`{name}`"
    if not kinds:
        return
    if _is_mapping(annotation):
        title += ", by name"
    yield [f"## {title}", field.description or ""]
    for kind in kinds:
        heading = [f"### {name}: `{_kind(kind)}`", _first_sentence(kind)] if len(kinds) > 1 else []
        yield [*heading, _table(kind)]
        for inner, inner_field in fields(kind).items():
            for part in members(inner_field.rebuild_annotation()):
                yield [f"### `{name}.{inner}`", inner_field.description or "", _table(part)]


def _table(model: type[Entry]) -> str:
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in fields(model).items():
        cells = (f"`{name}`", _type(field), _default(field), (field.description or "").replace("|", "\\|"))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _type(field: FieldInfo) -> str:
    return _words(field.rebuild_annotation())


def _words(annotation: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is list:
        return f"list of {_words(inner[0])}"
    if origin is dict:
        return f"{_words(inner[1])}, by name"
    if hasattr(annotation, "__metadata__"):
        return _words(inner[0])
    if inner:
        return " or ".join(dict.fromkeys(_words(part) for part in inner))
    if isinstance(annotation, type) and issubclass(annotation, Entry):
        return "mapping"
    return {str: "text", int: "integer", float: "number", type(None): "null"}[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    if field.default_factory is not None:
        value = field.get_default(call_default_factory=True)
        return "below" if isinstance(value, Entry) else f"`{json.dumps(value)}`"
    return f"`{json.dumps(field.default)}`"


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict or any(_is_mapping(part) for part in get_args(annotation))


def _kind(model: type[Entry]) -> str:
    """What chooses a class of a union: the value of its `kind`, `adapt` or `mixer`."""
    for key in ("kind", "adapt", "mixer"):
        if key in model.model_fields:
            choices = get_args(model.model_fields[key].annotation)
            return choices[0] if choices else "path/to/file.py:Class"
    return model.__name__


def _first_sentence(model: type[Entry]) -> str:
    return (model.__doc__ or "").strip().split("\n\n")[0]
