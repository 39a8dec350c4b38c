"""Without internet: `fetch` where the hub can be reached, all after it without, and what is said if something lacks.

The hub is one of our own on loopback; what runs after `fetch` runs in a network namespace that has no network at all.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

import hub
import small
from conftest import ROOT
from early_exit.base.errors import InputError
from early_exit.experiment import offline
from early_exit.experiment.config.sources import Backbone, Corpus, TriviaQA
from early_exit.sources import model_files, rows

TINY = ROOT / "workflow/resources/tiny"
REPOSITORIES = {"models/we/tiny": TINY / "transformer", "datasets/we/quiz": TINY / "triviaqa",
                "datasets/we/text": TINY / "corpus"}  # fmt: skip
AT = {"revision": hub.COMMIT}
MODEL = {"source": "we/tiny", "family": "transformer", "depth": 16, "parameters": 2_555_904} | AT
QUIZ = small.CONFIG["datasets"]["triviaqa"] | {"source": "we/quiz"} | AT
CONFIG = small.CONFIG | {
    "cache": "CACHE",
    "backbones": {"tiny-mamba": None, "tiny-transformer": MODEL},
    "datasets": small.CONFIG["datasets"] | {"triviaqa": QUIZ},
    "corpus": small.CONFIG["corpus"] | {"source": "we/text"} | AT,
    "policies": small.CONFIG["policies"] | {"calm-propagate": None},  # what opens a model opens it the same way
}
LOOK = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5)"


def config_in(folder: Path) -> dict:
    return CONFIG | {"cache": str(folder / "cache")}


def environment(folder: Path, url: str, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    return kept | {"HF_HOME": str(folder / "home"), "HF_ENDPOINT": url, **more}


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """A folder after `snakemake fetch`, and the hub that it fetched from."""
    folder = tmp_path_factory.mktemp("fetched")
    with hub.serve(REPOSITORIES) as server:
        small.run(folder, "fetch", config=config_in(folder), env=environment(folder, server.url))
        yield folder, server


def test_after_fetch_all_runs_without_a_network_on_what_local_sources_hold(fetched, tmp_path):
    folder, server = fetched
    before = small.unshared("--net")
    assert any("model.safetensors" in asked for asked in server.asked)
    reached = subprocess.run([*before, sys.executable, "-c", LOOK, str(server.server_port)], check=False,
                             capture_output=True)  # fmt: skip
    assert reached.returncode != 0  # not even loopback
    server.asked.clear()
    env = environment(folder, server.url, HF_HUB_OFFLINE="1")
    small.run(folder, "--cores", "2", before=before, config=config_in(folder), env=env)
    assert server.asked == [] and (folder / small.RESULTS / "report.html").exists()
    manifest = json.loads((folder / small.RESULTS / "backbones/tiny-transformer.json").read_text())
    assert (manifest["source"], manifest["revision"], manifest["path"]) == ("we/tiny", hub.COMMIT, None)
    assert manifest["files"]["model.safetensors"] == model_files.sha256(TINY / "transformer/model.safetensors")

    small.run(tmp_path, f"{small.RESULTS}/data/disjoint.json")
    for file in ("triviaqa.parquet", "corpus.parquet"):
        local, of_hub = (pd.read_parquet(place / small.RESULTS / "data" / file) for place in (tmp_path, folder))
        assert local.equals(of_hub)


def test_a_model_that_has_gone_from_the_cache_is_named_and_the_command_brings_it_back(fetched):
    folder, server = fetched
    run, settle = {"config": config_in(folder)}, ("--force", f"{small.RESULTS}/settle/tiny-transformer.csv")
    weights = next((folder / "cache/hub").glob("models--*/snapshots/*/model.safetensors"))
    weights.resolve().unlink()
    env = environment(folder, server.url)
    text = small.run(folder, *settle, fails=True, env=env, **run)
    assert "backbones.tiny-transformer: we/tiny at 0123456789ab" in text and "(model.safetensors)" in text
    assert "; fetch the backbone again" in text
    assert "Traceback" not in text
    text = small.run(folder, *settle, fails=True, env=environment(folder, server.url, HF_HUB_OFFLINE="1"), **run)
    assert f"  backbones.tiny-transformer: we/tiny at {hub.COMMIT[:12]}: model.safetensors\n" in text
    command = text.splitlines()[-1]
    assert command.endswith(f"--forcerun {small.RESULTS}/backbones/tiny-transformer.json")
    done = subprocess.run(
        f"{sys.executable} -m {command.strip()}", shell=True, env=env, capture_output=True, check=False
    )
    assert done.returncode == 0 and weights.resolve().stat().st_size > 0


def test_all_that_is_missing_is_named_before_the_first_job_with_the_command_that_fetches_it(tmp_path):
    env = environment(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="yes")
    text = small.run(tmp_path, fails=True, config=config_in(tmp_path), env=env)
    commit = hub.COMMIT[:12]
    assert f"Error: HF_HUB_OFFLINE is set, and this is not here (models: {tmp_path}/cache/hub):\n" in text
    for line in (
        f"backbones.tiny-transformer: we/tiny at {commit}: all of it",
        f"datasets.triviaqa: we/quiz at {commit}, of which results/small/data/triviaqa.parquet is made",
        f"corpus: we/text at {commit}, of which results/small/data/corpus.parquet is made",
    ):
        assert f"\n  {line}\n" in text
    assert text.splitlines()[-1] == (
        f"  snakemake --cores 4 fetch --snakefile {ROOT}/Snakefile --directory {tmp_path} --replace-workflow-config "
        f"--configfile {tmp_path}/user.yaml"
    )
    assert "Traceback" not in text and not (tmp_path / "results").exists()
    small.run(tmp_path, "--dry-run", config=config_in(tmp_path), env=env)  # looks at nothing, and no lock is left


# --- what counts as missing --------------------------------------------------------------------------------------

SPEC = Backbone(source="we/tiny", revision=hub.COMMIT)
OTHER_REVISION = Backbone(source="we/tiny", revision="f" * 40)


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """A whole snapshot in two shards in the hub's cache, as the hub's library lays it out; its folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--we--tiny/snapshots" / hub.COMMIT
    folder.mkdir(parents=True)
    blobs = tmp_path / "models--we--tiny/blobs"
    blobs.mkdir()
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}}
    files = {"config.json": "{}", "tokenizer.json": "{}", "one.safetensors": "1", "two.safetensors": "22",
             "model.safetensors.index.json": json.dumps(index)}  # fmt: skip
    for name, content in files.items():
        (blobs / name).write_text(content)
        (folder / name).symlink_to(f"../../blobs/{name}")
    return folder


def listing(snapshot: Path) -> None:
    """The hub's listing of the repository, which its library keeps, with a file that is not fetched."""
    sizes = {path.name: {"size": path.stat().st_size, "blob_id": ""} for path in snapshot.iterdir()}
    path = snapshot.parents[1] / "trees" / f"{hub.COMMIT}.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"format_version": 1, "files": sizes | {"README.md": {"size": 9, "blob_id": ""}}}))


def test_a_whole_snapshot_lacks_nothing(snapshot, tmp_path):
    assert offline.absent_files(SPEC, tmp_path / "none.json") == []
    listing(snapshot)
    assert offline.absent_files(SPEC, tmp_path / "none.json") == []
    assert offline.absent_files(OTHER_REVISION, tmp_path / "none.json") == ["all of it"]


def test_a_shard_that_is_gone_is_named_by_the_index(snapshot, tmp_path):
    (snapshot / "two.safetensors").resolve().unlink()
    assert offline.absent_files(SPEC, tmp_path / "none.json") == ["two.safetensors"]


def test_by_the_hubs_listing_any_file_and_its_size_count(snapshot, tmp_path):
    listing(snapshot)
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "two.safetensors").resolve().write_text("2")
    assert sorted(offline.absent_files(SPEC, tmp_path / "none.json")) == ["tokenizer.json", "two.safetensors"]


def test_by_the_manifest_its_own_files_count(snapshot, tmp_path):
    manifest = tmp_path / "tiny.json"
    manifest.write_text(json.dumps(SPEC.model_dump() | {"sizes": {"config.json": 2, "one.safetensors": 7}}))
    assert offline.absent_files(SPEC, manifest) == ["one.safetensors"]
    assert offline.absent_files(OTHER_REVISION, manifest) == ["all of it"]  # it is of another revision


def test_only_what_the_jobs_need_is_looked_for(snapshot, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    local, here = Backbone(source=str(tmp_path)), TriviaQA(kind="triviaqa", source=str(tmp_path))
    assert not [*local.locate(tmp_path, {}), *here.locate(tmp_path, {})]
    quiz = TriviaQA(kind="triviaqa", source="we/BigQuiz", revision=hub.COMMIT)
    experiment = SimpleNamespace(
        backbones={"a": SPEC, "b": Backbone(source="we/other", revision=hub.COMMIT), "c": local},
        datasets={"quiz": quiz, "here": here},
        corpus=Corpus(source="we/text", revision=hub.COMMIT),
    )

    def job(rule, **wildcards):
        script = f"../scripts/{rule.removesuffix('_seed').removesuffix('_full')}.py"
        return SimpleNamespace(rule=SimpleNamespace(name=rule, script=script), wildcards_dict=wildcards)

    def lines(*jobs):
        return [line.split(":")[0] for line in offline.missing(experiment, str(tmp_path), jobs)]

    scored = job("evaluate", backbone="b", dataset="quiz")
    assert lines(scored, job("answer", backbone="a"), job("answer_full", backbone="c")) == []
    assert lines(SimpleNamespace(rule=SimpleNamespace(name="all", script=None), wildcards_dict={})) == []
    for rule in ("answer", "train_heads_seed", "settle"):
        assert lines(job(rule, backbone="b")) == ["backbones.b"]
    assert lines(job("fetch_backbone", backbone="b"), job("fetch_corpus")) == ["backbones.b", "corpus"]
    fetch = job("fetch_dataset", dataset="quiz"), job("fetch_dataset", dataset="here")
    assert lines(*fetch) == ["datasets.quiz"]
    raw = tmp_path / "we___big_quiz/default/0.0.0" / hub.COMMIT
    raw.mkdir(parents=True)
    (raw / "dataset_info.json").write_text("{}")
    assert lines(*fetch) == []


def test_another_revision_in_the_cache_is_not_taken_for_the_one_asked_for(monkeypatch):
    """Out of reach of the hub, `datasets` gives what it read last, whatever its revision."""
    monkeypatch.setattr("datasets.load_dataset_builder", lambda *_, **__: SimpleNamespace(hash="f" * 40))
    source = rows.HubSource("datasets.quiz", "we/quiz", None, hub.COMMIT)
    with pytest.raises(InputError, match=f"^datasets.quiz: we/quiz at revision {hub.COMMIT} cannot be read .* ffff"):
        list(source.rows("test"))


# --- the cache and the command -----------------------------------------------------------------------------------


def test_the_cache_is_one_folder_for_models_and_data_and_leaves_the_token_where_it_is(monkeypatch):
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_XET_CACHE"):
        monkeypatch.setenv(name, "before")
    monkeypatch.setenv("HF_HOME", "home")
    offline.use(None, Path("/repository"))
    assert os.environ["HF_HUB_CACHE"] == "before"
    offline.use("cache", Path("/repository"))
    assert os.environ["HF_HUB_CACHE"] == "/repository/cache/hub" and os.environ["HF_HOME"] == "home"
    assert os.environ["HF_DATASETS_CACHE"] == "/repository/cache/datasets"


def test_the_command_repeats_what_the_user_said_of_the_config(monkeypatch):
    monkeypatch.chdir(ROOT)
    said = SimpleNamespace(replace_workflow_config=False, configfiles=[], config={"preset": "paper", "seed": 2})
    snakefile = str(ROOT / "Snakefile")
    assert offline.fetch_command(snakefile, None, said) == ("snakemake --cores 4 fetch --config preset=paper seed=2")
    said.config = {"thresholds": [0.5, 0.9], "backbones": {"a": None}}
    command = offline.fetch_command(snakefile, None, said)
    assert command.endswith("""--config 'thresholds=[0.5, 0.9]' 'backbones={"a": null}'""")
