"""The config: a preset with the user's keys merged over it, every default filled in, checked before any job runs.

`workflow/schemas/config.schema.yaml` says which keys there are. Whatever is wrong raises InputError with one line
that names the key and its value.
"""

import copy
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonschema import Draft202012Validator, ValidationError

from early_exit.base import redaction
from early_exit.base.errors import InputError, for_each, hint
from early_exit.experiment import backbone_config, head_config, policy_config

PRESETS = "workflow/presets"
REVISIONS = "workflow/presets/revisions.yaml"
SCHEMA = "workflow/schemas/config.schema.yaml"
STATE_FILLS = {"transformer": ("copy", "propagate", "deferred"), "mamba": ("skip", "propagate", "deferred")}
TOKENS = "belongs in no config, which the report shows; set HF_TOKEN in the environment instead"

Key = tuple[str | int, ...]


def load(user: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The complete config of one experiment.

    `user` is what config.yaml and the command line say, `root` the repository, where relative sources start. Beside
    the schema's keys every source has a `path`: where a local one lies, None for one on the hub. Keys that may be null
    because they follow from others (name, revision, family, depth, parameters, exits, dtype, thresholds) are filled.
    """
    config = merge_preset(user, root)
    config["name"] = config["name"] or config["preset"]
    revisions = read_yaml(root / REVISIONS) if (root / REVISIONS).exists() else {}
    revisions |= config["revisions"]
    for_each(lambda key, spec: _locate(key, spec, root, revisions), sources(config))
    for_each(_complete, config["backbones"].items())
    for spec in config["backbones"].values():
        spec["dtype"] = spec["dtype"] or config["dtype"]
    _check_names(config)
    if config["distillation"]["seed"] is None:
        config["distillation"]["seed"] = config["seed"]
    _check_ascending(("thresholds",), config["thresholds"])
    policy_config.complete(config)
    for key, value, why in (*head_config.problems(config, root), *policy_config.problems(config, user)):
        _fail(key, value, why)
    for name, policy in config["policies"].items():
        _check_policy(("policies", name), policy, config)
        if name in user.get("policies", {}) and not any(runs_on(policy, b) for b in config["backbones"].values()):
            _fail(("policies", name, "state_fill"), policy["state_fill"], "belongs to no backbone here")
    config["policies"] = policy_config.select(config)
    return config


def merge_preset(user: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The user's keys over their preset's, valid by the schema, defaults filled in; sources are not looked at."""
    for key in redaction.find(user):
        _fail(key, redaction.HIDDEN, TOKENS)
    schema = read_yaml(root / SCHEMA)
    preset = user.get("preset") or schema["properties"]["preset"]["default"]
    known = sorted(path.stem for path in (root / PRESETS).glob("*.yaml") if path != root / REVISIONS)
    _check_known(("preset",), preset, known)
    merged = _merge(read_yaml(root / PRESETS / f"{preset}.yaml"), {**user, "preset": preset}, schema, ())
    errors = sorted(Draft202012Validator(schema).iter_errors(merged), key=_typos_first)
    if errors:
        _explain(errors[0])
    return _fill(merged, schema, ())


def sources(config: Mapping[str, Any]) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Every model and data source: its key and its part of the config."""
    for section in ("backbones", "datasets"):
        for name, spec in config[section].items():
            yield (section, name), spec
    yield ("corpus",), config["corpus"]


def runs_on(policy: Mapping[str, Any], backbone: Mapping[str, Any]) -> bool:
    """Whether a policy's state fill, if it has one, is of the backbone's family."""
    return "state_fill" not in policy or policy["state_fill"] in STATE_FILLS[backbone["family"]]


def local_path(source: str, root: Path) -> Path | None:
    """Where a source lies; None for a hub id. What exists is local, and so is what is written like a path."""
    path = root / Path(source).expanduser()
    return path if path.exists() or source.startswith((".", "/", "~", "workflow/")) else None


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file; none if it is empty."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    return content


def _merge(base: Any, over: Mapping, schema: Mapping, key: Key) -> dict[str, Any]:
    """`over` on top of `base`, deep; in a mapping of named things null takes the thing away."""
    base = base if isinstance(base, Mapping) else {}
    merged, named = dict(base), isinstance(schema.get("additionalProperties"), Mapping)
    for name, value in ((str(name), value) for name, value in over.items()):
        rule = _subschema(schema, name)
        value = _typed(value, rule)
        if named and value is None:
            _check_known((*key, name), name, list(base))
            del merged[name]
        elif isinstance(value, Mapping):
            merged[name] = _merge(base.get(name), value, rule, (*key, name))
        else:
            merged[name] = value
    return merged


def _typed(value: Any, schema: Mapping) -> Any:
    """A value as a YAML file gives it: within `--config a={b: 1}` Snakemake leaves all that is nested as text."""
    if isinstance(value, list):
        return [_typed(item, schema.get("items", {})) for item in value]
    types, choices = schema.get("type", []), schema.get("enum", [])
    is_text = value in choices or ("string" in types and not (value == "null" and "null" in types))
    is_scalar = isinstance(value, str) and re.fullmatch(r"[\w.+-]+", value)
    return yaml.safe_load(value) if is_scalar and not is_text else value


def _subschema(schema: Mapping, name: str) -> Mapping[str, Any]:
    return schema.get("properties", {}).get(name) or schema.get("additionalProperties") or {}


def _fill(value: Any, schema: Mapping, key: Key) -> Any:
    """The value with the schema's defaults for keys that are not there; a key of another `kind` is refused."""
    if not isinstance(value, Mapping):
        return copy.deepcopy(value)
    known, strays = head_config.defaults(schema.get("properties", {}), value)
    for name, why in strays:
        _fail((*key, name), value[name], why)
    return {name: _fill(part, _subschema(schema, name), (*key, name)) for name, part in {**known, **value}.items()}


def _locate(key: Key, spec: dict[str, Any], root: Path, revisions: Mapping[str, str]) -> None:
    """Set a source's `path`, and its revision if it is on the hub."""
    source, path = spec["source"], local_path(spec["source"], root)
    if path is None:
        spec["path"], spec["revision"] = None, spec["revision"] or revisions.get(source)
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
            _fail((*key, "source"), source, "is neither an existing path nor a hub id (owner/name)")
        if not re.fullmatch("[0-9a-f]{40}", spec["revision"] or ""):
            why = f"is no commit of '{source}' on the hub (no such local path): run `make pin`, or give 40 hex digits"
            _fail((*key, "revision"), spec["revision"], why)
    elif not path.exists():
        _fail((*key, "source"), source, f"does not exist (looked for {os.path.abspath(path)})")
    else:
        inside = Path(os.path.abspath(path)).is_relative_to(Path.cwd())
        spec["path"] = os.path.relpath(path) if inside else os.path.abspath(path)
        spec["source"] = os.path.expanduser(source)


def _complete(name: str, spec: dict[str, Any]) -> None:
    """Fill in what follows from a backbone's model."""
    for key, value, why in backbone_config.complete(name, spec):
        _fail(key, value, why)


def _check_names(config: Mapping[str, Any]) -> None:
    """What recipes name must be there, and `full` once, as the measure of all others."""
    for recipe, heads in config["recipes"].items():
        for i, head in enumerate(heads):
            _check_known(("recipes", recipe, i), head, list(config["heads"]))
    for i, recipe in enumerate(config["head_quality"]["recipes"] or []):
        _check_known(("head_quality", "recipes", i), recipe, list(config["recipes"]))
    if [name for name, policy in config["policies"].items() if policy["kind"] == "full"] != ["full"]:
        _fail(("policies", "full"), config["policies"].get("full"), "must be the one policy of kind full")


def _check_policy(key: Key, policy: dict[str, Any], config: Mapping[str, Any]) -> None:
    """Numbers of blocks, and of tokens drafted, of one policy, in every backbone."""
    if policy["kind"] == "self-speculative":
        _check_ascending((*key, "draft_tokens"), policy["draft_tokens"])
        for name, backbone in config["backbones"].items():
            if (policy["exit"] or 1) >= backbone["depth"]:
                _fail((*key, "exit"), policy["exit"], f"leaves '{name}' no block to verify with")
    if policy["kind"] == "pruned":
        _check_ascending((*key, "drop"), policy["drop"])
        for name, backbone in config["backbones"].items():
            if policy["drop"][-1] >= backbone["depth"]:
                why = f"is too many for '{name}', which has {backbone['depth']} blocks"
                _fail((*key, "drop"), policy["drop"][-1], why)


def _check_ascending(key: Key, values: list[float]) -> None:
    if values != sorted(set(values)):
        _fail(key, values, "must be ascending, without repeats")


def _check_known(key: Key, name: str, known: list[str]) -> None:
    if name not in known:
        _fail(key, name, f"is unknown; {hint(name, known)}")


def _typos_first(error: ValidationError) -> tuple:
    return error.validator == "required", [str(part) for part in error.absolute_path]


def _explain(error: ValidationError) -> NoReturn:
    """One line for what the schema refuses."""
    key, value, rule = tuple(error.absolute_path), error.instance, error.validator_value
    if "propertyNames" in error.absolute_schema_path:
        _fail((*key, value), value, "is no name: use a-z, 0-9, '.', '_' and '-', a letter or digit first")
    if error.validator in ("additionalProperties", "unevaluatedProperties"):
        known = list(error.schema["properties"])
        name = next(name for name in value if name not in known)
        if redaction.is_secret(name):
            _fail((*key, name), redaction.HIDDEN, TOKENS)
        _fail((*key, name), value[name], f"stands under an unknown key; {hint(name, known)}")
    if error.validator == "required":
        _fail((*key, next(name for name in rule if name not in value)), None, "is missing")
    if error.validator == "enum":
        _check_known(key, value, [choice for choice in rule if choice is not None])
    raise InputError(f"config key '{_dotted(key)}': {redaction.redact(' '.join(error.message.split()))}")


def _dotted(key: Key) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


def _fail(key: Key, value: Any, why: str) -> NoReturn:
    shown = "null" if value is None else repr(value)
    raise InputError(redaction.redact(f"config key '{_dotted(key)}': {shown} {why}"))
