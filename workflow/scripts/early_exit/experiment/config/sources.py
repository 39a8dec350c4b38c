"""Backbones, datasets and the corpus: what comes from a local path or from the hub."""

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, StringConstraints

from early_exit.base.records import read_json
from early_exit.costs import parts
from early_exit.experiment.config.entry import (
    Commit,
    Count,
    Dtype,
    Entry,
    Family,
    Natural,
    Positive,
    Problem,
    Unique,
    is_ascending,
    name_but,
    union_of,
)
from early_exit.sources import families, model_files
from early_exit.sources.readers import READERS

HUB_ID = r"[\w.-]+/[\w.-]+"
COMMIT = "[0-9a-f]{40}"
EXIT_FRACTIONS = (1 / 2, 5 / 8, 3 / 4, 7 / 8)  # of the depth (the paper's four exits)
CLOSE = 0.02  # share of the weights by which a number in the config may differ from the shapes': it may be rounded
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

Text = Annotated[str, StringConstraints(min_length=1)]


class Source(Entry):
    """Where a model or a data set lies. `path` follows from `source`: a local path, or None for the hub."""

    source: Text = Field(description="A local folder or file (relative to the repository), or a hub id (owner/name).")
    revision: Commit | None = Field(
        None,
        description="Commit of a hub source, 40 hex digits; null takes it from `revisions` or what `make pin` wrote.",
    )
    _path: str | None = PrivateAttr(None)

    @property
    def path(self) -> str | None:
        return self._path

    def locate(self, root: Path, revisions: Mapping[str, str]) -> Iterator[Problem]:
        """Set the path, and the revision of a hub source; yields what is wrong."""
        path = local_path(self.source, root)
        if path is None:
            self.revision = self.revision or revisions.get(self.source)
            if not re.fullmatch(HUB_ID, self.source):
                yield ("source",), self.source, "is neither an existing path nor a hub id (owner/name)"
            elif not re.fullmatch(COMMIT, self.revision or ""):
                here = f"is no commit of '{self.source}' on the hub (no such local path)"
                yield ("revision",), self.revision, f"{here}: run `make pin`, or give 40 hex digits"
        elif not path.exists():
            yield ("source",), self.source, f"does not exist (looked for {os.path.abspath(path)})"
        else:
            inside = Path(os.path.abspath(path)).is_relative_to(Path.cwd())
            self._path = os.path.relpath(path) if inside else os.path.abspath(path)
            self.source = os.path.expanduser(self.source)


class Backbone(Source):
    """One frozen language model."""

    gguf: Annotated[str, StringConstraints(pattern=r"\.gguf\z")] | None = Field(
        None, description="Name of a GGUF file in the source that holds weights and tokenizer; null means safetensors."
    )
    family: Family | None = Field(
        None, description="Kind of blocks; null reads it from the local folder's config.json."
    )
    depth: Annotated[Count, Field(ge=2)] | None = Field(
        None, description="Number of blocks; null reads it from the local folder's config.json."
    )
    parameters: Positive | None = Field(
        None, description="Number of its weights, to within 2 %; null computes it from the local folder's config.json."
    )
    exits: Annotated[list[Count], Field(min_length=1)] | None = Field(
        None,
        description="Blocks after which a token may leave, ascending; null means 1/2, 5/8, 3/4 and 7/8 of the depth.",
    )
    dtype: Dtype | None = Field(None, description="Number format of this backbone; null takes the top-level key.")
    batch_size: Count | None = Field(
        None, description="Rows that decode together at most, with this backbone; null takes the top-level key."
    )
    _window: int | None = PrivateAttr(None)

    @property
    def window(self) -> int | None:
        """Tokens of the longest sequence, where a local config.json says it."""
        return self._window

    @property
    def weight_bytes(self) -> float:
        """Size of the weights in memory."""
        return self.parameters * BYTES[self.dtype]

    @property
    def files(self) -> list[str]:
        """The files of a local backbone, which its manifest depends on; none for one on the hub."""
        return list(map(str, model_files.present(Path(self.path), self.gguf))) if self.path else []

    def complete(self, name: str) -> Iterator[Problem]:
        """Fill in family, depth, parameters and exits of the backbone `name`, from its config.json where it has one.

        Yields what is wrong; after the first problem the rest is not to be relied on.
        """
        facts: dict[str, Any] = {}
        if self.path:
            folder = Path(self.path)
            if not folder.is_dir():
                yield ("source",), self.source, "is a file; give its folder, and its name as `gguf` if it is one"
            if self.gguf and not (folder / self.gguf).is_file():
                yield ("gguf",), self.gguf, f"does not exist in {folder}"
            if (folder / "config.json").exists():
                facts = _facts(read_json(folder / "config.json"), f"backbones.{name}.source")
        for fact in ("family", "depth", "parameters"):
            real, given = facts.get(fact), getattr(self, fact)
            close = given == real or (fact == "parameters" and math.isclose(given or 0, real or 0, rel_tol=CLOSE))
            if real and given is not None and not close:
                yield (fact,), given, f"is not what config.json says: {real}"
            setattr(self, fact, real or given)
            self._window = facts.get("window")
            if not getattr(self, fact):
                yield (fact,), None, "cannot be read from a config.json in a local folder, so give it here"
        if self.exits is None:
            blocks = {math.ceil(self.depth * share) for share in EXIT_FRACTIONS}
            self.exits = sorted(n for n in blocks if n < self.depth)
        if not is_ascending(self.exits):
            yield ("exits",), self.exits, "must be ascending, without repeats"
        if self.exits[-1] >= self.depth:
            last = self.depth - 1
            yield ("exits",), self.exits[-1], f"is beyond the last exit, {last}: there are {self.depth} blocks"


class Splits(Entry):
    """The source's split for each role."""

    shots: str | None = Field("train", description="Where the questions before the question come from.")
    calibration: str | None = Field("validation", description="Where thresholds are chosen.")
    test: str | None = Field("test", description="What the results are measured on.")


class Examples(Entry):
    """How many questions to draw for each role."""

    calibration: Count | None = Field(
        100, description="Questions to choose thresholds on; null means all that the other roles leave."
    )
    test: Count | None = Field(100, description="Questions to measure on; null means all that the other roles leave.")


class Dataset(Source):
    """One question set; `kind` chooses its schema and metrics."""

    kind: str
    name: str | None = Field(
        None, description="The hub's name for the subset, such as rc.nocontext; null if there is only one."
    )
    splits: Splits = Field(
        default_factory=Splits,
        description="The source's split for each role; null means its only one. Roles never share a question.",
    )
    prompt: Literal["official", "lm-eval"] = Field(
        "official",
        description="Prompt text and stop strings: the plain form of this pipeline, or lm-evaluation-harness's task.",
    )
    shots: Natural = Field(0, description="Answered questions that the prompt begins with.")
    max_new_tokens: Count = Field(32, description="Longest answer in tokens.")
    examples: Examples = Field(default_factory=Examples, description="How many questions to draw for each role.")

    @property
    def files(self) -> list[str]:
        """The files of a local question set; none for one on the hub."""
        return data_files(self)


class TriviaQA(Dataset):
    """TriviaQA (Joshi et al. 2017), closed book."""

    kind: Literal["triviaqa"] = Field(description="TriviaQA: exact match and F1 over the aliases.")


class CoQA(Dataset):
    """CoQA (Reddy et al. 2019), conversations about a story."""

    kind: Literal["coqa"] = Field(description="CoQA: F1 and exact match, one human answer left out at a time.")
    turns: Literal["all", "last"] = Field(
        "all", description="Turns of a conversation that are asked; last is what lm-evaluation-harness does."
    )
    history: Literal["gold", "own"] = Field(
        "gold", description="Answers to the turns before that a prompt holds: the human ones, or the model's own."
    )


class TruthfulQA(Dataset):
    """TruthfulQA, generation (Lin et al. 2022)."""

    kind: Literal["truthfulqa"] = Field(description="TruthfulQA, generation: BLEU and ROUGE against both answer lists.")


class Corpus(Source):
    """The text that heads are distilled on."""

    name: str | None = Field(
        None, description="The hub's name for the subset, such as sample-10BT; null if there is only one."
    )
    split: str = Field("train", description="The hub's name for the split.")
    documents: Count = Field(1000, description="Documents to train on.")
    held_out: Count = Field(
        100, description="Further documents, kept from training, on which it is measured where predictions settle."
    )
    exclude: Annotated[list[str], Unique] = Field(
        default_factory=list,
        description="Ids of documents to pass over, such as those that hold an evaluated question.",
    )
    max_tokens: Annotated[Count, Field(ge=2)] = Field(
        4096, description="Tokens of a document that are read; the rest is cut off."
    )

    @property
    def files(self) -> list[str]:
        """The files of a local corpus; none for one on the hub."""
        return data_files(self)


QuestionSet = union_of(Dataset, "kind")
DatasetName = name_but("corpus")


def local_path(source: str, root: Path) -> Path | None:
    """Where a source lies; None for a hub id. What exists is local, and so is what is written like a path."""
    path = root / Path(source).expanduser()
    return path if path.exists() or source.startswith((".", "/", "~", "workflow/")) else None


def data_files(source: Source) -> list[str]:
    """The data files of a local source, sorted; none for one on the hub."""
    if not source.path:
        return []
    path = Path(source.path)
    return sorted(str(file) for file in (path.rglob("*") if path.is_dir() else [path]) if file.suffix in READERS)


def _facts(model: dict[str, Any], where: str) -> dict[str, Any]:
    """What a Hugging Face config says of the model: family, depth, parameters and window, if it has one.

    InputError if the model is not supported.
    """
    family = families.family(model, where)
    keys = ("max_position_embeddings", "sliding_window") if family == "transformer" else ()
    return {
        "family": family,
        "depth": model["num_hidden_layers"],
        "parameters": parts.parameters(model),
        "window": min(filter(None, map(model.get, keys)), default=None),
    }
