"""A run survives killed jobs, a killed Snakemake, a full disk, broken and missing files, and a second run beside it.

After each, no half-written file is taken for a whole one, the error names the file and what to do, and the resumed run
ends with the bytes of an undisturbed one, without repeating finished work.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

import small
from conftest import ROOT
from early_exit.base import records
from early_exit.base.errors import InputError
from early_exit.sources import manifests

HEADS = f"{small.HEADS}/heads.safetensors"
FULL, ANSWERS = f"{small.ANSWERS}/full/test.parquet", f"{small.ANSWERS}/exits/test.parquet"
SCORES = f"{small.RESULTS}/evaluated/tiny-transformer/triviaqa.parquet"
KEPT = f"{small.RESULTS}/kept/tiny-transformer/triviaqa/exits.jsonl"
LOG = f"{small.RESULTS}/logs/answer/tiny-transformer/triviaqa.log"
PRODUCTS = (HEADS, f"{small.HEADS}/training.csv", FULL, ANSWERS, SCORES)
TRAINING = ("early_exit.heads.training", "HeadTraining.train_on")
ANSWERING = ("early_exit.base.kept_answers", "KeptAnswers.add")
SCORING = ("early_exit.evaluation.scoring", "score_answer")
WAIT = 120  # seconds, for what takes a few


# --- an undisturbed run, and how others are disturbed ---------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A copy of the embedded Transformer, from which a test may remove files."""
    return Path(shutil.copytree(ROOT / "workflow/resources/tiny/transformer", tmp_path_factory.mktemp("model") / "m"))


@pytest.fixture(scope="module")
def config(model) -> dict:
    return small.CONFIG | {"backbones": {"tiny-mamba": None, "tiny-transformer": {"source": str(model)}}}


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> Path:
    """The folder of an undisturbed run, from the sources to the evaluated answers."""
    folder = tmp_path_factory.mktemp("whole")
    small.run(folder, SCORES, config=config)
    return folder


@pytest.fixture
def folder(whole, tmp_path_factory) -> Path:
    """A copy of the undisturbed run at the same depth in the file system, so that relative paths are the same."""
    path = tmp_path_factory.mktemp("again")
    shutil.copytree(whole, path, dirs_exist_ok=True)
    return path


def remove(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).unlink()


def assert_same(folder: Path, whole: Path) -> None:
    """Assert that all files have the bytes of the undisturbed run, and that no partial file is left."""
    for path in PRODUCTS:
        assert (folder / path).read_bytes() == (whole / path).read_bytes(), path
    assert list((folder / small.RESULTS).rglob("*.partial")) == []


def hook(folder: Path, module: str, function: str, call: int = 0, port: int = 0) -> dict[str, str]:
    """The environment in which jobs count their calls of a function and wait after one of them (see `interrupt`)."""
    paths = [str(ROOT / "tests/workflow/interrupt"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "INTERRUPT": f"{module} {function} {call} {port} {folder}/calls",
        "PYTHONPATH": os.pathsep.join(paths),
    }


def calls(folder: Path) -> int:
    """Returns how often jobs called the function since the last call of this."""
    path = folder / "calls"
    count = len(path.read_text().splitlines()) if path.exists() else 0
    path.unlink(missing_ok=True)
    return count


@contextmanager
def in_the_middle(folder: Path, target: str, module: str, function: str, call: int, **others):
    """Yields a run with a waiting job: its process `snakemake`, the id of `job`, `go_on()` and `said()`."""
    said = folder / "said.txt"
    with socket.create_server(("127.0.0.1", 0)) as server, said.open("w") as terminal:
        server.settimeout(0.2)
        env = hook(folder, module, function, call, server.getsockname()[1])
        with subprocess.Popen(
            small.command(folder, target, **others), stdout=terminal, stderr=subprocess.STDOUT, env=env
        ) as snakemake:
            connection = accept(server, snakemake, said)
            connection.settimeout(WAIT)

            def go_on():
                """Let the job go on; comes back when it has ended."""
                connection.sendall(b"1")
                assert connection.recv(1) == b""

            with connection, connection.makefile() as lines:
                job = int(lines.readline())
                yield SimpleNamespace(snakemake=snakemake, job=job, go_on=go_on, said=said.read_text)


def accept(server: socket.socket, snakemake: subprocess.Popen, said: Path) -> socket.socket:
    """Returns the connection of the waiting job; an error if the run ends before it waits."""
    for _ in range(5 * WAIT):
        try:
            return server.accept()[0]
        except TimeoutError:
            assert snakemake.poll() is None, said.read_text()
    raise AssertionError(said.read_text())


# --- killed ---------------------------------------------------------------------------------------------------------


def test_jobs_killed_in_the_middle_go_on_where_they_were(folder, whole, config):
    """First the training is killed, then the run that ends it, while it answers, and then a third while it scores."""
    remove(folder, HEADS, ANSWERS, KEPT, SCORES)
    for output, place, call in ((HEADS, TRAINING, 3), (ANSWERS, ANSWERING, 3), (SCORES, SCORING, 2)):
        with in_the_middle(folder, SCORES, *place, call, config=config) as run:
            os.kill(run.job, signal.SIGKILL)
            assert run.snakemake.wait(WAIT) != 0
        assert not (folder / output).exists()
        assert calls(folder) == call
    small.run(folder, SCORES, config=config)
    said = "".join(path.read_text() for path in (folder / small.RESULTS / "logs").rglob("*.log"))
    assert "going on after step 2 of" in said and "8 answers scored" in said
    assert "4 answers, of which 2 were computed now" in (folder / LOG).read_text()  # two had been written
    assert_same(folder, whole)


def test_snakemake_killed_while_its_job_lives_on(folder, whole, config):
    remove(folder, ANSWERS, KEPT, SCORES)
    with in_the_middle(folder, SCORES, *ANSWERING, 3, config=config) as run:
        text = small.run(folder, SCORES, fails=True, config=config)
        assert "Directory cannot be locked" in text and "--unlock" in text
        run.snakemake.kill()
        run.snakemake.wait(WAIT)
        small.run(folder, SCORES, "--unlock", config=config)
        assert not (folder / ANSWERS).exists() and (folder / KEPT).exists()
        run.go_on()
    assert calls(folder) == 4
    # Snakemake does not know that the job has ended well, and runs it again; no question is asked again.
    assert (folder / ANSWERS).read_bytes() == (whole / ANSWERS).read_bytes()
    small.run(folder, SCORES, config=config, env=hook(folder, *ANSWERING))
    assert calls(folder) == 0
    assert "4 answers, of which 0 were computed now" in (folder / LOG).read_text()
    assert_same(folder, whole)


def test_two_experiments_in_one_folder_at_once(folder, whole, config):
    """The run that ends first deletes Snakemake's locks of both; still only one process makes a file."""
    remove(folder, ANSWERS, KEPT, SCORES)
    with in_the_middle(folder, SCORES, *ANSWERING, 1, config=config) as run:
        small.run(folder, "results/other/data/triviaqa.parquet", config=config | {"name": "other"}, file="other.yaml")
        text = small.run(folder, SCORES, fails=True, config=config)
        assert f"Error in answer: {ANSWERS.replace('test', 'calibration')}: process {run.job} on " in text
        assert "started by another Snakemake" in text and "wait until it ends, or kill it, and run again" in text
        assert "Traceback" not in text
        run.go_on()
        assert run.snakemake.wait(WAIT) == 0, run.said()
    assert {path.name for path in (folder / "results/other").iterdir()} == {"data", "logs", "benchmarks"}
    assert_same(folder, whole)


# --- a full disk ----------------------------------------------------------------------------------------------------

FILLED = """
mount -t tmpfs -o size={size} none {place}
: >{place}/other # Snakemake removes empty folders
{run} >first.txt 2>&1 && exit 9
ls -A {place} >left.txt
mount -o remount,size=1m {place}
INTERRUPT='early_exit.base.kept_answers KeptAnswers.add 0 0 calls' PYTHONPATH={hook} {run} >second.txt 2>&1 || exit 8
cp -r {place} kept
"""


def test_a_disk_that_is_full_in_the_middle(folder, whole, config):
    """There is room for the kept answers, but not for the file of all."""
    before, place = small.unshared("--mount"), (folder / ANSWERS).parent
    remove(folder, KEPT, SCORES)
    shutil.rmtree(place)
    place.mkdir()
    run = shlex.join(small.command(folder, SCORES, config=config))
    script = FILLED.format(size="4k", place=place, run=run, hook=ROOT / "tests/workflow/interrupt")
    done = subprocess.run([*before, "sh", "-c", script], cwd=folder, check=False, capture_output=True, text=True)
    first = (folder / "first.txt").read_text()
    assert done.returncode == 0, (done, first, (folder / "second.txt").read_text())
    assert re.search(r"Error in answer: \S+/exits/\S+: no space left on device; free some", first)
    assert "Traceback" not in first
    assert (folder / "left.txt").read_text() == "other\n"
    assert calls(folder) == 0  # all four had been kept
    assert (folder / "kept/test.parquet").read_bytes() == (whole / ANSWERS).read_bytes()
    assert (folder / SCORES).read_bytes() == (whole / SCORES).read_bytes()


def fill(folder: Path) -> None:
    """Try every kind of writer on a full disk; to be run in a small file system of its own."""
    from early_exit.base import kept_answers, resume
    from early_exit.heads import store

    made = store.build({"kind": "calm", "normalise": "none"}, 64, [1], "calm")
    backbone = dict.fromkeys(("name", "source", "revision", "sha256")) | {"config": {"hidden_size": 64}}
    with pytest.raises(OSError, match="No space left"):
        (folder / "filler").write_bytes(bytes(30_000))
    frame, paths = pd.DataFrame({"key": [str(number) for number in range(3000)]}), []
    for name, write in {
        "table.parquet": lambda path: records.write_table(frame, path, records.pa.schema({"key": records.pa.string()})),
        "table.csv": lambda path: records.write_csv(frame, path),
        "value.json": lambda path: records.write_json(frame["key"].tolist(), path),
        "heads.safetensors": lambda path: store.save(made, {}, backbone, [1], {}, path.parent),
        "heads.partial": lambda path: resume.Checkpoint(path, "f", 0).save(made.state_dict()),
        "full.jsonl": lambda path: kept_answers.KeptAnswers(path, [], [], 1).add("k", {"text": "f" * 9000}),
    }.items():
        with pytest.raises(InputError, match=f"{name}: no space left on device; free some .* and run again$"):
            write(folder / name)
        paths.append(name)
    left = sorted(path.name for path in folder.iterdir() if path.stat().st_size)
    print(len(paths), *left)


def test_every_writer_says_that_the_disk_is_full_and_leaves_nothing_half_written(tmp_path):
    paths = [str(ROOT / path) for path in ("tests/workflow", "tests", "workflow/scripts")]
    code = f"import sys; sys.path[:0] = {paths}; from test_interruptions import *; fill(Path({str(tmp_path)!r}))"
    script = f"mount -t tmpfs -o size=24k none {tmp_path} && exec {shlex.join([sys.executable, '-c', code])}"
    done = subprocess.run([*small.unshared("--mount"), "sh", "-c", script], check=False, capture_output=True, text=True)
    assert done.stdout.split() == ["6", "filler"], done.stderr


# --- broken and missing files ---------------------------------------------------------------------------------------


def written(kind: str, path: Path) -> None:
    frame = pd.DataFrame({"key": ["a", "b"], "value": [0.5, 1.5]})
    if kind == "parquet":
        schema = records.pa.schema({"key": records.pa.string(), "value": records.pa.float64()})
        records.write_table(frame, path, schema)
    elif kind == "csv":
        records.write_csv(frame, path)
    else:
        records.write_json(frame.to_dict(), path)


READ = {"parquet": records.read_metadata, "csv": records.read_csv, "json": records.read_json}


@pytest.mark.parametrize("kind", READ)
def test_a_hand_over_file_cut_or_flipped_anywhere_is_refused_by_name(kind, tmp_path):
    path = tmp_path / f"file.{kind}"
    written(kind, path)
    content = path.read_bytes()
    READ[kind](path)
    cut = [content[:end] for end in range(len(content))]
    flipped = [content[:k] + bytes([content[k] ^ 1]) + content[k + 1 :] for k in range(len(content))]
    for broken in (*cut, *flipped, content + b"\n"):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=f"^{path}: cannot be read .*; delete it and run again$"):
            READ[kind](path)
    written(kind, path)
    assert path.read_bytes() == content and READ[kind](path) is not None
    path.unlink()
    with pytest.raises(InputError, match=f"^{path}: cannot be read .No such file"):
        READ[kind](path)


def test_a_broken_hand_over_file_stops_the_job_that_reads_it(folder, whole, config):
    remove(folder, SCORES)
    content = (folder / ANSWERS).read_bytes()
    middle = len(content) // 2
    (folder / ANSWERS).write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    text = small.run(folder, SCORES, fails=True, config=config)
    assert f"Error in evaluate: {ANSWERS}: cannot be read" in text and "delete it and run again" in text
    assert "Traceback" not in text and not (folder / SCORES).exists()
    remove(folder, ANSWERS)
    small.run(folder, SCORES, config=config)
    assert_same(folder, whole)


def test_missing_model_files_are_named_before_the_first_job(folder, whole, config, model):
    remove(folder, SCORES)
    away = [(model / name).rename(model.parent / name) for name in ("model.safetensors", "tokenizer.json")]
    text = small.run(folder, SCORES, fails=True, config=config)
    assert (
        f"Error: backbones.tiny-transformer: {model}/model.safetensors, {model}/tokenizer.json: missing; put it back, "
        f"or delete {small.RESULTS}/backbones/tiny-transformer.json if the model is whole without"
    ) in text
    assert "Traceback" not in text
    for path in away:
        path.rename(model / path.name)
    text = small.run(folder, SCORES, config=config)
    assert "1 of 1 steps" in text  # nothing but what had been taken away
    assert_same(folder, whole)


def test_a_model_without_its_config_is_refused_when_it_is_fetched(tmp_path, model):
    """Missing shards, and those cut short, are in test_formats."""
    folder = shutil.copytree(model, tmp_path / "model")
    remove(folder, "config.json")
    with pytest.raises(InputError, match=f"^backbones.m: {folder}/config.json: missing; put it there"):
        manifests.describe("m", {"source": "m"}, folder, None)
