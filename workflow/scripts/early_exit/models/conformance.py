"""Checks that a loaded model is built as its family is: which modules it has, and what they compute.

Early exits need a model that can be cut between blocks: embedding, blocks that read nothing but the hidden state and
their own cache, final norm, LM head. The state fill `propagate` needs more: what a block stores of a token must follow
from the block's norm and projections alone. A model's name does not matter: it is supported if its modules are those
of a family. An architecture that the tests do not run must also compute the same on a few tokens, cut and uncut. So
scaled embeddings (Gemma), logits divided by a constant (Granite) or keys rotated in part (StableLM) are detected.
"""

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from early_exit.base.errors import InputError
from early_exit.models import cache_updates
from early_exit.models.backbone import Backbone
from early_exit.sources.families import SUPPORTED

PROJECTIONS = {
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
}
NORMS = {"input_layernorm", "post_attention_layernorm"}  # may be without weights, as in OLMo
# Per kind of block: modules that it must have, and further ones that may have weights ("mixer": parameters of its own).
BLOCKS = {
    "transformer": [(PROJECTIONS | NORMS, {"self_attn.q_norm", "self_attn.k_norm"})],
    "mamba": [
        ({"norm", "mixer.in_proj", "mixer.conv1d", "mixer.x_proj", "mixer.dt_proj", "mixer.out_proj"}, {"mixer"}),
        ({"norm", "mixer.in_proj", "mixer.conv1d", "mixer.norm", "mixer.out_proj"}, {"mixer"}),
    ],
}
# The same for the modules around the blocks, by their names in the base model.
AROUND = {
    "transformer": ({"embed_tokens", "norm", "rotary_emb"}, set()),
    "mamba": ({"embeddings", "norm_f"}, set()),
}
TOKENS = 8  # that both forms of the model run


def check_modules(model: nn.Module, family: str) -> None:
    """Raise InputError unless a causal LM has the modules of its family, and weights in no others."""
    body = model.base_model
    blocks = getattr(body, "layers", None)
    if not isinstance(blocks, nn.ModuleList) or not hasattr(model, "lm_head"):
        _refuse(model, "it is no stack of `layers` with an `lm_head`")
    _check_names(model, body, [AROUND[family]], ignored="layers.")
    for block in blocks:
        _check_names(model, block, BLOCKS[family])
    if type(model.get_input_embeddings()) is not nn.Embedding:
        _refuse(model, f"its embeddings are {type(model.get_input_embeddings()).__name__}")
    if family == "transformer" and not all(hasattr(block.self_attn, "head_dim") for block in blocks):
        _refuse(model, "its attention does not say its `head_dim`")


@torch.no_grad()
def check_outputs(backbone: Backbone) -> None:
    """Raise InputError unless the backbone computes what the model's own forward does, and stores what fills store."""
    model = backbone.model
    tokens = torch.arange(min(TOKENS, backbone.context or TOKENS), device=backbone.device)[None]
    try:
        _compare(backbone, tokens % model.config.vocab_size)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        _refuse(model, f"its parts do not run one by one: {' '.join(str(error).split())}", error)


def _compare(backbone: Backbone, tokens: Tensor) -> None:
    model, cache = backbone.model, backbone.new_prompt_cache()
    last, outputs = backbone.run_prompt(tokens, range(1, backbone.depth + 1), cache)
    if not _close(backbone.logits(last), model(tokens).logits, model.dtype):
        _refuse(model, "its logits are not what its blocks, norm and LM head give: embeddings or logits are scaled?")
    inputs = [backbone.embed(tokens), *outputs.values()][: backbone.depth]
    compare = _compare_keys_and_values if backbone.family == "transformer" else _compare_states
    compare(backbone, tokens, inputs, cache)


def _compare_keys_and_values(backbone: Backbone, tokens: Tensor, inputs: Sequence[Tensor], cache: DynamicCache) -> None:
    """Compare what the blocks stored in `cache` with what the state fill computes from their `inputs`."""
    positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
    rotation = backbone.model.base_model.rotary_emb(inputs[0], position_ids=positions)
    for n, (block, hidden, layer) in enumerate(zip(backbone.blocks, inputs, cache.layers, strict=True), 1):
        computed = cache_updates.keys_and_values(block, hidden, rotation)
        for ours, theirs in zip(computed, (layer.keys, layer.values), strict=True):
            if not _close(ours, theirs, backbone.model.dtype):
                why = f"layer {n} stores other keys and values than its projections, norm and rotation give"
                _refuse(backbone.model, why)


def _compare_states(backbone: Backbone, tokens: Tensor, inputs: Sequence[Tensor], cache: DynamicCache) -> None:
    """Compare the states that the blocks left in `cache` with those that the state fill computes for the last token."""
    before = backbone.new_prompt_cache()
    backbone.run_prompt(tokens[:, :-1], (), before)
    layers = zip(backbone.blocks, inputs, before.layers, cache.layers, strict=True)
    for n, (block, hidden, *caches) in enumerate(layers, 1):
        earlier, stored = ((layer.conv_states[0], layer.recurrent_states[0]) for layer in caches)
        computed = cache_updates.mixer_states(block, hidden[:, -1], *earlier)
        for ours, theirs in zip(computed, stored, strict=True):
            if not _close(ours, theirs, backbone.model.dtype):
                _refuse(backbone.model, f"layer {n} leaves other states than its projections and convolution give")


def _check_names(
    model: nn.Module, part: nn.Module, kinds: Sequence[tuple[set[str], set[str]]], ignored: str | None = None
) -> None:
    """Refuse a part of a model that is of none of `kinds` (needed modules, further ones that may have weights).

    Parameters whose name starts with `ignored` are not checked.
    """
    names = {name for name, _ in part.named_modules()}
    owners = {name.rpartition(".")[0] for name, _ in part.named_parameters()}
    owners = {name for name in owners if not (ignored and name.startswith(ignored))}
    needed, further = min(kinds, key=lambda kind: len(kind[0] - names))
    if needed - names:
        _refuse(model, f"it has no {min(needed - names)}")
    if owners - needed - further:
        _refuse(model, f"it has weights in {min(owners - needed - further) or 'the block itself'}")


def _close(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    """Return whether two tensors have one shape and differ by no more than rounding in the number format `dtype`."""
    if ours.shape != theirs.shape:
        return False
    largest = theirs.abs().max().clamp(min=torch.finfo(theirs.dtype).tiny)
    return bool((ours - theirs).abs().max() <= torch.finfo(dtype).eps ** 0.5 * largest)


def _refuse(model: nn.Module, why: str, error: Exception | None = None) -> NoReturn:
    raise InputError(f"backbone: {model.config.model_type} is not supported ({why}); {SUPPORTED}") from error
