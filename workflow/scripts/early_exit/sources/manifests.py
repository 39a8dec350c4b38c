"""Backbone manifests: what was fetched, from where, at which revision, with which bytes. Weights stay where they are.

A source is a folder in the hub's format, a folder with a GGUF file, or a hub id with an immutable revision. Which of
its files are taken, and that they are whole, is said in `model_files`.

A backbone's family is told by the keys of its config, not by its name: a model with the keys of a Llama or of a Mamba,
and none that make it something else, is taken for one. What keys cannot show (fused projections, scaled embeddings)
`structure` finds when the model is loaded.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from early_exit.base.errors import InputError
from early_exit.base.records import read_json
from early_exit.sources import model_files

# The architectures that our tests run, and what Hugging Face assumes where their config.json is silent on a shape.
TESTED: dict[str, dict[str, Any]] = {
    "mistral": {"num_key_value_heads": 8},
    "llama": {"num_key_value_heads": None},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
    "mamba": {"state_size": 16, "conv_kernel": 4, "expand": 2, "time_step_rank": "auto", "tie_word_embeddings": True},
    "falcon_mamba": {
        "state_size": 16,
        "conv_kernel": 4,
        "expand": 2,
        "time_step_rank": "auto",
        "tie_word_embeddings": True,
    },
    "mamba2": {"num_heads": 128, "head_dim": 64, "state_size": 128, "n_groups": 8, "conv_kernel": 4},
}
SUPPORTED = (
    "supported are decoder-only Transformers built like Mistral, Llama, Qwen2, Qwen3 and SmolLM2, and Mamba, Mamba-2 "
    "and Falcon-Mamba"
)
REQUIRED = {
    "transformer": ("num_attention_heads", "num_key_value_heads", "intermediate_size"),
    "mamba": ("state_size", "conv_kernel"),
}
# Keys that make a model something else, unless they hold nothing, or the number 1.
FOREIGN = re.compile(
    r"expert|(^|_)moe(_|$)|softcap|multiplier|logits?_scal|embedding_scal|scale_(emb|depth)|parallel|lora_rank|^mamba_"
    r"|clip_qkv|bidirectional|attention_chunk|is_encoder_decoder|cross_attention"
)
LAYERS = {"transformer": {"full_attention", "sliding_attention"}, "mamba": {"linear_attention"}}


def family(config: Mapping[str, Any], where: str) -> str:
    """`transformer` or `mamba`, by the keys of a Hugging Face config; if neither, an InputError that names `where`.

    A mixer is Mamba-2's if the config has `num_heads`, else Mamba-1's.
    """
    config = completed(config)
    found = "mamba" if "state_size" in config else "transformer"
    reasons = [f"its config has no {key}" for key in _needed(found) if key not in config]
    reasons = reasons[:1] or [f"{key}: {value}" for key, value in _foreign(config, found)]
    if reasons:
        raise InputError(f"{where}: {config.get('model_type')} is not supported ({', '.join(reasons)}); {SUPPORTED}")
    return found


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the shapes that Hugging Face assumes where a tested architecture's config.json is silent."""
    return TESTED.get(config.get("model_type", ""), {}) | dict(config)


def _needed(found: str) -> tuple[str, ...]:
    return "hidden_size", "num_hidden_layers", "vocab_size", *REQUIRED[found]


def _foreign(config: Mapping[str, Any], found: str) -> Iterator[tuple[str, Any]]:
    """Keys of a config that other models have, and their values."""
    for key, value in config.items():
        if FOREIGN.search(key) and value and (value is True or value != 1):
            yield key, value
    if found == "mamba" and config.get("num_attention_heads"):
        yield "num_attention_heads", config["num_attention_heads"]
    for kind in sorted({*(config.get("layer_types") or ())} - LAYERS[found]):
        yield "layer_types", kind
    if not all(config.get("no_rope_layers") or ()):  # 1 where a layer has rotations
        yield "no_rope_layers", "layers without rotations"
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    # Rotations that follow the length of the sequence, or differ between layers; queries scaled by their position.
    if "longrope" in (rope.get("rope_type"), rope.get("type")):
        yield "rope_type", "longrope"
    if any(isinstance(part, Mapping) for part in rope.values()):
        yield "rope_parameters", "one for each kind of layer"
    if rope.get("llama_4_scaling_beta"):
        yield "llama_4_scaling_beta", rope["llama_4_scaling_beta"]


def describe(name: str, spec: Mapping[str, Any], folder: Path, shown: str | None) -> dict[str, Any]:
    """The manifest of a backbone whose files lie in `folder`.

    Args:
        name: the backbone's key in the config.
        spec: its entry there: source, revision, gguf, family.
        folder: where config.json, weights and tokenizer are.
        shown: the path as jobs shall use it; None if they load from the hub's cache.
    """
    with _named(name):
        if not (spec.get("gguf") or (folder / "config.json").is_file()):
            raise InputError(f"{folder / 'config.json'}: missing; put it there, or fetch the model again")
        model_files.check_against_hub([folder / "config.json"], {})
        config = _gguf_config(folder, spec["gguf"]) if spec.get("gguf") else read_json(folder / "config.json")
    found = family(config, f"backbones.{name}")
    if spec.get("family") not in (None, found):
        raise InputError(f"backbones.{name}.family: '{spec['family']}', but {config.get('model_type')} is a {found}")
    with _named(name):
        files = model_files.collect(folder, spec.get("gguf"))
        hashes = model_files.hashes(files)
        model_files.check_against_hub(files, hashes)
    combined = hashlib.sha256("".join(f"{k}:{v}\n" for k, v in sorted(hashes.items())).encode()).hexdigest()
    return {
        "name": name,
        "source": spec["source"],
        "revision": spec.get("revision"),
        "gguf": spec.get("gguf"),
        "path": shown,
        "family": found,
        "depth": config["num_hidden_layers"],
        "dtype": config.get("dtype") or config.get("torch_dtype"),
        "context": config.get("max_position_embeddings"),
        "config": config,
        "files": hashes,
        "sizes": {path.name: path.stat().st_size for path in files},
        "sha256": combined,
    }


def locate(name: str, spec: Mapping[str, Any], root: Path, local: bool) -> tuple[Path, str | None]:
    """Where a backbone's files are (fetched from the hub if need be), and the path that jobs shall use."""
    if local:
        folder = Path(os.path.expanduser(spec["source"]))
        folder = folder if folder.is_absolute() else root / folder
        if not folder.is_dir():
            raise InputError(f"backbones.{name}.source: no folder '{spec['source']}'")
        return folder, str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)
    from huggingface_hub import snapshot_download

    at = {"repo_id": spec["source"], "revision": spec["revision"], "ignore_patterns": list(model_files.OTHERS)}
    with _hub_errors(name, spec):
        config = Path(snapshot_download(**at, allow_patterns=["config.json"])) / "config.json"
        if config.is_file():
            family(read_json(config), f"backbones.{name}")  # before gigabytes of weights
        folder = Path(snapshot_download(**at, allow_patterns=list(model_files.SMALL)))
        weights = [spec["gguf"]] if spec.get("gguf") else model_files.weights(folder)
        return Path(snapshot_download(**at, allow_patterns=weights)), None


def absent(spec: Mapping[str, Any], sizes: Mapping[str, int | None], root: Path = Path()) -> list[str]:
    """Files that a backbone's folder, or the hub's cache, lacks, or has in another size than `sizes` says (if it does).

    `spec` is a backbone's entry in the config, or its manifest: `path` counts from `root`, null is on the hub.
    """
    return [name for name, size in sizes.items() if not _is_here(find(spec, name, root), size)]


def find(spec: Mapping[str, Any], name: str, root: Path = Path()) -> Path | None:
    """Where a backbone's file lies; None if it is not in the hub's cache."""
    if spec["path"] is not None:
        return root / spec["path"] / name
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(spec["source"], name, revision=spec["revision"])
    return Path(found) if isinstance(found, str) else None


def _is_here(path: Path | None, size: int | None) -> bool:
    return path is not None and path.is_file() and size in (None, path.stat().st_size)


def wanted(gguf: str | None) -> dict[str, list[str]]:
    """Which files of a model on the hub are fetched, at most, in the words of the hub's library."""
    allowed = [gguf] if gguf else [*model_files.SMALL, "*.safetensors"]
    return {"allow_patterns": allowed, "ignore_patterns": list(model_files.OTHERS)}


def cached(manifest: Mapping[str, Any]) -> Path:
    """The folder of the hub's cache that `locate` filled for a backbone; nothing is asked of the hub.

    InputError if it is not there, or lacks a file of the manifest.
    """
    from huggingface_hub import snapshot_download

    at = {"repo_id": manifest["source"], "revision": manifest["revision"], "local_files_only": True}
    try:
        return Path(snapshot_download(**at, allow_patterns=sorted(manifest["files"])))
    except OSError as error:
        where = f"{manifest['source']} at {manifest['revision']}"
        why = f"is not, or not whole, in the hub's cache of this machine ({_one_line(error)}); fetch the backbone again"
        raise InputError(f"backbones.{manifest['name']}: {where} {why}") from error


@contextmanager
def _named(name: str) -> Iterator[None]:
    """What is wrong with a file, with the backbone that it belongs to."""
    try:
        yield
    except InputError as error:
        raise InputError(f"backbones.{name}: {error}") from error


@contextmanager
def _hub_errors(name: str, spec: Mapping[str, Any]) -> Iterator[None]:
    """What goes wrong at the hub, as one line."""
    try:
        yield
    except (OSError, ValueError) as error:  # all of the hub's errors are one of these
        where = f"{spec['source']} at {spec['revision']} cannot be fetched from the hub"
        refused = getattr(getattr(error, "response", None), "status_code", None) in (401, 403)
        hint = "; a gated model needs a token, in the environment as HF_TOKEN" if refused else ""
        raise InputError(f"backbones.{name}: {where} ({_one_line(error)}){hint}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _gguf_config(folder: Path, gguf: str) -> dict[str, Any]:
    if not (folder / gguf).is_file():
        raise InputError(f"{folder / gguf}: no such GGUF file")
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, gguf_file=gguf, trust_remote_code=False).to_dict()
