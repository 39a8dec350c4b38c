"""Model folders as the repositories of the presets' models have them, shrunken and with random weights.

What a repository holds and what its configs say was read from the hub's pages: mistralai/Mistral-7B-v0.3,
mistralai/Mamba-Codestral-7B-v0.1 (whose end-of-sequence ids are those of no tokenizer) and AntonV/mamba2-130m-hf (whose
config names no architecture).
"""

import hashlib
import json
import os
import sys
from importlib import metadata
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import LlamaTokenizer, Mamba2Config, Mamba2ForCausalLM, MistralConfig, MistralForCausalLM

from conftest import make_random_norms

COMMIT = "c" * 40
TOKENIZER = "mistral_instruct_tokenizer_240323.model.v3"
TOKENIZER_SHA256 = "9addc8bdce5988448ae81b729336f43a81262160ae8da760674badab9d4c7d33"

MISTRAL = {
    "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.42.0.dev0", "use_cache": True,
    "vocab_size": 32768,
}  # fmt: skip
CODESTRAL = {
    "architectures": ["Mamba2ForCausalLM"], "bos_token_id": 0, "chunk_size": 256, "conv_kernel": 4, "eos_token_id": 0,
    "expand": 2, "head_dim": 64, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.1,
    "intermediate_size": 8192, "layer_norm_epsilon": 1e-05, "model_type": "mamba2", "n_groups": 8,
    "norm_before_gate": True, "num_heads": 128, "num_hidden_layers": 64, "pad_token_id": 0,
    "rescale_prenorm_residual": False, "residual_in_fp32": True, "rms_norm": True, "state_size": 128,
    "tie_word_embeddings": False, "time_step_floor": 0.0001, "time_step_init_scheme": "random",
    "time_step_limit": [0.0, float("inf")], "time_step_max": 0.1, "time_step_min": 0.001, "time_step_rank": 256,
    "time_step_scale": 1.0, "torch_dtype": "bfloat16", "transformers_version": "4.44.0.dev0", "use_bias": False,
    "use_cache": True, "use_conv_bias": True, "vocab_size": 32768,
}  # fmt: skip
MAMBA_130M = {
    **{key: value for key, value in CODESTRAL.items() if key not in ("architectures", "intermediate_size", "rms_norm",
       "norm_before_gate", "time_step_init_scheme", "time_step_scale", "torch_dtype")},
    "hidden_size": 768, "n_groups": 1, "num_heads": 24, "num_hidden_layers": 24, "rms_norm": True,
    "tie_word_embeddings": True, "transformers_version": "4.45.0.dev0", "vocab_size": 50288,
}  # fmt: skip
# The ratios of the real ones (four query heads a key/value head, an MLP of 3.5 widths; heads, groups, states and
# convolutions as they are), and their tokenizer's vocabulary.
SHRUNKEN = {
    "mistral": {"hidden_size": 128, "intermediate_size": 448, "num_attention_heads": 8, "num_key_value_heads": 2,
                "num_hidden_layers": 4},
    "codestral": {"hidden_size": 256, "intermediate_size": 512, "num_heads": 8, "num_hidden_layers": 4},
    "mamba2-130m": {"hidden_size": 64, "num_heads": 2, "num_hidden_layers": 4, "vocab_size": 768},
}  # fmt: skip
CONFIGS = {"mistral": MISTRAL, "codestral": CODESTRAL, "mamba2-130m": MAMBA_130M}


def tokenizer_file() -> Path | None:
    """Mistral's own SentencePiece file, out of the wheel of mistral-common, whose code nothing here imports.

    The wheel's files are looked for in share/mistral-common of the environment, or where EARLY_EXIT_MISTRAL_COMMON
    says: not among the packages, where transformers would use its code.
    """
    place = os.environ.get("EARLY_EXIT_MISTRAL_COMMON", f"{sys.prefix}/share/mistral-common")
    for found in metadata.distributions(name="mistral-common", path=[place]):
        for file in found.files or ():
            if file.name == TOKENIZER:
                return Path(file.locate())
    return None


def save_model(name: str, folder: Path) -> Path:
    """Config and weights as a repository has them: sharded in bfloat16 (the small one whole), and what lies beside."""
    config = CONFIGS[name] | SHRUNKEN[name]
    torch.manual_seed(0)
    library, model = (MistralConfig, MistralForCausalLM) if name == "mistral" else (Mamba2Config, Mamba2ForCausalLM)
    model = make_random_norms(model(library(**config | {"initializer_range": 0.3}))).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="9MB" if "torch_dtype" in config else "1GB")
    write_json(folder / "config.json", config)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config}
    if name == "mamba2-130m":
        (folder / "generation_config.json").unlink()
        return folder
    written = {"_from_model_config": True, **ids, "transformers_version": config["transformers_version"]}
    write_json(folder / "generation_config.json", written)
    # The same weights again under other names, as Mistral's own programs read them, with their config.
    save_file({"layers.0.attention.wk.weight": torch.zeros(4, 4)}, folder / "consolidated.safetensors")
    write_json(folder / "params.json", {"dim": config["hidden_size"], "n_layers": config["num_hidden_layers"]})
    return folder


def save_tokenizer(folder: Path, source: Path) -> sentencepiece.SentencePieceProcessor:
    """The SentencePiece file under both of its names, and the tokenizer.json made of it; gives SentencePiece's own."""
    own = sentencepiece.SentencePieceProcessor(model_file=str(source))
    pieces = [own.id_to_piece(i) for i in range(own.vocab_size())]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = []  # of two pieces, the best scored result first
    for i, piece in enumerate(pieces):
        if not (own.is_control(i) or own.is_byte(i) or own.is_unknown(i)):
            cuts = ((piece[:k], piece[k:]) for k in range(1, len(piece)))
            merges += [(-own.get_score(i), i, vocabulary[a], vocabulary[b], a, b)
                       for a, b in cuts if a in vocabulary and b in vocabulary]  # fmt: skip
    control = [piece for i, piece in enumerate(pieces) if own.is_control(i)]
    LlamaTokenizer(
        vocab=vocabulary, merges=[(a, b) for *_, a, b in sorted(merges)], legacy=False, add_bos_token=True,
        extra_special_tokens=control,
    ).save_pretrained(folder)  # fmt: skip
    special = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    decoder = {str(i): {"content": pieces[i], **special, "special": True} for i in range(len(control) + 1)}
    write_json(folder / "tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": decoder, **named,
        "clean_up_tokenization_spaces": False, "legacy": False, "model_max_length": 10**30, "sp_model_kwargs": {},
        "spaces_between_special_tokens": False, "tokenizer_class": "LlamaTokenizer", "use_default_system_prompt": False,
    })  # fmt: skip
    write_json(folder / "special_tokens_map.json", {key: {"content": text, **special} for key, text in named.items()})
    for name in ("tokenizer.model", "tokenizer.model.v3"):
        (folder / name).write_bytes(source.read_bytes())
    return own


def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def add_to_cache(files: list[Path], cache: Path, source: str) -> Path:
    """Files as the hub's client stores them: blobs by the hub's own hashes, linked to from a snapshot's folder."""
    repository = cache / f"models--{source.replace('/', '--')}"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        content = file.read_bytes()
        large = file.suffix in (".safetensors", ".model")
        blob = blobs / (hashlib.sha256(content) if large else hashlib.sha1(b"blob %d\0%s" % (len(content), content))
                        ).hexdigest()  # fmt: skip
        blob.write_bytes(content)
        link = snapshot / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(blob)
    return snapshot
