"""Exit heads of a backbone: built from their config entries, saved, loaded, and what a check costs.

A recipe's folder has two files: heads.safetensors with the weights of every head at every exit, and manifest.json with
their designs, their backbone and their training. From Python, with `workflow/scripts` on the path:

    from early_exit.heads import store
    mine = store.load("results/tiny/heads/tiny-mamba/paper", "mamba", "workflow/resources/tiny/mamba")
    sure = store.confidence(mine["8"](hidden))  # hidden states (rows, T, width) after block 8 to (rows, T)
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from early_exit.base.errors import InputError
from early_exit.base.files import whole_file
from early_exit.base.records import Manifest, read_json, write_json
from early_exit.costs.parts import Cost
from early_exit.heads.designs import KINDS, Head
from early_exit.models.packed_linear import pack_linears
from early_exit.sources import manifests, model_files, user_code


def kind_class(kind: str) -> type[Head]:
    """Return the class of a kind: built in, or from a file (`path/to/file.py:Class`); InputError if there is none."""
    if kind in KINDS:
        return KINDS[kind]
    if not user_code.is_external(kind):
        raise InputError(f"kind '{kind}' is unknown; known are {', '.join(KINDS)} and file.py:Class")
    design = user_code.load_class(kind)
    if not issubclass(design, Head):
        raise InputError(f"kind '{kind}' is no subclass of early_exit.heads.designs.Head; make it one")
    return design


def build(config: Mapping[str, Any], hidden_size: int, exits: Sequence[int], name: str = "") -> nn.ModuleDict:
    """Build the heads of one config entry, one per exit, keyed by the exit's block number.

    `config` has the kind and that kind's options. InputError, which names the head, if the class does not take them.
    """
    options = {key: value for key, value in config.items() if key != "kind"}
    with _one_line(name, options):
        make = kind_class(config["kind"])
        return nn.ModuleDict({str(n): make(hidden_size, k, len(exits), **options) for k, n in enumerate(exits)})


def cost(config: Mapping[str, Any], hidden_size: int, name: str = "") -> Cost:
    """Return what one check of a head costs on hidden states of this width, as its class states it."""
    options = {key: value for key, value in config.items() if key != "kind"}
    with _one_line(name, options):
        found = kind_class(config["kind"]).cost(hidden_size, **options)
        if not (isinstance(found, Mapping) and {*found} == {"linear", "recurrence", "per_context"}):
            raise InputError(f"its `cost` gives {found!r}; add it up of early_exit.costs.parts.linear and the like")
    return dict(found)


def confidence(logits: Tensor) -> Tensor:
    """Return the probability that the remaining blocks may be skipped: logits (..., 2) to (...), in float32."""
    return logits.float().softmax(-1)[..., 1]


def load(folder: str | Path, name: str, backbone: Manifest | str | Path) -> nn.ModuleDict:
    """Load the trained head `name` from a recipe's folder, one per exit, keyed by the exit's block number as text.

    Args:
        folder: has heads.safetensors and manifest.json.
        name: the head's name in the config.
        backbone: the backbone to run on: its manifest, or the path of a manifest, of a model's folder in the hub's
            format, or of a GGUF file.

    Returns:
        The heads on the CPU, in float32, frozen, in evaluation mode.

    Raises:
        InputError: there is no such head, it was trained for another backbone, or the file of its design has changed.
    """
    folder, backbone = Path(folder), _manifest(backbone)
    manifest = read_json(folder / "manifest.json")
    trained_for = manifest["backbone"]
    if trained_for["sha256"] != backbone["sha256"]:
        raise InputError(
            f"{folder}: trained for {trained_for['source']} ({trained_for['sha256'][:12]}), not for "
            f"{backbone['source']} ({backbone['sha256'][:12]}); train the heads of this backbone again"
        )
    if name not in manifest["heads"]:
        raise InputError(f"{folder}: has no head '{name}', only {', '.join(manifest['heads'])}")
    design = manifest["heads"][name]
    heads = build(design, manifest["hidden_size"], manifest["exits"], name)
    for kind, digest in user_code.digests([design["kind"]]).items():
        if manifest["code"].get(kind) != digest:
            raise InputError(f"{folder}: '{name}' was trained before {kind} was edited; train it again")
    weights = folder / "heads.safetensors"
    if model_files.sha256(weights) != manifest["sha256"]:
        raise InputError(
            f"{weights}: is not the file that manifest.json describes; delete it and train the heads again"
        )
    with safe_open(weights, framework="pt") as file:
        keys = [key for key in file.keys() if key.startswith(f"{name}.")]  # noqa: SIM118
        heads.load_state_dict({key.removeprefix(f"{name}."): file.get_tensor(key) for key in keys})
    pack_linears(heads)
    return heads.eval().requires_grad_(False)


def description(folder: str | Path, name: str) -> dict[str, Any]:
    """Return what the trained head `name` of a recipe's folder is: its design, and the SHA-256 of its own weights."""
    found = hashlib.sha256()
    with safe_open(Path(folder) / "heads.safetensors", framework="numpy") as file:
        for key in sorted(key for key in file.keys() if key.startswith(f"{name}.")):  # noqa: SIM118
            found.update(key.encode() + file.get_tensor(key).tobytes())
    return {"design": read_json(Path(folder) / "manifest.json")["heads"][name], "sha256": found.hexdigest()}


def save(
    heads: nn.ModuleDict,
    configs: Mapping[str, Mapping[str, Any]],
    backbone: Manifest,
    exits: Sequence[int],
    description: Mapping[str, Any],
    folder: str | Path,
) -> None:
    """Write a recipe's folder: the weights, and a manifest with the designs, the backbone and `description`."""
    weights = Path(folder) / "heads.safetensors"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in heads.state_dict().items()}
    with whole_file(weights) as temporary:
        save_file(tensors, temporary)
    manifest = {
        **description,
        "backbone": {key: backbone[key] for key in ("name", "source", "revision", "sha256")},
        "heads": {name: dict(config) for name, config in configs.items()},
        "code": user_code.digests(config["kind"] for config in configs.values()),
        "hidden_size": backbone["config"]["hidden_size"],
        "exits": list(exits),
        "sha256": model_files.sha256(weights),
    }
    write_json(manifest, Path(folder) / "manifest.json")


def parameters(heads: nn.Module) -> int:
    """Return the number of parameters of the heads."""
    return sum(parameter.numel() for parameter in heads.parameters())


@contextmanager
def _one_line(name: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Turn errors of a head's class into an InputError of one line that names the head."""
    where = f"heads.{name}" if name else "head"
    try:
        yield
    except KeyError as error:
        raise InputError(f"{where}: {error} is missing") from error
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except (TypeError, NotImplementedError) as error:
        what = " ".join(str(error).split()) or "its class lacks a method"
        raise InputError(f"{where}: cannot be made with {options} ({what})") from error


def _manifest(backbone: Manifest | str | Path) -> Manifest:
    """Return a backbone's manifest, or describe the model at a path, which yields the same SHA-256."""
    if isinstance(backbone, Mapping):
        return backbone
    path = Path(backbone)
    if path.suffix == ".json":
        return read_json(path)
    if not path.exists():
        raise InputError(f"{path}: no such model folder, GGUF file or manifest")
    gguf = path.name if path.is_file() else None
    return manifests.describe(path.name, {"source": str(path), "gguf": gguf}, path.parent if gguf else path, None)
