"""One line for each mistake in a config: its key, its value, and what to do."""

import re
from collections.abc import Iterator
from typing import Any, NoReturn, get_args, get_origin

from pydantic import ValidationError

from early_exit.base import redaction
from early_exit.base.errors import InputError, hint
from early_exit.experiment.config.entry import SLUG, Entry, Key, fields, members

TAG = re.compile(r"(kind|adapt|mixer|form)=(.*)")
NO_NAME = "is no name: use a-z, 0-9, '.', '_' and '-', a letter or digit first"
YAML_TYPES = {bool: "a boolean", int: "a number", float: "a number"}
IN_QUOTES = "put it in quotes"
TOKENS = "belongs in no config, which the report shows; set HF_TOKEN in the environment instead"
NO_MATCH = {r"^[0-9a-f]{40}\z": "is no commit: give its 40 hex digits", r"\.gguf\z": "must end in .gguf", SLUG: NO_NAME}


def fail(key: Key, value: Any, why: str) -> NoReturn:
    """Raise the InputError of one key."""
    shown = "null" if value is None else repr(value)
    raise InputError(redaction.redact(f"config key '{dotted(key)}': {shown} {why}"))


def dotted(key: Key) -> str:
    """A key as people write it: `backbones.mine.exits[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


def explain(error: ValidationError, config: type[Entry]) -> NoReturn:
    """Raise the InputError of the first mistake that pydantic found; keys that are missing come last."""
    first = min(error.errors(include_url=False), key=lambda one: (one["type"] == "missing", *map(str, one["loc"])))
    location, value = first["loc"], first["input"]
    key = _key(location)
    match first["type"]:
        case "extra_forbidden":
            _explain_unknown(location, key, value, config)
        case "missing":
            fail(key, None, "is missing")
        case "union_tag_invalid":
            _explain_kind(key, value, first["ctx"])
        case "literal_error":
            fail(key, value, f"is unknown; {hint(value, _literals(location, config))}")
        case "string_type" if type(value) in YAML_TYPES:
            fail(key, value, f"is {YAML_TYPES[type(value)]} to YAML, where a name or text belongs: {IN_QUOTES}")
        case "string_pattern_mismatch":
            fail(key, value, NO_MATCH.get(first["ctx"]["pattern"], f"does not match {first['ctx']['pattern']}"))
        case "int_type" | "float_type" if _looks_like_number(value):
            fail(key, value, f"is text to YAML, where a number belongs: write {_as_yaml(value)}")
        case "finite_number":
            fail(key, value, "is no finite number")
        case "value_error":
            fail(key, value, str(first["ctx"]["error"]))
        case "dict_type" | "model_type" | "model_attributes_type":
            fail(key, value, "must be a mapping of keys to values")
    fail(key, value, re.sub(r"^.* should (be|have|match)", r"must \1", first["msg"]))


def _key(location: tuple) -> Key:
    """The key in the config, without what pydantic adds: tags of unions, nested objects, and marks of dict keys."""
    key = []
    for before, part in zip((None, *location), location, strict=False):
        is_nested = part in ("rule", "shape") and isinstance(before, str) and before.startswith("kind=")
        if not is_nested and part != "[key]" and not (isinstance(part, str) and TAG.fullmatch(part)):
            key.append(part)
    return tuple(key)


def _explain_unknown(location: tuple, key: Key, value: Any, config: type[Entry]) -> NoReturn:
    """A key that its entry does not know: another kind's, or a typo."""
    name = str(key[-1])
    if redaction.is_secret(name):
        fail(key, redaction.HIDDEN, TOKENS)
    owner, siblings = _owner(location[:-1], config)
    tags = [TAG.fullmatch(part) for part in location if isinstance(part, str) and TAG.fullmatch(part)]
    if any(name in fields(sibling) for sibling in siblings):
        chosen, choice = tags[-1].groups()
        fail(key, value, f"is not for {chosen} '{choice}'; take the key away")
    fail(key, value, f"stands under an unknown key; {hint(name, list(fields(owner)))}")


def _explain_kind(key: Key, value: Any, context: dict[str, Any]) -> NoReturn:
    """A value of `kind`, `adapt` or `mixer` that is not known."""
    chosen, choice = TAG.fullmatch(context["tag"]).groups()
    if not isinstance(value, dict):
        fail(key, value, "must be a mapping of keys to values")
    if chosen not in value:
        fail((*key, chosen), None, "is missing")
    tags = [TAG.fullmatch(tag.strip("'"))[2] for tag in context["expected_tags"].split(", ")]
    known = [tag if tag != "file" else "path/to/file.py:Class" for tag in tags]
    fail((*key, chosen), value[chosen], f"is unknown; {hint(choice, known)}")


def _owner(location: tuple, config: type[Entry]) -> tuple[type[Entry], list[type[Entry]]]:
    """The class that a location is in, and all classes of its union."""
    owner, siblings = config, [config]
    for part in location:
        tag = TAG.fullmatch(part) if isinstance(part, str) else None
        if tag:
            owner = next(one for one in siblings if _matches(one, *tag.groups()))
        elif part in owner.model_fields:
            siblings = list(members(owner.model_fields[part].rebuild_annotation()))
            owner = siblings[0] if siblings else owner
    return owner, siblings


def _matches(model: type[Entry], key: str, value: str) -> bool:
    choices = get_args(model.model_fields[key].annotation)
    return value in choices if choices else value == "file"


def _literals(location: tuple, config: type[Entry]) -> list[str]:
    """The words that a field takes."""
    *path, name = [part for part in location if part not in ("form=text", "form=other")]
    while isinstance(name, int):
        *path, name = path
    owner, _ = _owner(tuple(path), config)
    return [str(choice) for choice in _choices(owner.model_fields[name].rebuild_annotation()) if choice is not None]


def _choices(annotation: Any) -> Iterator[Any]:
    for part in get_args(annotation):
        if get_origin(part) is not None:
            yield from _choices(part)
        elif isinstance(part, str):
            yield part


def _looks_like_number(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value) is not None


def _as_yaml(value: str) -> str:
    """A number as YAML reads it: with a point and a sign in its exponent."""
    mantissa, exponent = re.split("[eE]", value)
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent if exponent[0] in '+-' else '+' + exponent}"
