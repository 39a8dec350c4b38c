"""The files that a model is loaded from: which they are, and whether they are whole and unchanged.

Weights are safetensors or GGUF, never pickles. In the hub's format they are `model.safetensors`, or the shards that
`model.safetensors.index.json` names. Other files of a repository are neither downloaded nor read: pickled weights
(`.bin`, `.pth`), weights in other precisions or in Mistral's own format (`consolidated*`), and subfolders.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from early_exit.base.errors import InputError, reading
from early_exit.base.records import Manifest

SMALL = ("*.json", "*.model", "*.txt")  # configs, the index, the tokenizer
OTHERS = ("consolidated*", "*/*")
# The JSON files that the library reads; others may lie beside them in any form.
OBJECTS = ("*config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
ADAPTERS = ("adapter_config.json", "adapter_model.*")
GGUF_SHAPE = ("block_count", "embedding_length")
LFS_POINTER = b"version https://git-lfs"
_SHARD = re.compile(r".+-\d{5}-of-(?P<count>\d{5})\.safetensors")
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
THREADS = 4  # for hashing; one thread hashes about 1 GB/s


def present(folder: Path, gguf: str | None) -> list[Path]:
    """Returns all files of a folder that a model may be loaded from, sorted."""
    patterns = [gguf] if gguf else [*SMALL, "*.safetensors"]
    paths = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(path for path in paths if gguf or not path.name.startswith("consolidated"))


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a model's file; InputError if the file has none."""
    refuse_pointer(path)
    with reading(path):
        value = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds no JSON object; fetch or copy it again")
    return value


def refuse_pointer(path: Path) -> None:
    """Raise an InputError if a file is the pointer that git leaves where Git LFS has not fetched the file itself."""
    with reading(path), path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        raise InputError(f"{path}: a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")


def weights(folder: Path) -> list[str]:
    """Returns the names of a folder's files of weights in the hub's format, which need not exist.

    A single file is preferred to shards, as in transformers. InputError if the index names anything but safetensors
    files beside it.
    """
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return [SINGLE]
    shards = sorted({*_weight_map(folder).values()})
    for name in shards:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"{folder / INDEX}: names '{name}', which is no safetensors file beside it")
    return shards


def collect(folder: Path, gguf: str | None = None) -> list[Path]:
    """Returns the files that a model in `folder` is loaded from, sorted.

    InputError if one is missing, cut short or a Git LFS pointer, or if an adapter or a shard would be left out.
    """
    adapters = sorted(path.name for pattern in ADAPTERS for path in folder.glob(pattern))
    if adapters:
        why = "an adapter (LoRA or the like) is not loaded; merge the adapter first, or take it out of the folder"
        raise InputError(f"{folder / adapters[0]}: {why}")
    if gguf:
        check_whole_gguf(folder / gguf)
        return [folder / gguf]
    names = weights(folder)
    absent = [name for name in names if not (folder / name).is_file()]
    if absent == [SINGLE]:
        raise InputError(f"{folder}: no {SINGLE} and no {INDEX}{_instead(folder)}")
    if absent:
        raise InputError(f"{folder / absent[0]}: missing, though {INDEX} names it; fetch or copy it again")
    if not (folder / "tokenizer.json").is_file() and any(folder.glob("tokenizer.model*")):
        # From Mistral's SentencePiece file transformers 5.23 drops the space before a text's first word.
        raise InputError(f"{folder}: a tokenizer.model without tokenizer.json, which is what is read; add the latter")
    for path in (path for pattern in OBJECTS for path in folder.glob(pattern)):
        read_object(path)
    _check_whole(folder, names)
    return sorted({folder / name for name in names} | {path for path in present(folder, None) if _is_small(path)})


def hashes(paths: Iterable[Path]) -> dict[str, str]:
    """Returns the SHA-256 of each file, by name."""
    paths = list(paths)
    with ThreadPoolExecutor(THREADS) as threads:
        return {path.name: digest for path, digest in zip(paths, threads.map(sha256, paths), strict=True)}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_unchanged(folder: Path, manifest: Manifest, with_weights: bool = True) -> None:
    """Raise an InputError that names the file if one of a manifest's files in `folder` is missing or has other bytes.

    Every job that runs a model reads all files for this check, which takes some seconds for 7B parameters. Without
    `with_weights` only the sizes of weights are compared.
    """
    remedy = "restore it, or run fetch_backbone again" if manifest["path"] else "delete it and fetch the backbone again"
    for name, size in manifest["sizes"].items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            raise InputError(f"{folder / name}: missing or changed since fetch_backbone; {remedy}")
    names = [name for name in manifest["files"] if with_weights or _is_small(Path(name))]
    for name, digest in hashes(folder / name for name in names).items():
        if digest != manifest["files"][name]:
            raise InputError(f"{folder / name}: not the bytes that fetch_backbone recorded (sha256); {remedy}")


def check_against_hub(paths: Iterable[Path], digests: Mapping[str, str]) -> None:
    """Raise an InputError if a file in the hub's cache has not the hub's bytes; local files are not checked.

    The cache names each file by its hash on the hub: SHA-256 for a large file, else git's SHA-1. `digests` are SHA-256
    by file name, as far as they are known already.
    """
    for path in paths:
        blob = path.resolve()
        if blob.parent.name != "blobs":
            continue  # a local folder
        content = (digests.get(path.name) or sha256(blob)) if len(blob.name) == 64 else _git_sha1(blob)
        if content != blob.name:
            raise InputError(f"{blob}: not the bytes that the hub has of {path.name}; delete it and fetch again")


def _git_sha1(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _is_small(path: Path) -> bool:
    return any(path.match(pattern) for pattern in SMALL)


def _weight_map(folder: Path) -> dict[str, str]:
    weight_map = read_object(folder / INDEX).get("weight_map")
    if not weight_map or not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise InputError(f"{folder / INDEX}: has no `weight_map` from weights to files; fetch or copy it again")
    return weight_map


def _check_whole(folder: Path, names: list[str]) -> None:
    """Raise an InputError unless the safetensors files are whole, all of their series, and as the index says."""
    from safetensors import SafetensorError, safe_open

    counts = [int(match["count"]) for name in names if (match := _SHARD.fullmatch(name))]
    if counts and {len(names)} != {*counts}:
        raise InputError(f"{folder / INDEX}: names {len(names)} shards, {names[-1]} among them; fetch or copy it again")
    tensors = {}
    for name in names:
        refuse_pointer(folder / name)
        try:
            with safe_open(folder / name, framework="numpy") as file:
                tensors[name] = set(file.keys())
        except (SafetensorError, OSError) as error:
            why = " ".join(str(error).split())
            raise InputError(f"{folder / name}: cut short or damaged ({why}); fetch or copy it again") from error
    for key, name in _weight_map(folder).items() if names != [SINGLE] else ():
        if key not in tensors[name]:
            raise InputError(f"{folder / name}: has no {key}, though {INDEX} says so; fetch or copy both again")


def check_whole_gguf(path: Path) -> None:
    """Raise an InputError unless there is such a GGUF file, with its model's shape and all tensors that it lists.

    The library takes the shape of a 7B model where the header has none, and draws its weights.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such GGUF file")
    refuse_pointer(path)
    with reading(path, "if it is cut short or damaged, fetch or copy it again"):
        from gguf import GGUFReader

        fields = GGUFReader(path).fields  # maps each tensor, which fails where the file has ended before
        architecture = fields["general.architecture"].contents() if "general.architecture" in fields else "model"
    absent = [key for key in GGUF_SHAPE if f"{architecture}.{key}" not in fields]
    if absent:
        raise InputError(f"{path}: has no {architecture}.{absent[0]}, so no model's shape; take another file")


def _instead(folder: Path) -> str:
    """Returns, for the message about missing weights, what the folder has instead."""
    if any(folder.glob("consolidated*.safetensors")):
        return "; consolidated.safetensors is Mistral's own format, take the repository's model-*.safetensors"
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickled:
        return f"; pickled weights ({pickled[0]}) are refused, save them as safetensors"
    return "; weights in other formats, pickled ones among them, are neither fetched nor read"
