"""The files that a model is loaded from: which they are, whether they are whole, and whether they are still the same.

Weights are safetensors or GGUF, never pickled ones. In the hub's format they are `model.safetensors`, or the shards
that `model.safetensors.index.json` names. What else a repository holds is neither downloaded nor read: weights pickled
(`.bin`, `.pth`) or in other precisions, the same ones in Mistral's own format (`consolidated*`), and subfolders.
"""

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from early_exit.base.errors import InputError
from early_exit.base.records import read_json

SMALL = ("*.json", "*.model", "*.txt")  # configs, the index, the tokenizer
OTHERS = ("consolidated*", "*/*")
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
THREADS = 4  # that hash files; one does about 1 GB/s


def present(folder: Path, gguf: str | None) -> list[Path]:
    """All files of a folder that a model may be loaded from, sorted."""
    patterns = [gguf] if gguf else [*SMALL, "*.safetensors"]
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(path for path in found if gguf or not path.name.startswith("consolidated"))


def weights(folder: Path) -> list[str]:
    """Names of the files that hold the weights of a folder in the hub's format, whether they are there or not.

    A single file goes before shards, as in transformers. InputError if the index names anything but safetensors files
    beside it.
    """
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return [SINGLE]
    shards = sorted({*_weight_map(folder).values()})
    for name in shards:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"{folder / INDEX}: names '{name}', which is no safetensors file beside it")
    return shards


def collect(folder: Path, gguf: str | None = None) -> list[Path]:
    """The files that a model in `folder` is loaded from, sorted; InputError if one is missing or cut short."""
    if gguf:
        if not (folder / gguf).is_file():
            raise InputError(f"{folder / gguf}: no such GGUF file")
        return [folder / gguf]
    names = weights(folder)
    absent = [name for name in names if not (folder / name).is_file()]
    if absent == [SINGLE]:
        raise InputError(f"{folder}: no {SINGLE} and no {INDEX}{_instead(folder)}")
    if absent:
        raise InputError(f"{folder / absent[0]}: missing, though {INDEX} names it; fetch or copy it again")
    if not (folder / "tokenizer.json").is_file() and any(folder.glob("tokenizer.model*")):
        # transformers 5.23 reads the SentencePiece file of a Mistral without the space before a text's first word.
        raise InputError(f"{folder}: a tokenizer.model without tokenizer.json, which is what is read; add the latter")
    _check_whole(folder, names)
    return sorted({folder / name for name in names} | {path for path in present(folder, None) if _is_small(path)})


def hashes(paths: Iterable[Path]) -> dict[str, str]:
    """The SHA-256 of each file, by name."""
    paths = list(paths)
    with ThreadPoolExecutor(THREADS) as threads:
        return {path.name: digest for path, digest in zip(paths, threads.map(sha256, paths), strict=True)}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_unchanged(folder: Path, manifest: Mapping[str, Any], with_weights: bool = True) -> None:
    """InputError, which names the file, unless all files of a manifest are in `folder` with the bytes recorded.

    Every job that runs a model reads them all once more for that, some seconds for 7B parameters, and trusts no date of
    a file. Without `with_weights` weights are held to their sizes only.
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
    """InputError if a file of the hub's cache has other bytes than the hub says; `digests` are SHA-256, if known.

    The cache names a file by what the hub knows of it: the SHA-256 of a large one, else git's own SHA-1.
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
    found = read_json(folder / INDEX)
    found = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise InputError(f"{folder / INDEX}: has no `weight_map` from weights to files; fetch or copy it again")
    return found


def _check_whole(folder: Path, names: list[str]) -> None:
    """InputError unless each safetensors file is as long as its header says, and has what the index finds in it."""
    from safetensors import SafetensorError, safe_open

    held = {}
    for name in names:
        try:
            with safe_open(folder / name, framework="numpy") as file:
                held[name] = set(file.keys())
        except (SafetensorError, OSError) as error:
            why = " ".join(str(error).split())
            raise InputError(f"{folder / name}: cut short or damaged ({why}); fetch or copy it again") from error
    for key, name in _weight_map(folder).items() if names != [SINGLE] else ():
        if key not in held[name]:
            raise InputError(f"{folder / name}: has no {key}, though {INDEX} says so; fetch or copy both again")


def _instead(folder: Path) -> str:
    """What there is where the weights are missing."""
    if any(folder.glob("consolidated*.safetensors")):
        return "; consolidated.safetensors is Mistral's own format, take the repository's model-*.safetensors"
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickled:
        return f"; pickled weights ({pickled[0]}) are refused, save them as safetensors"
    return "; weights in other formats, pickled ones among them, are neither fetched nor read"
