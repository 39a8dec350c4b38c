"""The config: a preset with the user's keys merged over it, every default filled in, checked before any job runs.

Whatever is wrong raises InputError with one line that names the key and its value.
"""

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import ValidationError

from early_exit.base import redaction
from early_exit.base.errors import InputError, for_each, hint
from early_exit.experiment.config.entry import Key, Problem, fields, members
from early_exit.experiment.config.experiment import Experiment
from early_exit.experiment.config.messages import IN_QUOTES, TOKENS, YAML_TYPES, explain, fail

PRESETS = "workflow/presets"
REVISIONS = "workflow/presets/revisions.yaml"


def load(user: Mapping[str, Any], root: Path) -> Experiment:
    """The complete config of one experiment.

    Args:
        user: what config.yaml and the command line say.
        root: the repository, where relative sources start.

    Keys that may be null because they follow from others (name, revision, family, depth, parameters, exits, dtype,
    thresholds) are filled in.
    """
    config = merge_preset(user, root)
    revisions = (read_yaml(root / REVISIONS) if (root / REVISIONS).exists() else {}) | config.revisions
    for_each(_raise_first, ((key, source.locate(root, revisions)) for key, source in config.sources()))
    for_each(_raise_first, ((("backbones", name), one.complete(name)) for name, one in config.backbones.items()))
    config.complete()
    _raise_first((), config.problems())
    config.policies = config.selected()
    return config


def merge_preset(user: Mapping[str, Any], root: Path) -> Experiment:
    """The user's keys over their preset's, defaults filled in; sources are not looked at."""
    for key in redaction.find(user):
        fail(key, redaction.HIDDEN, TOKENS)
    preset = user.get("preset") or Experiment.model_fields["preset"].default
    known = sorted(path.stem for path in (root / PRESETS).glob("*.yaml") if path != root / REVISIONS)
    if preset not in known:
        fail(("preset",), preset, f"is unknown; {hint(preset, known)}")
    merged = _merge(read_yaml(root / PRESETS / f"{preset}.yaml"), {**user, "preset": preset}, Experiment, ())
    try:
        config = Experiment.model_validate(merged)
    except ValidationError as error:
        explain(error, Experiment)
    config._given = {name: value for name, value in user.items() if isinstance(value, Mapping)}
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file, none if it is empty; InputError if it is broken or has a key twice."""
    try:
        with path.open(encoding="utf-8") as file:
            content = _UniqueKeys(file).get_single_data() or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: must hold keys and values, not {type(content).__name__}")
    return content


def check_files(paths: Iterable[str | Path]) -> None:
    """InputError if a config file has a key twice, of which Snakemake would silently take the last."""
    for path in paths:
        if Path(path).suffix in (".yaml", ".yml"):
            read_yaml(Path(path))


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping with the same key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                why = f"key '{key}' stands twice; take one away"
                raise InputError(f"{node.start_mark.name}, line {key_node.start_mark.line + 1}: {why}")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _raise_first(key: Key, problems: Iterable[Problem]) -> None:
    for inner, value, why in problems:
        fail((*key, *inner), value, why)


def _merge(base: Any, over: Mapping, annotation: Any, key: Key) -> dict[str, Any]:
    """`over` on top of `base`, deep; in a mapping of named things null takes the thing away."""
    base = base if isinstance(base, Mapping) else {}
    if _is_other_kind(base, over):
        base = {}
    merged, named = dict(base), _named(annotation)
    for name, value in over.items():
        if not isinstance(name, str):
            fail((*key, str(name)), name, f"is {YAML_TYPES.get(type(name), 'no text')} to YAML: {IN_QUOTES}")
        if named is not None and value in (None, "null"):
            if name not in base:
                fail((*key, name), name, f"is unknown; {hint(name, list(base))}")
            del merged[name]
        elif isinstance(value, Mapping):
            merged[name] = _merge(base.get(name), value, named or _inner(annotation, name), (*key, name))
        else:
            merged[name] = value
    return merged


def _is_other_kind(base: Mapping, over: Mapping) -> bool:
    """Whether an entry of the user's is of another kind than the preset's of its name, whose keys do not fit it."""
    return "kind" in base and over.get("kind", base["kind"]) != base["kind"]


def _named(annotation: Any) -> Any:
    """What a mapping of named things holds; None if it is an entry."""
    while annotation is not None and get_origin(annotation) is not dict:
        parts = get_args(annotation)
        annotation = parts[0] if parts else None
    return None if annotation is None else get_args(annotation)[1]


def _inner(annotation: Any, name: str) -> Any:
    """The annotation of a key of an entry."""
    for model in members(annotation):
        if name in fields(model):
            return fields(model)[name].rebuild_annotation()
    return None
