"""Models whose files are broken, of another model, or not all that they need: each is one line with the file's name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

import early_exit
from conftest import ROOT, make_random_model
from early_exit.base.errors import InputError
from early_exit.models import loading
from early_exit.sources import manifests, model_files

TINY = ROOT / "workflow/resources/tiny/transformer"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 5\n"
BLOCK = "model.layers.0."


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded Transformer, to break."""
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def describe(folder: Path, **keys):
    return manifests.describe("m", {"source": str(folder), **keys}, folder, str(folder))


def load(folder: Path, dtype: torch.dtype = torch.float32):
    manifest = describe(folder)
    return loading.load(manifest, torch.device("cpu"), dtype), loading.load_tokenizer(manifest)


def message(run: Callable) -> str:
    with pytest.raises(InputError) as caught:
        run()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def add_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = folder / model_files.SINGLE
    save_file(load_file(path) | tensors, path, metadata={"format": "pt"})


# --- weights that the library would leave out


@pytest.mark.parametrize("name", ["mlp.up_proj.weight_scale", "mlp.up_proj.lora_A.weight", "self_attn.sinks"])
def test_a_tensor_that_would_be_left_out_is_named(folder, name):
    add_tensors(folder, {BLOCK + name: torch.ones(3)})
    assert f"{folder}: its weights do not fit its config: {BLOCK + name} would be left out" in message(
        lambda: load(folder)
    )


@pytest.mark.parametrize("family", ["llama", "mamba2"])
def test_a_tensor_is_harmless_if_the_model_has_its_values_anyway(family, tmp_path):
    """A copy of a weight by another name is; other values by the same name are not."""
    model = make_random_model(family)
    model.save_pretrained(tmp_path)
    name, weight = next((n, p) for n, p in model.named_parameters() if "norm" in n)
    add_tensors(tmp_path, {f"copy.{name}": weight.detach().bfloat16()})
    manifest = describe(tmp_path)
    assert loading.load(manifest, torch.device("cpu"), torch.float32).family == manifest["family"]
    add_tensors(tmp_path, {f"copy.{name}": weight.detach() * 1.1})
    assert f"copy.{name} would be left out" in message(
        lambda: loading.load(describe(tmp_path), torch.device("cpu"), torch.float32)
    )


@pytest.mark.parametrize("tied", [True, False])
def test_a_stored_lm_head_is_taken_as_it_is_stored(folder, tied):
    """Equal to the embedding it may be tied; with other values it counts, whatever the config says of tying."""
    weights = load_file(folder / model_files.SINGLE)
    embedding = weights["model.embed_tokens.weight"]
    head = embedding.clone() if tied else embedding + 1
    add_tensors(folder, {"lm_head.weight": head})
    change(folder / "config.json", tie_word_embeddings=True)
    assert torch.equal(load(folder)[0].lm_head.weight, head)


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_quantised_weights_are_refused_by_the_configs_key(folder, key):
    change(folder / "config.json", **{key: {"quant_method": "of-tomorrow"}})
    assert f"{key}: quantised weights, which are read from GGUF files alone" in message(lambda: describe(folder))
    change(folder / "config.json", **{key: None})
    assert describe(folder)["depth"] > 1


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_beside_the_weights_is_to_be_merged_first(folder, name):
    (folder / name).write_text("{}")
    assert f"{folder / name}: an adapter (LoRA or the like) is not loaded; merge the adapter first" in message(
        lambda: describe(folder)
    )


def test_an_index_names_all_shards_of_a_series(folder):
    weights = load_file(folder / model_files.SINGLE)
    (folder / model_files.SINGLE).unlink()
    shard = "model-00001-of-00002.safetensors"
    save_file(weights, folder / shard, metadata={"format": "pt"})
    (folder / model_files.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, shard)}))
    assert f"{folder / model_files.INDEX}: names 1 shards, {shard} among them" in message(lambda: describe(folder))
    change(folder / model_files.INDEX, weight_map=dict.fromkeys(weights, "model-00001-of-00001.safetensors"))
    (folder / shard).rename(folder / "model-00001-of-00001.safetensors")
    assert load(folder)[0].depth == describe(folder)["depth"]


@pytest.mark.parametrize(
    ("number", "dtype"), [(float("nan"), "float32"), (float("-inf"), "bfloat16"), (1e6, "float16")]
)
def test_a_weight_that_is_no_finite_number_is_named(folder, number, dtype):
    """Also one that only the job's number format makes infinite."""
    name = f"{BLOCK}mlp.down_proj.weight"
    weight = load_file(folder / model_files.SINGLE)[name].float()
    weight[1, 2] = number
    add_tensors(folder, {name: weight})
    assert f"{folder}: {name} has numbers in {dtype} that are NaN or infinite" in message(
        lambda: load(folder, getattr(torch, dtype))
    )


# --- files that cannot be read


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
def test_the_pointer_of_git_lfs_is_named(folder, name):
    (folder / name).write_text(POINTER)
    assert f"{folder / name}: a Git LFS pointer, not the file itself; fetch it with `git lfs pull`" in message(
        lambda: describe(folder)
    )


@pytest.mark.parametrize(
    "content",
    ['{"a": ' + "9" * 5000 + "}", "[" * 100_000, '{"a": ', "", b"\xff\xfe\xfd", "null"],
    ids=["5000 digits", "deep", "cut", "empty", "binary", "null"],
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
def test_a_json_file_that_cannot_be_read_is_named(folder, name, content):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message(lambda: describe(folder)).startswith(f"backbones.m: {folder / name}: ")


@pytest.mark.parametrize(
    "values",
    [{"num_hidden_layers": "4"}, {"vocab_size": -1}, {"hidden_size": 2.5}, {"num_attention_heads": True},
     {"layer_types": 3}, {"rope_parameters": "long"}, {"num_hidden_layers": 1}],
    ids=lambda values: next(iter(values)),
)  # fmt: skip
def test_a_config_with_values_that_no_model_has_is_one_line(folder, values):
    change(folder / "config.json", **values)
    assert message(lambda: describe(folder)).startswith("backbones.m: ")


def test_a_value_that_only_the_library_refuses_is_one_line(folder):
    change(folder / "config.json", hidden_act="of-tomorrow")
    assert message(lambda: load(folder)).startswith(f"{folder}: cannot be read (")


# --- GGUF


@pytest.fixture
def gguf_file(tmp_path):
    """A GGUF file that has a header of no model's shape, and one tensor."""
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.ones((8, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("length", [0, 3, 40, -1, -100])
def test_a_gguf_file_cut_short_is_named(gguf_file, length):
    gguf_file.write_bytes(gguf_file.read_bytes()[:length])
    why = message(lambda: describe(gguf_file.parent, gguf=gguf_file.name))
    assert why.startswith(f"backbones.m: {gguf_file}: cannot be read (") and why.endswith("fetch or copy it again")


def test_a_gguf_file_that_is_a_pointer_or_no_model_is_named(gguf_file):
    why = message(lambda: describe(gguf_file.parent, gguf=gguf_file.name))
    assert f"{gguf_file}: has no llama.block_count" in why
    gguf_file.write_text(POINTER)
    assert f"{gguf_file}: a Git LFS pointer" in message(lambda: describe(gguf_file.parent, gguf=gguf_file.name))


# --- tokenizers


def byte_tokenizer(**parts) -> Tokenizer:
    """A byte-level BPE with merges of digits and an end-of-text token; `parts` are its steps."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: k for k, token in enumerate([*letters, "12", "123", "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("1", "2"), ("12", "3")]))
    tokenizer.pre_tokenizer = parts.pop("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.decoder = decoders.ByteLevel()
    for name, step in parts.items():
        setattr(tokenizer, name, step)
    return tokenizer


@pytest.mark.parametrize(
    "declared", ["GPT2Tokenizer", "LlamaTokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast"]
)
@pytest.mark.parametrize(
    "parts",
    [
        {"pre_tokenizer": pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])},
        {},
        {"post_processor": TemplateProcessing("<|endoftext|> $A", special_tokens=[("<|endoftext|>", 258)])},
    ],
    ids=["digits", "bytes", "begin"],
)  # fmt: skip
def test_a_tokenizer_is_what_its_file_says_whatever_class_is_declared(folder, parts, declared):
    """SmolLM2 declares GPT2Tokenizer, and its file splits digits, which that class of the library drops."""
    written = byte_tokenizer(**parts)
    written.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": declared, "eos_token": "<|endoftext|>", "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = loading.load_tokenizer(describe(folder))
    for text in ("In 1234, 12 of 123", " a  b\n", "é 漢 🙂"):
        assert tokenizer(text)["input_ids"] == written.encode(text).ids
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert tokenizer.eos_token_id == 258


def test_the_embedded_tokenizers_are_what_their_files_say():
    for folder in (TINY, TINY.parent / "mamba"):
        tokenizer, written = (
            loading.load_tokenizer(describe(folder)),
            Tokenizer.from_file(str(folder / "tokenizer.json")),
        )
        for text in ("Who lives in 1234?", "A: b\n\nc", "", "é 漢"):
            assert tokenizer(text)["input_ids"] == written.encode(text).ids


def test_a_tokenizer_with_more_tokens_than_the_model_has_embeddings_is_refused(folder):
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    change(folder / "tokenizer_config.json", additional_special_tokens=["<one more>"])
    assert f"token '<one more>' has id {rows}, but the model has {rows} embeddings" in message(lambda: load(folder))


@pytest.mark.parametrize("left", [(), ("tokenizer_config.json",), ("vocab.json", "merges.txt")])
def test_a_model_without_a_tokenizer_is_one_line(folder, left):
    for name in {"tokenizer.json", "tokenizer_config.json"} - {*left}:
        (folder / name).unlink()
    for name in {*left} - {"tokenizer_config.json"}:
        (folder / name).write_text("{}")
    assert f"{folder / 'tokenizer.json'}: missing, and no other form" in message(lambda: load(folder))


@pytest.mark.parametrize("content", ["{}", '{"model": {"type": "BPE", "vocab": 3}}'])
def test_a_tokenizer_of_another_form_is_one_line(folder, content):
    (folder / "tokenizer.json").write_text(content)
    assert message(lambda: load(folder)).startswith(f"{folder / 'tokenizer.json'}: cannot be read (")


def test_half_a_surrogate_pair_in_a_prompt_is_one_line(folder):
    model = early_exit.load_backbone(folder, device="cpu")
    assert message(lambda: early_exit.generate(model, ["whole", "half \ud83d"])).startswith("prompts[1]: ")


# --- the hub


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_says_where_its_terms_are_accepted(status, monkeypatch):
    """However deep the client has wrapped the hub's refusal."""

    def refuse(**_):
        refused = OSError("no entry")
        refused.response = type("Response", (), {"status_code": status})()
        try:
            raise refused
        except OSError as error:
            raise ValueError("cannot find the files, see above") from error

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    spec = {"source": "owner/gated", "revision": "c" * 40}
    why = message(lambda: manifests.locate("m", spec, Path(), local=False))
    assert "accept the terms on https://huggingface.co/owner/gated and set HF_TOKEN" in why
