"""What all entries of the config share: strict types, defaults, and the text forms that YAML and a shell give numbers.

An entry whose keys depend on a choice (the mixer of a head, the way in which thresholds adapt) is written flat in YAML.
Here its choice is an object of its own, in the field that `nested` names.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

Key = tuple[str | int, ...]
Problem = tuple[Key, Any, str]  # a key, its value, and what is wrong with it

SLUG = r"^[a-z0-9][a-z0-9._-]*\z"


def _integral(value: Any) -> Any:
    """1.0e+3 is what YAML makes of a number that a reader takes for an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _unique(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError("must not name a thing twice")
    return values


def name_but(*reserved: str) -> Any:
    """The type of names that are none of `reserved`."""

    def check(name: str) -> str:
        if name in reserved:
            raise ValueError("is no name to give: it has a meaning of its own")
        return name

    return Annotated[Name, AfterValidator(check)]


Unique = AfterValidator(_unique)
Name = Annotated[str, StringConstraints(pattern=SLUG)]
Count = Annotated[int, BeforeValidator(_integral), Field(ge=1)]
Natural = Annotated[int, BeforeValidator(_integral), Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
PositiveShare = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}\z")]
Dtype = Literal["float32", "bfloat16", "float16"]
Family = Literal["transformer", "mamba"]


class Entry(BaseModel):
    """A part of the config. A key that it does not know is an error; all its keys have a description."""

    model_config = ConfigDict(extra="forbid", strict=True, validate_assignment=False)

    nested: ClassVar[str | None] = None  # the field whose keys are written beside this entry's own

    @model_validator(mode="before")
    @classmethod
    def _nest(cls, values: Any) -> Any:
        """Put the keys of the nested object into one of their own."""
        if cls.nested is None or not isinstance(values, Mapping) or cls.nested in values:
            return values
        inner = {
            name for member in members(cls.model_fields[cls.nested].rebuild_annotation()) for name in fields(member)
        }
        own = {name: value for name, value in values.items() if name not in inner}
        return own | {cls.nested: {name: value for name, value in values.items() if name in inner}}

    @model_serializer(mode="wrap")
    def _flatten(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write the keys of the nested object beside this entry's own."""
        values = handler(self)
        return values if self.nested is None else values | values.pop(self.nested, {})

    @field_validator("*", mode="before")
    @classmethod
    def _read_text(cls, value: Any, info: Any) -> Any:
        """Within `--config a={b: 1}` Snakemake leaves numbers and null as text: read them as YAML does."""
        return _typed(value, cls.model_fields[info.field_name].rebuild_annotation())


def fields(model: type[Entry]) -> dict[str, Any]:
    """The fields of an entry by the keys of the config, those of its nested object included."""
    found = {name: field for name, field in model.model_fields.items() if name != model.nested}
    if model.nested:
        for member in members(model.model_fields[model.nested].rebuild_annotation()):
            found |= {name: field for name, field in fields(member).items() if name not in found}
    return found


def members(annotation: Any) -> Iterator[type[Entry]]:
    """The entry classes that an annotation allows, out of unions, dicts and lists."""
    if isinstance(annotation, type) and issubclass(annotation, Entry):
        yield annotation
    elif get_origin(annotation) is dict:
        yield from members(get_args(annotation)[1])
    elif get_origin(annotation) in (Annotated, list, Union, UnionType):
        inner = get_args(annotation)
        for part in inner[:1] if get_origin(annotation) is Annotated else inner:
            yield from members(part)


def union_of(kinds: type[Entry] | tuple[type[Entry], ...], key: str) -> Any:
    """The discriminated union of entry classes, told apart by the value of `key`.

    A class in place of a tuple stands for all classes derived from it that name their `key`. Tags are `key=value`, so
    that error messages can tell them from keys of the config; a class for users' files has the tag `key=file`.
    """
    kinds = kinds if isinstance(kinds, tuple) else tuple(dict.fromkeys(derived(kinds, key)))
    tagged = tuple(Annotated[kind, Tag(_tag(kind, key))] for kind in kinds)
    default = next((_tag(kind, key) for kind in kinds if not kind.model_fields[key].is_required()), f"{key}=")
    tags = {_tag(kind, key) for kind in kinds}

    def tag(values: Any) -> str:
        value = values.get(key) if isinstance(values, Mapping) else getattr(values, key, None)
        if isinstance(value, str) and ".py" in value and f"{key}=file" in tags:
            return f"{key}=file"
        return default if value is None else f"{key}={value}"

    return Annotated[Union[tagged], Discriminator(tag)]  # noqa: UP007


def either(text: Any, other: Any) -> Any:
    """A union of a choice of words and of something that is no text, which says what is wrong with the one given."""
    words, rest = Annotated[text, Tag("form=text")], Annotated[other, Tag("form=other")]
    return Annotated[words | rest, Discriminator(lambda value: f"form={'text' if isinstance(value, str) else 'other'}")]


def is_ascending(values: Sequence[float]) -> bool:
    """Whether values are ascending, without repeats."""
    return list(values) == sorted(set(values))


def derived(base: type[Entry], key: str) -> Iterator[type[Entry]]:
    """Classes below `base` that name their `key`; one that has two parents below `base` comes twice."""
    for kind in base.__subclasses__():
        if kind.model_fields[key].annotation is not str or kind.model_fields[key].metadata:
            yield kind
        yield from derived(kind, key)


def _tag(kind: type[Entry], key: str) -> str:
    annotation = kind.model_fields[key].annotation
    return f"{key}={get_args(annotation)[0]}" if get_origin(annotation) is Literal else f"{key}=file"


def _typed(value: Any, annotation: Any) -> Any:
    """A value as YAML reads it, where it is text and the annotation allows no such text."""
    if isinstance(value, list):
        items = [get_args(part)[0] for part in _parts(annotation) if get_origin(part) is list]
        return [_typed(item, items[0]) for item in value] if items else value
    if not isinstance(value, str):
        return value
    kinds = list(_parts(annotation))
    if value == "null" and type(None) in kinds:
        return None
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if str in kinds or value in choices or not kinds:
        return value
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    return read if isinstance(read, int | float) else value


def _parts(annotation: Any) -> Iterator[Any]:
    """The plain types of an annotation, without unions and metadata."""
    if get_origin(annotation) is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    else:
        yield annotation
