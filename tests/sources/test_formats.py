"""Models in the formats that the presets' models have on the hub: downloading, loading, refusing, generating."""

import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import pandas as pd
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from conftest import ROOT
from early_exit.base import records
from early_exit.base.errors import InputError
from early_exit.base.records import read_json
from early_exit.costs import passes
from early_exit.data import prompts, questions
from early_exit.data.conversations import Prompt, Rounds
from early_exit.decoding import answer, memory, stopping
from early_exit.decoding.batch import Decoder
from early_exit.decoding.run_parts import RunPart
from early_exit.models import loading
from early_exit.sources import manifests, model_files
from hub_files import (
    CODESTRAL,
    COMMIT,
    CONFIGS,
    MISTRAL,
    TOKENIZER,
    TOKENIZER_SHA256,
    add_to_cache,
    save_model,
    save_tokenizer,
    tokenizer_file,
    write_json,
)

SOURCES = {"mistral": "mistralai/Mistral-7B-v0.3", "codestral": "mistralai/Mamba-Codestral-7B-v0.1",
           "mamba2-130m": "AntonV/mamba2-130m-hf"}  # fmt: skip
SETTINGS = {"seed": 1, "device": "cpu", "dtype": "float32", "threads": 1, "batch_size": 4, "memory": "auto"}
TEXTS = [
    prompts.triviaqa([("Who?", "Me")], "Which “range”?"), prompts.coqa("A  story.\n\tTwo lines.", [], "Why?"),
    prompts.truthfulqa([], "Naïve 漢字 🙂?"), "", "x", "a b  c   d", "1,234.5", "def f(x):\n    return x\n",
]  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A function that returns a model's folder without a tokenizer, the same one each time: copy it to change it."""
    made = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = save_model(name, tmp_path_factory.mktemp(name))
        return made[name]

    return make


@pytest.fixture(scope="module")
def mistral_tokenizer(tmp_path_factory):
    """The tokenizer's files as the hub has them, and SentencePiece's own tokenizer."""
    source = tokenizer_file()
    if source is None:
        pytest.skip(f"no {TOKENIZER}: it is in the wheel of mistral-common 1.13.1 (see the Makefile)")
    assert model_files.sha256(source) == TOKENIZER_SHA256
    folder = tmp_path_factory.mktemp("tokenizer")
    return folder, save_tokenizer(folder, source)


@pytest.fixture(scope="module", params=["mistral", "codestral"])
def whole(request, plain, mistral_tokenizer, tmp_path_factory):
    """A repository's files, its manifest, and SentencePiece's own tokenizer."""
    folder = copy(plain(request.param), tmp_path_factory.mktemp("whole"))
    shutil.copytree(mistral_tokenizer[0], folder, dirs_exist_ok=True)
    return request.param, folder, describe(folder), mistral_tokenizer[1]


def copy(folder: Path, parent: Path) -> Path:
    return Path(shutil.copytree(folder, parent / "model"))


def describe(folder: Path, **keys):
    return manifests.describe("m", {"source": str(folder), **keys}, folder, str(folder))


def load(manifest, dtype=torch.float32):
    return loading.load(manifest, torch.device("cpu"), dtype)


def message(run) -> str:
    with pytest.raises(InputError) as caught:
        run()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the files that belong to a model


def test_the_weights_are_in_shards_and_each_file_is_taken_once(plain):
    for name, folder in ((name, plain(name)) for name in ("mistral", "codestral")):
        manifest = describe(folder)
        shards = sorted(file for file in manifest["files"] if file.endswith(".safetensors"))
        assert len(shards) > 1 and shards == [
            f"model-{k + 1:05}-of-{len(shards):05}.safetensors" for k in range(len(shards))
        ]
        assert (folder / "consolidated.safetensors").is_file() and "consolidated.safetensors" not in manifest["files"]
        assert {"config.json", "generation_config.json", "model.safetensors.index.json"} < manifest["files"].keys()
        assert (manifest["dtype"], manifest["depth"]) == ("bfloat16", 4)
        assert all(tensor.dtype == torch.bfloat16 for shard in shards for tensor in load_file(folder / shard).values())
        assert manifest["family"] == ("transformer" if name == "mistral" else "mamba")


@pytest.mark.parametrize("name", CONFIGS)
def test_our_logits_equal_the_librarys(name, plain):
    """In float32 up to rounding, in bfloat16, the paper's format, up to that format's precision."""
    folder = plain(name)
    tokens = torch.arange(3, 27).reshape(2, 12) * 29 % CONFIGS[name]["vocab_size"] % 768
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        backbone = load(describe(folder), dtype)
        ours = backbone.logits(backbone.run_prompt(tokens)[0])
        library = type(backbone.model).from_pretrained(folder, dtype=dtype).eval()
        with torch.inference_mode():
            theirs = library(tokens).logits.float()
        assert ours.std() > 0.1 and (ours - theirs).abs().max() < tolerance * theirs.abs().max()


def test_costs_are_counted_from_the_real_configs():
    """Multiply-accumulates of a block, worked out by hand."""
    for config, block in ((MISTRAL, 218_103_808), (CODESTRAL, 109_617_152)):
        assert passes.cost_table(json.loads(json.dumps(config)), {})["block"]["linear"] == 2 * block


def test_a_manifest_keeps_infinity_in_a_config(plain, tmp_path):
    """Codestral's time_step_limit has it, though JSON does not allow it."""
    manifest = describe(plain("codestral"))
    assert manifest["config"]["time_step_limit"] == [0.0, float("inf")]
    records.write_json(manifest, tmp_path / "m.json")
    assert read_json(tmp_path / "m.json") == manifest


# --- what is refused


def test_a_missing_shard_is_named(plain, tmp_path):
    folder = copy(plain("mistral"), tmp_path)
    manifest = describe(folder)
    shard = folder / "model-00002-of-00003.safetensors"
    shard.unlink()
    assert message(lambda: describe(folder)).startswith(f"backbones.m: {shard}: missing, though model.safetensors.ind")
    assert message(lambda: load(manifest)).startswith(f"{shard}: missing or changed since fetch_backbone; restore it")


def test_a_truncated_shard_is_named(plain, tmp_path):
    folder = copy(plain("mistral"), tmp_path)
    manifest = describe(folder)
    shard = folder / "model-00001-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1000])
    assert message(lambda: describe(folder)).startswith(f"backbones.m: {shard}: cut short or damaged (")
    assert message(lambda: load(manifest)).startswith(f"{shard}: missing or changed since fetch_backbone")
    shard.write_bytes(b"")
    assert message(lambda: describe(folder)).startswith(f"backbones.m: {shard}: cut short or damaged (")


def test_a_shard_of_another_model_is_named(plain, tmp_path):
    folder = copy(plain("mistral"), tmp_path)
    shard = folder / "model-00002-of-00003.safetensors"
    save_file({"other": torch.zeros(2)}, shard)
    assert re.match(rf"backbones\.m: {shard}: has no \S+, though model\.saf", message(lambda: describe(folder)))


def test_weights_that_do_not_fit_the_config_are_refused_instead_of_initialised(plain, tmp_path):
    folder = copy(plain("mistral"), tmp_path)
    config = read_json(folder / "config.json")
    for change, problem in (
        ({"num_hidden_layers": 5}, r"missing_keys: model\.layers\.4\."),
        ({"intermediate_size": 449}, "mismatched_keys: .*mlp"),
    ):
        write_json(folder / "config.json", config | change)
        assert re.search(f"its weights do not fit its config .*({problem})", message(lambda: load(describe(folder))))


@pytest.mark.parametrize(
    ("index", "why"),
    [
        ({"weight_map": {"a": "../a.safetensors"}}, "names '../a.safetensors', which is no safetensors file beside it"),
        ({"weight_map": {"a": "pytorch_model.bin"}}, "names 'pytorch_model.bin', which is no safetensors file beside"),
        ({"weight_map": {"a": 1}}, "has no `weight_map` from weights to files"),
        ([], "holds no JSON object"),
    ],
)
def test_an_index_names_safetensors_files_beside_it_and_no_others(index, why, tmp_path):
    write_json(tmp_path / model_files.INDEX, index)
    assert f"{model_files.INDEX}: {why}" in message(lambda: model_files.collect(tmp_path))


def test_mistral_s_own_format_alone_is_refused_by_name(plain, tmp_path):
    folder = copy(plain("mistral"), tmp_path)
    for file in folder.glob("model*"):
        file.unlink()
    assert "Mistral's own format, take the repository's model-*.safetensors" in message(lambda: describe(folder))


def test_a_sentencepiece_file_alone_is_refused(plain, tmp_path):
    """The library would drop the space that begins a text, which gives other tokens than the model was trained on."""
    folder = copy(plain("mistral"), tmp_path)
    (folder / "tokenizer.model.v3").touch()
    assert "a tokenizer.model without tokenizer.json" in message(lambda: describe(folder))


def test_an_architecture_that_the_library_does_not_have_is_refused(plain, tmp_path):
    folder = copy(plain("mistral"), tmp_path)
    config = read_json(folder / "config.json")
    for name in ("pipeline", "AutoConfig", "NoSuchForCausalLM"):
        write_json(folder / "config.json", config | {"architectures": [name]})
        assert f"architecture '{name}' is unknown" in message(lambda: load(describe(folder)))


# --- from the hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that has one repository, given as a folder, and a cache; what was downloaded is in the cache."""
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    real = huggingface_hub.snapshot_download

    def serve(folder: Path) -> Path:
        def download(repo_id, revision, allow_patterns=None, ignore_patterns=None, local_files_only=False):
            if local_files_only:
                return real(repo_id, revision=revision, allow_patterns=allow_patterns, local_files_only=True)
            names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
            wanted = filter_repo_objects(names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
            return str(add_to_cache([folder / name for name in wanted], cache, repo_id))

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        return cache

    return serve


def fetch(name):
    spec = {"source": SOURCES[name], "revision": COMMIT}
    return manifests.describe("m", spec, *manifests.locate("m", spec, Path(), local=False))


def test_only_files_that_are_read_are_downloaded(plain, hub, tmp_path):
    """No second copy of the weights, no pickles, no subfolders."""
    folder = copy(plain("mistral"), tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        write_json(folder / name, {})
    for name in (
        "tokenizer.model",
        "tokenizer.model.v3",
        "pytorch_model.bin",
        "model.fp32.safetensors",
        "README.md",
        "modeling_mistral.py",
        "onnx/config.json",
        "original/model.safetensors",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not to be read")
    cache = hub(folder)
    manifest = fetch("mistral")
    got = {path.name for path in cache.glob(f"models--mistralai--Mistral-7B-v0.3/snapshots/{COMMIT}/*")}
    shards = {f"model-{k}-of-00003.safetensors" for k in ("00001", "00002", "00003")}
    small = {
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "params.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
    }
    assert got == shards | small == manifest["files"].keys()
    assert manifest["path"] is None and manifest["revision"] == COMMIT


def test_a_model_without_index_or_architecture_is_fetched_and_loaded(plain, hub):
    hub(plain("mamba2-130m"))
    manifest = fetch("mamba2-130m")
    assert manifest["files"].keys() == {"config.json", "model.safetensors"}
    assert "architectures" not in manifest["config"]
    assert load(manifest).model.config.model_type == "mamba2"


def test_a_repository_with_only_pickled_weights_is_refused_without_downloading_them(plain, hub, tmp_path):
    folder = copy(plain("mamba2-130m"), tmp_path)
    for name in ("pytorch_model.bin", "model.pt"):
        torch.save({"weight": torch.zeros(1)}, folder / name)
    (folder / model_files.SINGLE).unlink()
    cache = hub(folder)
    why = message(lambda: fetch("mamba2-130m"))
    assert why.startswith("backbones.m: ") and "no model.safetensors and no model.safetensors.index.json; " in why
    assert why.endswith("weights in other formats, pickled ones among them, are neither fetched nor read")
    assert not [path for name in ("*.bin", "*.pt") for path in cache.rglob(name)]


def test_a_corrupt_download_is_refused_when_it_is_fetched(plain, hub):
    for name, victim in (("mistral", "model-00002-of-00003.safetensors"), ("mistral", "config.json")):
        cache = hub(plain(name))
        snapshot = Path(manifests.locate("m", {"source": SOURCES[name], "revision": COMMIT}, Path(), local=False)[0])
        blob = (snapshot / victim).resolve()
        flip(blob, -1)
        why = message(lambda snapshot=snapshot: manifests.describe("m", {"source": "a/b"}, snapshot, None))
        assert why == f"backbones.m: {blob}: not the bytes that the hub has of {victim}; delete it and fetch again"
        shutil.rmtree(cache)


def test_a_file_that_changed_after_fetching_is_refused_when_it_is_loaded(plain, hub):
    hub(plain("mistral"))
    manifest = fetch("mistral")
    blob = (manifests.cached_folder(manifest) / "model-00002-of-00003.safetensors").resolve()
    flip(blob, 5000)
    why = message(lambda: load(manifest))
    assert why.endswith("not the bytes that fetch_backbone recorded (sha256); delete it and fetch the backbone again")
    assert "model-00002-of-00003.safetensors: " in why
    blob.unlink()
    assert "model-00002-of-00003.safetensors: missing or changed since fetch_backbone" in message(
        lambda: load(manifest)
    )


def test_a_backbone_missing_from_the_cache_is_one_line(plain, hub):
    cache = hub(plain("mistral"))
    manifest = fetch("mistral")
    shutil.rmtree(cache)
    why = message(lambda: load(manifest))
    assert why.startswith(f"backbones.m: mistralai/Mistral-7B-v0.3 at {COMMIT} is not, or not whole, in the hub's cach")


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


# --- with Mistral's tokenizer


def test_prompts_are_tokenised_as_by_sentencepiece_after_a_begin_of_sequence(whole):
    _, _, manifest, own = whole
    tokenizer = loading.load_tokenizer(manifest)
    assert len(tokenizer) == own.vocab_size() == manifest["config"]["vocab_size"] == 32768
    texts = [*TEXTS, (ROOT / "README.md").read_text(encoding="utf-8")]
    asked = answer.tokenise([Prompt(f"{k}", text, ()) for k, text in enumerate(texts)], tokenizer, None, "")
    assert [request.token_ids for request in asked] == [[own.bos_id(), *own.encode(text)] for text in texts]
    assert tokenizer("[INST] <s>")["input_ids"] == [1, 3, 29473, 1]  # control tokens, were they in a prompt


def test_answers_are_decoded_faithfully(whole):
    """Only the space before an answer's first word is dropped; control tokens are not text."""
    _, _, manifest, own = whole
    tokenizer = loading.load_tokenizer(manifest)
    rule = stopping.StopRule(tokenizer, {own.eos_id()}, ["<never>"], 99)
    for text in [*TEXTS, "Cotswold Hills", "a,b. c", "tab\tand  two", "🙂"]:
        assert rule.text([*own.encode(text), own.eos_id()]) == text.strip()
    tokens = own.encode(f"Answer:{' Rome'}")[len(own.encode("Answer:")) :]
    assert [own.id_to_piece(i) for i in tokens] == ["▁Rome"] and rule.text(tokens) == "Rome"
    assert rule.text([3, *own.encode("x"), 750, 2]) == "x"


@pytest.mark.parametrize(
    "stop", sorted({s for kinds in prompts.PROFILES.values() for f in kinds.values() for s in f.stop_strings})
)
def test_every_stop_string_ends_an_answer_where_it_stands(whole, stop):
    _, _, manifest, own = whole
    rule = stopping.StopRule(loading.load_tokenizer(manifest), {2}, [stop], 99)
    tokens = own.encode(f"Rome of old 🙂{stop} and so on")
    ended = next(n for n in range(1, len(tokens) + 1) if rule.reason(tokens[:n]))
    assert rule.reason(tokens[:ended]) == "stop" and rule.text(tokens[:ended]) == "Rome of old 🙂"
    assert own.decode(tokens[:ended]).endswith(stop)


def test_an_answer_ends_at_the_tokenizer_s_end_of_sequence(whole):
    """Codestral's config says 0, which its tokenizer never produces."""
    name, _, manifest, own = whole
    ends = loading.stop_token_ids(load(manifest), loading.load_tokenizer(manifest))
    assert ends == ({2} if name == "mistral" else {0, 2}) and own.eos_id() == 2


def test_a_run_gives_the_library_s_greedy_text(whole, tmp_path):
    _, folder, manifest, own = whole
    texts = TEXTS[:3]
    examples = pd.DataFrame(
        {
            "example_id": [f"e{k}" for k in range(3)],
            "conversation_id": [f"e{k}" for k in range(3)],
            "turn": 1,
            "prompt": texts,
            "prompt_sha256": [questions.sha256(text) for text in texts],
            "prompt_parts": [[]] * 3,
            "stop_strings": [["\n"]] * 3,
        }
    )
    backbone, tokenizer = loading.open_backbone(manifest, SETTINGS)
    rule = stopping.StopRule(tokenizer, loading.stop_token_ids(backbone, tokenizer), ["\n"], 8)
    parts, limits = [RunPart([1.0], Decoder(backbone))], memory.Limits(SETTINGS["batch_size"], 2**31)
    answerer = answer.Answerer(tokenizer, {"full": parts}, answer.Rules(rule, "refuse", 1.0), limits)
    answers = {row.example_id: row for _, row in answerer(next(iter(Rounds(examples, [("full", 1.0)]))))}
    backbone = load(manifest)
    library = type(backbone.model).from_pretrained(folder, dtype=torch.float32).eval()
    for k, text in enumerate(texts):
        row = answers[f"e{k}"]
        prompt = torch.tensor([[1, *own.encode(text)]])
        theirs = library.generate(prompt, max_new_tokens=8, do_sample=False, eos_token_id=[2], pad_token_id=0)
        expected = theirs[0, prompt.shape[1] :].tolist()
        assert row.token_ids == expected[: len(row.token_ids)] and row.prompt_tokens == prompt.shape[1]
        text = own.decode([i for i in row.token_ids if not own.is_control(i)]).split("\n")[0].strip()
        assert rule.text(row.token_ids) == text
