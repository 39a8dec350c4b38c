"""What a config says of backbones, beyond what a schema can: facts of the model, and exits. Part of `config`, so it
must not need torch.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from early_exit.base.records import read_json
from early_exit.costs import parts
from early_exit.sources import families

EXIT_FRACTIONS = (1 / 2, 5 / 8, 3 / 4, 7 / 8)
CLOSE = 0.02  # of the weights, by which a number in the config may differ from the shapes': it may be a rounded one
Problem = tuple[tuple[str, ...], Any, str]


def complete(name: str, spec: dict[str, Any]) -> Iterator[Problem]:
    """Fill in a backbone's family, depth, parameters and exits, from its config.json where that is at hand.

    Gives key, value and what is wrong with it; after the first of them the rest is not to be relied on.
    """
    key, facts = ("backbones", name), {}
    if spec["path"]:
        folder = Path(spec["path"])
        if not folder.is_dir():
            yield (*key, "source"), spec["source"], "is a file; give its folder, and its name as `gguf` if it is one"
        if spec["gguf"] and not (folder / spec["gguf"]).is_file():
            yield (*key, "gguf"), spec["gguf"], f"does not exist in {folder}"
        if (folder / "config.json").exists():
            facts = _facts(read_json(folder / "config.json"), ".".join((*key, "source")))
    for fact in ("family", "depth", "parameters"):
        found, said = facts.get(fact), spec[fact]
        close = said == found or (fact == "parameters" and math.isclose(said or 0, found or 0, rel_tol=CLOSE))
        if found and said is not None and not close:
            yield (*key, fact), said, f"is not what config.json says: {found}"
        spec[fact] = found or said
        if not spec[fact]:
            yield (*key, fact), None, "cannot be read from a config.json in a local folder, so give it here"
    depth = spec["depth"]
    if spec["exits"] is None:
        spec["exits"] = sorted({n for n in (math.ceil(depth * share) for share in EXIT_FRACTIONS) if n < depth})
    if spec["exits"] != sorted(set(spec["exits"])):
        yield (*key, "exits"), spec["exits"], "must be ascending, without repeats"
    if spec["exits"][-1] >= depth:
        yield (*key, "exits"), spec["exits"][-1], f"is beyond the last exit, {depth - 1}: there are {depth} blocks"


def _facts(model: dict[str, Any], where: str) -> dict[str, Any]:
    """What a Hugging Face config says of the model."""
    family = families.family(model, where)  # refuses what is not supported
    parameters = parts.parameters(model)
    return {"family": family, "depth": model["num_hidden_layers"], "parameters": parameters}
