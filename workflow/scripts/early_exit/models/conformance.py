"""Whether a loaded model is built as its family is: the modules that it has, and what they compute.

Early exits need a model that can be cut between blocks: embedding, blocks that read nothing but the hidden state (and
their own cache), final norm, LM head. State fills need more: `propagate` computes what a block stores of a token
without the rest of the block. Whatever its name, a model is taken if its modules are those of a family and, for an
architecture that our tests do not run, if cut and uncut give the same on a few tokens. So scaled embeddings (Gemma),
logits divided by a constant (Granite) or rotations of a part of each key (StableLM) are found, not assumed away.
"""

import sys
from typing import NoReturn

import torch
from torch import Tensor, nn

from early_exit.base.errors import InputError
from early_exit.models.backbone import Backbone
from early_exit.sources.families import SUPPORTED

PROJECTIONS = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
               "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}  # fmt: skip
NORMS = {"input_layernorm", "post_attention_layernorm"}  # may be without weights, as in OLMo
# Of each kind of block: modules that it must have, and those that may have weights beside them ("mixer": its own).
BLOCKS = {
    "transformer": [(PROJECTIONS | NORMS, {"self_attn.q_norm", "self_attn.k_norm"})],
    "mamba": [
        ({"norm", "mixer.in_proj", "mixer.conv1d", "mixer.x_proj", "mixer.dt_proj", "mixer.out_proj"}, {"mixer"}),
        ({"norm", "mixer.in_proj", "mixer.conv1d", "mixer.norm", "mixer.out_proj"}, {"mixer"}),
    ],
}
# Around the blocks: the same, by names in the base model.
AROUND = {
    "transformer": ({"embed_tokens", "norm", "rotary_emb"}, set()),
    "mamba": ({"embeddings", "norm_f"}, set()),
}
TOKENS = 8


def check_modules(model: nn.Module, family: str) -> None:
    """InputError unless a causal LM has the modules of a family, and weights in no others."""
    body = model.base_model
    blocks = getattr(body, "layers", None)
    if not isinstance(blocks, nn.ModuleList) or not hasattr(model, "lm_head"):
        _refuse(model, "it is no stack of `layers` with an `lm_head`")
    _check(model, body, [AROUND[family]], "layers.")
    for block in blocks:
        _check(model, block, BLOCKS[family], None)
    if type(model.get_input_embeddings()) is not nn.Embedding:
        _refuse(model, f"its embeddings are {type(model.get_input_embeddings()).__name__}")
    if family == "transformer" and not all(hasattr(block.self_attn, "head_dim") for block in blocks):
        _refuse(model, "its attention does not say its `head_dim`")


@torch.no_grad()
def check_outputs(backbone: Backbone) -> None:
    """InputError unless a model gives the same cut, by `backbone`, as by its own forward, and stores what it should."""
    model = backbone.model
    tokens = torch.arange(min(TOKENS, backbone.context or TOKENS), device=backbone.device)[None]
    try:
        _run_both(backbone, tokens % model.config.vocab_size)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        _refuse(model, f"its parts do not run one by one: {' '.join(str(error).split())}", error)


def _run_both(backbone: Backbone, tokens: Tensor) -> None:
    model, cache = backbone.model, backbone.new_prompt_cache()
    last, outputs = backbone.run_prompt(tokens, range(1, backbone.depth + 1), cache)
    if not _same(backbone.logits(last), model(tokens).logits):
        _refuse(model, "its logits are not what its blocks, norm and LM head give: embeddings or logits are scaled?")
    if backbone.family == "mamba":
        return
    hidden, positions = backbone.embed(tokens), torch.arange(tokens.shape[1], device=tokens.device)[None]
    rotation = model.base_model.rotary_emb(hidden, position_ids=positions)
    for n, block in enumerate(backbone.blocks, 1):
        stored = cache.layers[n - 1]
        for ours, theirs in zip(keys_values(block, hidden, rotation), (stored.keys, stored.values), strict=True):
            if ours.shape != theirs.shape or not _same(ours, theirs):
                _refuse(model, f"layer {n} stores other keys and values than its projections, norm and rotation give")
        hidden = outputs[n]


def keys_values(block: nn.Module, hidden: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What an attention block stores of tokens, without the rest of the block.

    Args:
        hidden: the block's input, (rows, T, hidden).
        rotation: cosines and sines of the tokens' positions.

    Returns:
        Keys and values, each (rows, key/value heads, T, head_dim).
    """
    attention, normed = block.self_attn, block.input_layernorm(hidden)
    keys, values = (
        project(normed).view(*hidden.shape[:2], -1, attention.head_dim)
        for project in (attention.k_proj, attention.v_proj)
    )
    if hasattr(attention, "k_norm"):  # Qwen3
        keys = attention.k_norm(keys)
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    keys = keys.transpose(1, 2)
    return rotate(keys, keys, *rotation)[1], values.transpose(1, 2)


def _check(
    model: nn.Module, part: nn.Module, kinds: list[tuple[set[str], set[str]]], ignored: str | None
) -> None:  # fmt: skip
    """A part is of one of `kinds` (needed modules, further ones); names that start with `ignored` are let be."""
    names = {name for name, _ in part.named_modules()}
    owners = {name.rpartition(".")[0] for name, _ in part.named_parameters()}
    owners = {name for name in owners if not (ignored and name.startswith(ignored))}
    needed, further = min(kinds, key=lambda kind: len(kind[0] - names))
    if needed - names:
        _refuse(model, f"it has no {min(needed - names)}")
    if owners - needed - further:
        _refuse(model, f"it has weights in {min(owners - needed - further) or 'the block itself'}")


def _same(ours: Tensor, theirs: Tensor) -> bool:
    """Equal but for rounding, which is measured by what the number format holds."""
    largest = theirs.abs().max().clamp(min=torch.finfo(theirs.dtype).tiny)
    return bool((ours - theirs).abs().max() <= torch.finfo(theirs.dtype).eps ** 0.5 * largest)


def _refuse(model: nn.Module, why: str, error: Exception | None = None) -> NoReturn:
    raise InputError(f"backbone: {model.config.model_type} is not supported ({why}); {SUPPORTED}") from error
