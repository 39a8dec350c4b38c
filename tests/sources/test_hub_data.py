"""The presets' data in the hub's own schemas and folders, read as the presets say, here and through the hub's library.

Columns, types, file names and dataset cards are those that the hub's pages show; rows are invented.
"""

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import datasets as hugging_face
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import hub
from conftest import ROOT
from early_exit.base.errors import InputError
from early_exit.data import datasets, questions
from early_exit.data.corpus import load_corpus
from early_exit.experiment.config.load import load as load_config
from early_exit.sources import readers, rows

COMMIT = "c" * 40
IDS = ("HuggingFaceTB/SmolLM2-135M", "AntonV/mamba2-130m-hf", "mistralai/Mistral-7B-v0.3",
       "mistralai/Mamba-Codestral-7B-v0.1", "mandarjoshi/trivia_qa", "EleutherAI/coqa", "truthfulqa/truthful_qa",
       "HuggingFaceFW/fineweb-edu")  # fmt: skip
TEXTS, NUMBERS = pa.list_(pa.string()), pa.list_(pa.int32())
TURNS = pa.struct({"input_text": TEXTS, "turn_id": NUMBERS})
SPANS = pa.struct({"span_start": NUMBERS, "span_end": NUMBERS, "span_text": TEXTS, "input_text": TEXTS,
                   "turn_id": NUMBERS})  # fmt: skip
SCHEMAS = {
    "triviaqa": pa.schema({
        "question": pa.string(), "question_id": pa.string(), "question_source": pa.string(),
        "entity_pages": pa.struct(dict.fromkeys(("doc_source", "filename", "title", "wiki_context"), TEXTS)),
        "search_results": pa.struct({"description": TEXTS, "filename": TEXTS, "rank": NUMBERS, "title": TEXTS,
                                     "url": TEXTS, "search_context": TEXTS}),
        "answer": pa.struct({"aliases": TEXTS, "normalized_aliases": TEXTS, "matched_wiki_entity_name": pa.string(),
                             "normalized_matched_wiki_entity_name": pa.string(), "normalized_value": pa.string(),
                             "type": pa.string(), "value": pa.string()}),
    }),
    "coqa": pa.schema({
        "id": pa.string(), "source": pa.string(), "story": pa.string(), "questions": TURNS, "answers": SPANS,
        "additional_answers": pa.struct(dict.fromkeys("012", SPANS)),
    }),
    "stanford": pa.schema({
        "source": pa.string(), "story": pa.string(), "questions": TEXTS,
        "answers": pa.struct({"input_text": TEXTS, "answer_start": NUMBERS, "answer_end": NUMBERS}),
    }),
    "truthfulqa": pa.schema({
        "type": pa.string(), "category": pa.string(), "question": pa.string(), "best_answer": pa.string(),
        "correct_answers": TEXTS, "incorrect_answers": TEXTS, "source": pa.string(),
    }),
    "corpus": pa.schema({
        "text": pa.string(), "id": pa.string(), "dump": pa.string(), "url": pa.string(), "file_path": pa.string(),
        "language": pa.string(), "language_score": pa.float64(), "token_count": pa.int64(), "score": pa.float64(),
        "int_score": pa.int64(),
    }),
}  # fmt: skip


def trivia(split, number):
    """The hub's test split has no answers; rc.nocontext has no pages and no search results."""
    known = split != "test"
    value = f"Value {number}" if known else "<unk>"
    return {
        "question": f"Which {split} is {number}?",
        "question_id": f"{split}_{number}",
        "question_source": "http://x/",
        "entity_pages": {key: [] for key in ("doc_source", "filename", "title", "wiki_context")},
        "search_results": {key: [] for key in ("description", "filename", "rank", "title", "url", "search_context")},
        "answer": {
            "aliases": [value, f"No. {number}"] if known else [],
            "normalized_aliases": [value.lower(), f"no {number}"] if known else [],
            "matched_wiki_entity_name": "",
            "normalized_matched_wiki_entity_name": "",
            "normalized_value": value.lower(),
            "type": "WikipediaEntity" if known else "",
            "value": value,
        },
    }


def spans(texts, first=1):
    return {
        "span_start": [0] * len(texts),
        "span_end": [1] * len(texts),
        "span_text": texts,
        "input_text": texts,
        "turn_id": list(range(first, first + len(texts))),
    }


def coqa(split, number, turns=3):
    """Only the validation split has additional answers; in train each is one blank text, numbered -1."""
    asked = [f"Why {turn}?" for turn in range(turns)]
    more = {
        key: spans([f"more{key} {t}" for t in range(turns)]) if split == "validation" else spans([""], -1)
        for key in "012"
    }
    return {
        "id": f"{split}{number}",
        "source": "cnn",
        "story": f"A story, {split} {number}.",
        "questions": {"input_text": asked, "turn_id": list(range(1, turns + 1))},
        "answers": spans([f"gold {t}" for t in range(turns)]),
        "additional_answers": more,
    }


def stanford(split, number):
    row = coqa(split, number)
    answers = {"input_text": row["answers"]["input_text"], "answer_start": [0] * 3, "answer_end": [1] * 3}
    return {"source": "cnn", "story": row["story"], "questions": row["questions"]["input_text"], "answers": answers}


def truth(split, number):
    return {
        "type": "Adversarial",
        "category": "Law",
        "question": f"Is {number} legal?",
        "best_answer": f"No {number}",
        "correct_answers": [f"No {number}", "No"],
        "incorrect_answers": ["Yes"],
        "source": "http://x",
    }


def document(split, number):
    return {
        "text": f"Document {number}.",
        "id": f"<urn:uuid:{number}>",
        "dump": "CC-MAIN-2024-10",
        "url": "http://x",
        "file_path": "s3://x",
        "language": "en",
        "language_score": 0.9,
        "token_count": 4,
        "score": 3.1,
        "int_score": 3,
    }


def subset(name, **splits):
    return {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in splits.items()]}


def write(folder, schema, make, files, card=None):
    """Parquet files {path: (split, numbers of rows)} and a dataset card that names subsets."""
    for path, (split, numbers) in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([make(split, n) for n in numbers], schema=SCHEMAS[schema]), file)
    head = yaml.safe_dump({"license": "other", **({"configs": card} if card else {})})
    (folder / "README.md").write_text(f"---\n{head}---\n\n# A dataset\n\n---\n", encoding="utf-8")
    return folder


def write_triviaqa(folder):
    """`rc` has each question twice, from the web and from Wikipedia; the test split has no answers."""
    files = {
        f"{name}/{split}-00000-of-00001.parquet": (split, [*range(first, first + 8), first])
        for name in ("rc.nocontext", "rc.web.nocontext")
        for split, first in (("train", 0), ("validation", 20), ("test", 40))
    }
    parts = {split: f"{{}}/{split}-*" for split in ("train", "validation", "test")}
    card = [
        subset(name, **{split: path.format(name) for split, path in parts.items()})
        for name in ("rc.nocontext", "rc.web.nocontext")
    ]
    return write(folder, "triviaqa", trivia, files, card)


def write_coqa(folder):
    """No card with subsets, but the features and sizes from when a script made the rows."""
    write(
        folder,
        "coqa",
        coqa,
        {"coqa_train.parquet": ("train", range(9)), "coqa_validation.parquet": ("validation", range(20, 26))},
    )
    value = {"dtype": "string", "id": None, "_type": "Value"}
    number = {"dtype": "int32", "id": None, "_type": "Value"}

    def sequence(**features):
        return {"feature": features, "length": -1, "id": None, "_type": "Sequence"}

    said = sequence(span_start=number, span_end=number, span_text=value, input_text=value, turn_id=number)
    features = {
        "id": value,
        "source": value,
        "story": value,
        "questions": sequence(input_text=value, turn_id=number),
        "answers": said,
        "additional_answers": dict.fromkeys("012", said),
    }
    sizes = {
        split: {"name": split, "num_bytes": 1000, "num_examples": n, "dataset_name": "coqa"}
        for split, n in (("train", 9), ("validation", 6))
    }
    infos = {
        "coqa": {
            "description": "",
            "citation": "",
            "homepage": "",
            "license": "",
            "features": features,
            "builder_name": "coqa",
            "config_name": "coqa",
            "splits": sizes,
            "download_size": 1,
            "dataset_size": 1,
        }
    }
    (folder / "dataset_infos.json").write_text(json.dumps(infos), encoding="utf-8")
    return folder


def write_stanford(folder):
    files = {f"data/{split}-00000-of-00001.parquet": (split, range(6)) for split in ("train", "validation")}
    return write(
        folder, "stanford", stanford, files, [subset("default", train="data/train-*", validation="data/validation-*")]
    )


def write_truthfulqa(folder):
    write(
        folder,
        "truthfulqa",
        truth,
        {
            "generation/validation-00000-of-00001.parquet": ("validation", range(9)),
            "multiple_choice/validation-00000-of-00001.parquet": ("validation", [0]),
        },
        [
            subset("generation", validation="generation/validation-*"),
            subset("multiple_choice", validation="multiple_choice/validation-*"),
        ],
    )
    return folder


def write_corpus(folder):
    """A sample in shards without a number of shards in their names, beside the whole dump."""
    files = {f"sample/10BT/{shard:03}_00000.parquet": ("train", range(9 * shard, 9 * shard + 9)) for shard in range(2)}
    files |= {"data/CC-MAIN-2024-10/train-00000-of-00014.parquet": ("train", range(900, 905))}
    card = [
        subset("default", train="data/*/*"),
        subset("sample-10BT", train="sample/10BT/*"),
        subset("CC-MAIN-2024-10", train="data/CC-MAIN-2024-10/*"),
    ]
    return write(folder, "corpus", document, files, card)


WRITERS = {"triviaqa": write_triviaqa, "coqa": write_coqa, "truthfulqa": write_truthfulqa, "corpus": write_corpus}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(params=["small", "paper"])
def preset(request):
    return load_config({"preset": request.param, "revisions": dict.fromkeys(IDS, COMMIT)}, ROOT)


def through_the_hub(monkeypatch, folder):
    """For every hub id the hub's library reads `folder` instead."""
    real = hugging_face.load_dataset_builder
    asked = []

    def load(source, name, *, revision, **options):
        asked.append((source, revision))
        builder = real(str(folder), name, **options)
        builder.hash = revision  # as of a dataset on the hub
        return builder

    monkeypatch.setattr(hugging_face, "load_dataset_builder", load)
    return asked


@pytest.mark.parametrize("kind", ["triviaqa", "coqa", "truthfulqa"])
def test_the_presets_questions_are_read_from_the_hub_and_from_a_copy_of_its_folder(kind, preset, tmp_path, monkeypatch):
    folder = WRITERS[kind](tmp_path / kind)
    spec = preset.datasets[kind].model_dump() | {"examples": {"calibration": 3, "test": 4}}
    asked = through_the_hub(monkeypatch, folder)
    here = datasets.load(kind, spec | {"source": str(folder)}, seed=1)
    there = datasets.load(kind, spec, seed=1)
    pd.testing.assert_frame_equal(here, there)
    assert here["split"].value_counts().to_dict() == {"test": 4, "calibration": 3}
    assert {source for source, _ in asked} == {spec["source"]} and {revision for _, revision in asked} == {COMMIT}


def test_coqa_has_four_human_answers_to_score_against_and_one_to_calibrate_on(preset, tmp_path):
    folder = write_coqa(tmp_path / "coqa")
    spec = preset.datasets["coqa"].model_dump() | {"source": str(folder), "examples": {"calibration": 6, "test": 6}}
    frame = datasets.load("coqa", spec, seed=1).groupby("split")["references"]
    assert frame.apply(lambda rows: set(map(len, rows))).to_dict() == {"calibration": {1}, "test": {4}}
    assert datasets.load("coqa", spec, seed=1).query("split == 'test'")["references"].iloc[0][0].startswith("gold ")


def test_stanfords_coqa_has_one_answer_per_turn(preset, tmp_path):
    folder = write_stanford(tmp_path / "coqa")
    spec = preset.datasets["coqa"].model_dump() | {"source": str(folder), "examples": {"calibration": 3, "test": 3}}
    assert set(datasets.load("coqa", spec, seed=1)["references"].map(len)) == {1}


def test_triviaqas_test_split_without_answers_is_refused(preset, tmp_path):
    folder = write_triviaqa(tmp_path / "trivia")
    spec = preset.datasets["triviaqa"].model_dump() | {"source": str(folder), "examples": {"calibration": 1, "test": 2}}
    splits = spec["splits"] | {"test": "test"}
    with pytest.raises(InputError, match="has no reference answer; take another split"):
        datasets.load("t", spec | {"splits": splits}, seed=1)


def test_the_presets_corpus_is_read_from_the_hub_and_from_a_copy_of_its_folder(preset, tmp_path, monkeypatch):
    folder = write_corpus(tmp_path / "corpus")
    through_the_hub(monkeypatch, folder)
    spec = preset.corpus.model_dump() | {"documents": 10, "held_out": 2}
    here = load_corpus(spec | {"source": str(folder)}, seed=1)
    pd.testing.assert_frame_equal(here, load_corpus(spec, seed=1))
    assert here["text"].tolist() == [f"Document {n}." for n in range(12)]  # across both shards, of the sample alone


@pytest.mark.parametrize("streaming", [False, True])
def test_the_librarys_rows_are_those_of_the_files(tmp_path, streaming):
    for kind, name, split in (
        ("triviaqa", "rc.nocontext", "train"),
        ("coqa", None, "train"),
        ("coqa", None, "validation"),
        ("truthfulqa", "generation", "validation"),
    ):
        folder = WRITERS[kind](tmp_path / f"{kind}-{split}")
        hub = rows.HubSource("k", str(folder), name, None)
        local = rows.LocalSource("k", "folder", folder, name)
        there = questions.read_examples(kind, hub.rows(split, streaming))
        assert there == questions.read_examples(kind, local.rows(split)) and there


# --- streamed Parquet

READ = """
import json, sys
from early_exit.data.corpus import load_corpus
frame = load_corpus(json.loads(sys.argv[1]), seed=1)
frame[["document_id", "text"]].to_json(sys.argv[2])
"""


@pytest.mark.slow
def test_parquet_on_the_hub_is_streamed_and_the_reading_process_ends_well(tmp_path):
    """A process of its own: read by `datasets`, it sometimes aborts at its end. The second file is not touched."""
    folder = write_corpus(tmp_path / "corpus")
    spec = {"source": "we/web", "name": "sample-10BT", "revision": hub.COMMIT, "split": "train", "held_out": 1}
    path = [str(ROOT / "workflow/scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    with hub.serve({"datasets/we/web": folder}) as server:
        env |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": server.url, "PYTHONPATH": os.pathsep.join(path)}
        for documents, files in ((5, 1), (15, 2)):
            server.asked.clear()
            command = [sys.executable, "-c", READ, json.dumps(spec | {"documents": documents}), str(tmp_path / "read")]
            run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            assert run.returncode == 0, run.stderr
            read = {
                asked.rpartition("/")[2] for asked in server.asked if asked.startswith("GET") and "resolve" in asked
            }
            assert len([name for name in read if name.endswith(".parquet")]) == files
            here = load_corpus(spec | {"source": str(folder), "documents": documents}, seed=1)
            assert pd.read_json(tmp_path / "read").equals(here[["document_id", "text"]])


class CountingFile(io.FileIO):
    """A file that counts the bytes read from it."""

    count = 0

    def read(self, size=-1):
        data = super().read(size)
        self.count += len(data)
        return data


def test_only_the_row_groups_that_are_needed_are_read(tmp_path):
    numbers = random.Random(0)
    texts = [f"{numbers.getrandbits(80_000):x}" for _ in range(40)]  # which no compression makes smaller
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=10)
    size = (tmp_path / "a.parquet").stat().st_size
    with CountingFile(tmp_path / "a.parquet") as file:
        found = readers.parquet_rows(pq.ParquetFile(file, pre_buffer=False), "f", 5)
        first = next(found)
        assert first == ("f, row 5", {"text": texts[0]}) and file.count < size / 2.5
        assert [row.values["text"] for row in found] == texts[1:] and file.count >= size


# --- how a folder's files are told apart


def files_of(folder: Path, name=None) -> dict[str, list[str]]:
    found = rows.LocalSource("k", "folder", folder, name).files
    return {split: [file.relative_to(folder).as_posix() for file in files] for split, files in found.items()}


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("coqa_train.parquet", "train"), ("coqa-dev-v1.0.json", "validation"), ("my.test.jsonl", "test"),
        ("triviaqa-validation.jsonl", "validation"), ("dev.jsonl", "dev"), ("other.jsonl", "other"),
        ("000_00000.parquet", "train"), ("train_or_test.csv", "train_or_test"), ("trains.csv", "trains"),
    ],
)  # fmt: skip
def test_a_split_is_a_word_in_a_files_name(file, split, tmp_path):
    (tmp_path / file).touch()
    assert files_of(tmp_path) == {split: [file]}


def test_a_card_says_which_files_are_a_subset(tmp_path):
    folder = write_corpus(tmp_path)
    sample = [f"sample/10BT/{shard:03}_00000.parquet" for shard in range(2)]
    assert files_of(folder, "sample-10BT") == {"train": sample}
    (folder / "README.md").unlink()
    with pytest.raises(InputError, match=r"nor in its folder sample-10BT, nor by a README\.md that names any"):
        files_of(folder, "sample-10BT")
    assert files_of(folder / "sample/10BT") == {"train": [Path(file).name for file in sample]}


def test_a_card_without_the_subset_names_those_that_it_has(tmp_path):
    with pytest.raises(InputError, match=r"its README.md has no subset 'sample-10B'; did you mean 'sample-10BT'\?"):
        files_of(write_corpus(tmp_path), "sample-10B")


def test_a_missing_shard_of_a_card_is_refused(tmp_path):
    with pytest.raises(InputError, match="the files of split train are not one whole set: train-00000-of-00014"):
        files_of(write_corpus(tmp_path))  # of the whole dump


@pytest.mark.parametrize(
    ("card", "why"),
    [
        ([subset("default", train="../other/*")], r"'\.\./other/\*' leads out of its folder"),
        ([subset("default", train="/etc/*")], r"'/etc/\*' leads out of its folder"),
    ],
)
def test_a_card_cannot_name_files_outside_its_folder(card, why, tmp_path):
    with pytest.raises(InputError, match=why):
        files_of(write(tmp_path, "corpus", document, {"a.parquet": ("train", [1])}, card))


@pytest.mark.parametrize(
    ("configs", "why"),
    [
        (3, "`configs` is no list of subsets with `data_files`, as on the hub; correct it"),
        (["default"], "`configs` is no list of subsets"),
        ([{"data_files": [{"split": "train"}]}], "`configs` is no list of subsets"),
        ([{"data_files": [{"path": "a.parquet"}]}], "`configs` is no list of subsets"),
        ([{"data_files": 3}], "3 is no pattern of files|no .* file in"),
        ([{"data_files": ""}], "is no pattern of files"),
        ([{"data_files": "a**b"}], "is no pattern of files|no .* file in"),
    ],
)
def test_a_card_that_names_files_in_another_way_is_refused(configs, why, tmp_path):
    with pytest.raises(InputError, match=why) as caught:
        files_of(write(tmp_path, "corpus", document, {"x/y/a.parquet": ("train", [1])}, configs))
    assert "\n" not in str(caught.value)


def test_a_card_may_be_short_or_name_one_pattern(tmp_path):
    folder = write(
        tmp_path,
        "corpus",
        document,
        {"a/b.parquet": ("train", [1]), "c.parquet": ("train", [2])},
        [{"config_name": "one", "data_files": "a/*"}],
    )
    assert files_of(folder) == files_of(folder, "one") == {"train": ["a/b.parquet"]}
    (folder / "README.md").write_text("# No front matter\n")
    assert files_of(folder) == {"c": ["c.parquet"]}
    (folder / "README.md").write_text("---\na: [\n---\n")
    with pytest.raises(InputError, match=r"README\.md: cannot be read \("):
        files_of(folder)
