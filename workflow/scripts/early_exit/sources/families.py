"""The family of a model, told by the keys of its Hugging Face config and not by its name.

A model with the keys of a Llama or of a Mamba, and with none that make it something else, is taken for one. What keys
cannot show (fused projections, scaled embeddings) `models.conformance` finds when the model is loaded.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from early_exit.base.errors import InputError

# The architectures that our tests run, with the shapes that Hugging Face assumes where a config.json does not say.
TESTED: dict[str, dict[str, Any]] = {
    "mistral": {"num_key_value_heads": 8},
    "llama": {"num_key_value_heads": None},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
    "mamba": {"state_size": 16, "conv_kernel": 4, "expand": 2, "time_step_rank": "auto", "tie_word_embeddings": True},
    "falcon_mamba": {
        "state_size": 16,
        "conv_kernel": 4,
        "expand": 2,
        "time_step_rank": "auto",
        "tie_word_embeddings": True,
    },
    "mamba2": {"num_heads": 128, "head_dim": 64, "state_size": 128, "n_groups": 8, "conv_kernel": 4},
}
SUPPORTED = (
    "supported are decoder-only Transformers built like Mistral, Llama, Qwen2, Qwen3 and SmolLM2, and Mamba, Mamba-2 "
    "and Falcon-Mamba"
)
REQUIRED = {
    "transformer": ("num_attention_heads", "num_key_value_heads", "intermediate_size"),
    "mamba": ("state_size", "conv_kernel"),
}
# Keys that make a model something else, unless their value is empty, zero or the number 1.
FOREIGN = re.compile(
    r"expert|(^|_)moe(_|$)|softcap|multiplier|logits?_scal|embedding_scal|scale_(emb|depth)|parallel|lora_rank|^mamba_"
    r"|clip_qkv|bidirectional|attention_chunk|is_encoder_decoder|cross_attention"
)
QUANTISED = re.compile(r"^quant|^compression")
LAYERS = {"transformer": {"full_attention", "sliding_attention"}, "mamba": {"linear_attention"}}


def family(config: Mapping[str, Any], where: str) -> str:
    """Returns `transformer` or `mamba` for a Hugging Face config; if it is neither, an InputError that names `where`.

    Mamba-1 and Mamba-2 are one family: a mixer is Mamba-2's if the config has `num_heads`.
    """
    config = completed(config)
    name = "mamba" if "state_size" in config else "transformer"
    needed = "hidden_size", "num_hidden_layers", "vocab_size", *REQUIRED[name]
    reasons = [f"its config has no {key}" for key in needed if key not in config]
    reasons += [f"its config has {key}: {config[key]!r}" for key in needed if not _is_size(config.get(key, 1))]
    reasons = reasons[:1] or [f"{key}: {value}" for key, value in _foreign(config, name)]
    if reasons:
        raise InputError(f"{where}: {config.get('model_type')} is not supported ({', '.join(reasons)}); {SUPPORTED}")
    return name


def _is_size(value: Any) -> bool:
    """Returns whether a value is a whole number, or null, for which the library takes another key's."""
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config with the shapes that Hugging Face assumes where a tested architecture's config does not say."""
    return TESTED.get(config.get("model_type", ""), {}) | dict(config)


def _foreign(config: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    """Yields the keys that make a config another model's than the family's, with their values."""
    for key, value in config.items():
        if FOREIGN.search(key) and value and (value is True or value != 1):
            yield key, value
        if QUANTISED.search(key) and value:
            yield key, "quantised weights, which are read from GGUF files alone; take the model before that"
    if name == "mamba" and config.get("num_attention_heads"):
        yield "num_attention_heads", config["num_attention_heads"]
    for kind in sorted({*(config.get("layer_types") or ())} - LAYERS[name]):
        yield "layer_types", kind
    if not all(config.get("no_rope_layers") or ()):  # 1 where a layer has rotations
        yield "no_rope_layers", "layers without rotations"
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    # Rotations that depend on the sequence's length or on the layer; queries scaled by their position.
    if "longrope" in (rope.get("rope_type"), rope.get("type")):
        yield "rope_type", "longrope"
    if any(isinstance(part, Mapping) for part in rope.values()):
        yield "rope_parameters", "one for each kind of layer"
    if rope.get("llama_4_scaling_beta"):
        yield "llama_4_scaling_beta", rope["llama_4_scaling_beta"]
