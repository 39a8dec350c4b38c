"""The files of each split in a local dataset's folder: by its dataset card, else by file names, as on the hub.

A card (`README.md`) may name subsets and the files of each split, as it does in a copy of a repository. Without one,
files are directly in the folder, under `data/` or under the subset's name, and are called by their split
(`test.jsonl`), are shards of it (`test-00000-of-00002.parquet`), or have it as a word in their name
(`coqa_train.parquet`). A file whose name has no split belongs to `train`.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from early_exit.base.errors import InputError, hint

_SPLIT_FILE = re.compile(r"(?P<split>[A-Za-z]\w*)(-\d{5}-of-(?P<shards>\d{5})(-[0-9a-f]{16})?)?")
# The words in a file's name that the hub takes for a split.
_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}

Splits = dict[str, list[Path]]


def find(folder: Path, name: str | None, suffixes: Collection[str]) -> Splits:
    """Returns the data files of each split, which have one of `suffixes`; empty if the folder has none.

    `name` is the subset's. InputError if a split's shards are not one whole set, if the card has no such subset or is
    not as on the hub, or if the folder cannot be read.
    """
    try:
        found = _by_card(folder, name) or _by_names(folder, name, suffixes)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); make it readable") from error
    for split, place in ((split, place) for split, files in found.items() for place in {file.parent for file in files}):
        files = [file for file in found[split] if file.parent == place]
        matches = [match for file in files if (match := _SPLIT_FILE.fullmatch(file.stem))]
        if matches and {int(match["shards"] or 1) for match in matches} != {len(files)}:
            names = ", ".join(file.name for file in files)
            raise InputError(f"{place}: the files of split {split} are not one whole set: {names}")
    return found


def _by_card(folder: Path, name: str | None) -> Splits:
    """Returns the existing files that the card names for each split; empty without a card that names any."""
    card = folder / "README.md"
    try:
        subsets = dict(_subsets(card))
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{card}: `configs` is no list of subsets with `data_files`, as on the hub; correct it"
        ) from error
    if name is None:
        chosen = subsets.get("default") or (next(iter(subsets.values())) if len(subsets) == 1 else {})
    elif name in subsets or not subsets or (folder / name).is_dir():
        chosen = subsets.get(name, {})
    else:
        raise InputError(f"{folder}: its README.md has no subset '{name}'; {hint(name, list(subsets))}")
    found = {}
    for split, patterns in chosen.items():
        for pattern in patterns:
            if pattern.startswith("/") or ".." in Path(pattern).parts:
                raise InputError(f"{card}: '{pattern}' leads out of its folder")
        try:
            files = sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})
        except (ValueError, NotImplementedError) as error:
            raise InputError(f"{card}: {', '.join(patterns)} is no pattern of files ({error}); correct it") from error
        found |= {split: files} if files else {}
    return found


def _subsets(card: Path) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Yields the subsets of a card, each with the file patterns of its splits."""
    for subset in _front_matter(card).get("configs") or ():
        files, splits = subset.get("data_files", []), {}
        for entry in files if isinstance(files, list) else [files]:
            entry = entry if isinstance(entry, Mapping) else {"split": "train", "path": entry}
            paths = entry["path"] if isinstance(entry["path"], list) else [entry["path"]]
            splits.setdefault(str(entry["split"]), []).extend(map(str, paths))
        yield str(subset.get("config_name", "default")), splits


def _front_matter(card: Path) -> Mapping[str, Any]:
    """Returns the YAML between the two lines `---` at the top of a card; empty if there is none."""
    try:
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        match = re.match(r"---\s*\n(.*?\n)---\s*$", text, re.DOTALL | re.MULTILINE)
        content = yaml.safe_load(match[1]) if match else None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{card}: cannot be read ({' '.join(str(error).split())})") from error
    return content if isinstance(content, Mapping) else {}


def _by_names(folder: Path, name: str | None, suffixes: Collection[str]) -> Splits:
    if name and (folder / name).is_dir():
        folder = folder / name
    places = [place for place in (folder, folder / "data") if place.is_dir()]
    found: Splits = {}
    for file in sorted(file for place in places for file in place.iterdir() if file.suffix in suffixes):
        if not file.name.startswith((".", "dataset_info")):
            found.setdefault(_split(file.stem), []).append(file)
    return found


def _split(stem: str) -> str:
    """Returns the split that words of a file's name stand for, if it is one, else the whole name, else `train`."""
    match = _SPLIT_FILE.fullmatch(stem)
    bare = match["split"] if match else stem
    words = {_WORDS[word] for word in re.split(r"[-._ 0-9]+", bare) if word in _WORDS}
    if bare not in _WORDS and len(words) == 1:
        return words.pop()
    return match["split"] if match else "train"
