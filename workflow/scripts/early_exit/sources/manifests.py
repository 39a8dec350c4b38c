"""Backbone manifests: what was fetched, from where, at which revision, and with which bytes.

A source is a folder in the hub's format, a folder with a GGUF file, or a hub id with the commit to read it at. Weights
stay where they are, in the folder or in the hub's cache. Which files belong to a model is in `model_files`.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from early_exit.base.errors import InputError, reading
from early_exit.base.records import Manifest
from early_exit.sources import model_files
from early_exit.sources.families import family


def describe(name: str, spec: Mapping[str, Any], folder: Path, path: str | None) -> Manifest:
    """Returns the manifest of a backbone (see backbone.schema.yaml).

    Args:
        name: the backbone's key in the config.
        spec: its entry there: source, revision, gguf, family.
        folder: has config.json, weights and tokenizer.
        path: from which jobs load the model; None if they load it from the hub's cache.

    InputError if a file is missing, cut short or not what the hub has, or if the model's family is not supported or not
    the one that the config says.
    """
    with _named(name):
        if not (spec.get("gguf") or (folder / "config.json").is_file()):
            raise InputError(f"{folder / 'config.json'}: missing; put it there, or fetch the model again")
        model_files.check_against_hub([folder / "config.json"], {})
        config = _config(folder, spec.get("gguf"))
    with reading(f"backbones.{name}: {folder / (spec.get('gguf') or 'config.json')}"):
        actual = family(config, f"backbones.{name}")
    if config["num_hidden_layers"] < 2:
        raise InputError(f"backbones.{name}: a model of one block has no place for an early exit; take a deeper one")
    if spec.get("family") not in (None, actual):
        raise InputError(f"backbones.{name}.family: '{spec['family']}', but {config.get('model_type')} is a {actual}")
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
        "path": path,
        "family": actual,
        "depth": config["num_hidden_layers"],
        "dtype": config.get("dtype") or config.get("torch_dtype"),
        "context": config.get("max_position_embeddings"),
        "config": config,
        "files": hashes,
        "sizes": {file.name: file.stat().st_size for file in files},
        "sha256": combined,
    }


def locate(name: str, spec: Mapping[str, Any], root: Path, local: bool) -> tuple[Path, str | None]:
    """Returns the folder of a backbone's files, downloaded if they are on the hub, and `path` of `describe`.

    InputError if a local folder does not exist, or if the hub does not give the files.
    """
    if local:
        folder = Path(os.path.expanduser(spec["source"]))
        folder = folder if folder.is_absolute() else root / folder
        if not folder.is_dir():
            raise InputError(f"backbones.{name}.source: no folder '{spec['source']}'")
        return folder, str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)
    from huggingface_hub import snapshot_download

    repository = {"repo_id": spec["source"], "revision": spec["revision"], "ignore_patterns": list(model_files.OTHERS)}
    with _hub_errors(name, spec):
        config = Path(snapshot_download(**repository, allow_patterns=["config.json"])) / "config.json"
        if config.is_file():
            # Refuses a model before its gigabytes are downloaded.
            family(model_files.read_object(config), f"backbones.{name}")
        folder = Path(snapshot_download(**repository, allow_patterns=list(model_files.SMALL)))
        weights = [spec["gguf"]] if spec.get("gguf") else model_files.weights(folder)
        return Path(snapshot_download(**repository, allow_patterns=weights)), None


def missing(spec: Mapping[str, Any], sizes: Mapping[str, int | None], root: Path = Path()) -> list[str]:
    """Returns the names of files that a backbone's folder, or the hub's cache, does not have in these sizes.

    `spec` is the backbone's entry in the config, or its manifest: a relative `path` is taken from `root`, and null
    stands for the hub's cache. A size of None stands for any.
    """
    return [name for name, size in sizes.items() if not _is_here(file_path(spec, name, root), size)]


def file_path(spec: Mapping[str, Any], name: str, root: Path = Path()) -> Path | None:
    """Returns the path of a backbone's file; None if it is not in the hub's cache."""
    if spec["path"] is not None:
        return root / spec["path"] / name
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(spec["source"], name, revision=spec["revision"])
    return Path(path) if isinstance(path, str) else None


def _is_here(path: Path | None, size: int | None) -> bool:
    return path is not None and path.is_file() and size in (None, path.stat().st_size)


def download_patterns(gguf: str | None) -> dict[str, list[str]]:
    """Returns patterns, as huggingface_hub takes them, for all files of a repository that `locate` may download."""
    allowed = [gguf] if gguf else [*model_files.SMALL, "*.safetensors"]
    return {"allow_patterns": allowed, "ignore_patterns": list(model_files.OTHERS)}


def cached_folder(manifest: Manifest) -> Path:
    """Returns the folder of a backbone in the hub's cache, without asking the hub.

    InputError if it does not exist or lacks a file of the manifest.
    """
    from huggingface_hub import snapshot_download

    repository = {"repo_id": manifest["source"], "revision": manifest["revision"], "local_files_only": True}
    try:
        return Path(snapshot_download(**repository, allow_patterns=sorted(manifest["files"])))
    except OSError as error:
        commit = f"{manifest['source']} at {manifest['revision']}"
        why = f"is not, or not whole, in the hub's cache of this machine ({_one_line(error)}); fetch the backbone again"
        raise InputError(f"backbones.{manifest['name']}: {commit} {why}") from error


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Adds the backbone's key in the config to InputErrors about its files."""
    try:
        yield
    except InputError as error:
        raise InputError(f"backbones.{name}: {error}") from error


@contextmanager
def _hub_errors(name: str, spec: Mapping[str, Any]) -> Iterator[None]:
    """Turns the errors of the hub's client into an InputError of one line."""
    try:
        yield
    except (OSError, ValueError) as error:  # the client's errors derive from these
        failed = f"{spec['source']} at {spec['revision']} cannot be fetched from the hub"
        page = f"https://huggingface.co/{spec['source']}"
        terms = f"; if it is gated, accept the terms on {page} and set HF_TOKEN to a token of that account"
        hint = terms if _is_refused(error) else ""
        raise InputError(f"backbones.{name}: {failed} ({_one_line(error)}){hint}") from error


def _is_refused(error: BaseException | None) -> bool:
    """Returns whether the hub let nobody in, or not us; its client wraps one error in another."""
    while error is not None:
        if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
            return True
        error = error.__cause__ or error.__context__
    return False


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _config(folder: Path, gguf: str | None) -> dict[str, Any]:
    """Returns a model's config, from its GGUF file if it has one."""
    if not gguf:
        return model_files.read_object(folder / "config.json")
    model_files.check_whole_gguf(folder / gguf)
    from transformers import AutoConfig

    with reading(folder / gguf):
        return AutoConfig.from_pretrained(folder, gguf_file=gguf, trust_remote_code=False).to_dict()
