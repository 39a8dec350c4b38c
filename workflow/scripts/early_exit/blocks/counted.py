"""A block's products as two counters see them, beside the arithmetic of `costs`: a wrong formula is found on any model.

The block is built from the model's config on torch's meta device, which takes neither memory nor time, and runs as the
library runs it; only fvcore, which cannot trace a convolution there, runs it on the CPU, on weights that were never
set. Both counters see each product with weights. Convolutions are counted by their weights, since the library also
computes what it then cuts off, as are linear layers that it does not call (it multiplies by Mamba-1's
`dt_proj.weight`). Of the rest, attention's products are compared with torch's counter alone, as fvcore does not see all
of them; a recurrence is no product that a counter knows (`tests/costs` has its terms).
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from early_exit.base.errors import InputError
from early_exit.base.records import write_json
from early_exit.costs.parts import Cost
from early_exit.models import loading

TOKENS = 3


def check(config: Mapping[str, Any], cost: Cost) -> dict[str, int]:
    """Returns the FLOPs of one token in the products of a block, by counter; all are `cost["linear"]`.

    `config` is the Hugging Face config. InputError that names the block and both numbers if a counter disagrees.
    """
    model = _one_block(config)
    block, call = _called(model)
    convolutions = sum(_by_weights(layer) for layer in block.modules() if isinstance(layer, nn.Conv1d))
    by_torch, others = _by_torch(model, block)
    found = {"torch": by_torch + convolutions, "fvcore": _by_fvcore(call) + convolutions}
    wanted = [(counter, "products", cost["linear"], count) for counter, count in found.items()]
    if cost["per_context"]:
        wanted.append(("torch", "attention", TOKENS * cost["per_context"], others))
    for counter, part, arithmetic, count in wanted:
        if arithmetic != count:
            name = f"{config.get('model_type')}: {type(block).__name__}"
            raise InputError(
                f"{name}: costs.parts says {arithmetic} FLOPs a token for its {part}, {counter}'s counter {count}; "
                "its costs would be wrong, so nothing is counted with them"
            )
    return found


class _Call(nn.Module):
    """A block with the arguments that its model calls it with beside the hidden states."""

    def __init__(self, block: nn.Module, hidden: Tensor, options: Mapping[str, Any]):
        super().__init__()
        self.block, self.hidden, self.options = block, hidden, options

    def forward(self, hidden: Tensor) -> Tensor:
        return self.block(hidden, **self.options)


def _one_block(config: Mapping[str, Any]) -> nn.Module:
    """Returns the library's model of a config with a single block and no weights."""
    values = {**config, "num_hidden_layers": 1, "use_cache": False}
    if config.get("layer_types"):
        values["layer_types"] = config["layer_types"][:1]
    # Eager attention is made of products that a counter sees.
    options = {"attn_implementation": "eager"} if "num_attention_heads" in config else {}
    with TemporaryDirectory() as folder:  # the library decodes infinite numbers in a file alone
        write_json(values, Path(folder, "config.json"))
        if config.get("architectures"):
            kind = loading.architecture(config)
            with torch.device("meta"):
                return kind(kind.config_class.from_pretrained(folder, trust_remote_code=False, **options)).eval()
        read = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, **options)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(read).eval()


def _called(model: nn.Module) -> tuple[nn.Module, _Call]:
    """Returns the model's block, and the call that the model makes of it."""
    block, calls = model.base_model.layers[0], []

    def note(block: nn.Module, args: tuple, options: dict[str, Any]) -> None:
        calls.append(_Call(block, args[0], options))

    noting = block.register_forward_pre_hook(note, with_kwargs=True)
    _run(model)
    noting.remove()
    return block, calls[0]


def _run(model: nn.Module) -> None:
    # With a mask of their own, models do not look for one in the positions, which have no values here.
    mask = {"attention_mask": torch.zeros((1, 1, TOKENS, TOKENS), device="meta")}
    attends = hasattr(model.config, "num_attention_heads")
    with torch.no_grad():
        model(torch.zeros((1, TOKENS), dtype=torch.long, device="meta"), **(mask if attends else {}))


def _by_torch(model: nn.Module, block: nn.Module) -> tuple[int, int]:
    """Returns FLOPs of one token, rounded down: in the block's linear layers, and in its other products."""
    names = {f"{type(model).__name__}.{name}": module for name, module in model.named_modules()}
    with FlopCounterMode(display=False) as counter:
        _run(model)
    by_module = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    inside = {*block.modules()}
    layers = {name: module for name, module in names.items() if module in inside and isinstance(module, nn.Linear)}
    whole = next(by_module.get(name, 0) for name, module in names.items() if module is block)
    in_layers = sum(by_module.get(name) or TOKENS * _by_weights(layer) for name, layer in layers.items())
    return in_layers // TOKENS, (whole - in_layers) // TOKENS


def _by_fvcore(call: _Call) -> int:
    """Returns FLOPs of one token in the block's linear layers; fvcore counts multiply-accumulates."""
    call.to_empty(device="cpu")
    call.options = tree_map_only(Tensor, lambda value: torch.zeros_like(value, device="cpu"), call.options)
    with torch.no_grad():
        analysis = FlopCountAnalysis(call, torch.zeros_like(call.hidden, device="cpu"))
        by_module = analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_module()
    layers = {name: module for name, module in call.named_modules() if isinstance(module, nn.Linear)}
    return sum(2 * by_module[name] or TOKENS * _by_weights(layer) for name, layer in layers.items()) // TOKENS


def _by_weights(layer: nn.Linear | nn.Conv1d) -> int:
    """Returns FLOPs of one token in a layer, by the shape of its weights."""
    return 2 * layer.weight.numel()
