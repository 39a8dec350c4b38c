"""What a config says of heads and their training, beyond what a schema can: which keys a design knows, and what has to
fit together. Part of `config`, so it must not need torch.

In the schema `x-kinds` names the kinds that know a key, `x-mixers` the mixers, `x-adapts` the ways in which a policy's
thresholds adapt; `x-defaults` gives the defaults of
those for which they differ. A head out of a file knows its own keys.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from early_exit.sources import user_code

SELECTORS = ("kind", "mixer", "adapt")


def defaults(rules: Mapping[str, Mapping[str, Any]], value: Mapping[str, Any]) -> tuple[dict, list[tuple[str, str]]]:
    """The defaults of the keys that a thing of this kind knows, and those of its keys that it does not, with a reason.

    Args:
        rules: the schema's `properties` of such a thing.
        value: its entry in the config.
    """
    chosen = {name: value.get(name, rules.get(name, {}).get("default")) for name in SELECTORS}
    known, strays = {}, []
    for name, rule in rules.items():
        misfits = [s for s in SELECTORS if f"x-{s}s" in rule and chosen[s] not in rule[f"x-{s}s"]]
        if not misfits:
            own = rule.get("x-defaults", {})
            known[name] = next((own[choice] for choice in chosen.values() if choice in own), rule["default"])
        elif name in value and not user_code.is_external(str(chosen["kind"])):
            strays.append((name, f"is not for {misfits[0]} '{chosen[misfits[0]]}'; take the key away"))
    return known, strays


def problems(config: Mapping[str, Any], root: Path) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    """Key, value and what is wrong with it: heads out of files, and weights that are not one for each exit."""
    for name, head in config["heads"].items():
        if user_code.is_external(head["kind"]) and (why := user_code.problem(head["kind"], root)):
            yield ("heads", name, "kind"), head["kind"], why
    weights = config["distillation"]["exit_weights"]
    for name, backbone in config["backbones"].items():
        if not isinstance(weights, str) and len(weights) != len(backbone["exits"]):
            why = f"has {len(weights)} weights, but backbone '{name}' has {len(backbone['exits'])} exits"
            yield ("distillation", "exit_weights"), weights, why
