"""Loads backbones and their tokenizers from the files that a manifest names, and checks that they fit together."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from early_exit.base import job
from early_exit.base.errors import InputError
from early_exit.base.files import ROOT
from early_exit.base.records import Manifest
from early_exit.models import attention, conformance
from early_exit.models.backbone import Backbone
from early_exit.models.packed_linear import pack_linears
from early_exit.models.recurrent_steps import use_plain_steps
from early_exit.sources import families, manifests, model_files


def adapt(model: nn.Module) -> Backbone:
    """Cut a loaded causal LM into a backbone, and freeze it.

    The backbone's blocks and LM head are copies that share the model's weights. Only the copies attend over scattered
    rows, multiply packed weights and take our Mamba-2 steps: the model's own forward and `generate` remain the
    library's, to compare with. InputError if the model is not built like one of the families (see `conformance`).
    """
    family = families.family(model.config.to_dict(), "backbone")
    conformance.check_modules(model, family)
    if family == "transformer" and model.config._attn_implementation != "sdpa":
        raise InputError(f"backbone uses attention '{model.config._attn_implementation}'; load it with 'sdpa'")
    model.eval().requires_grad_(False)
    engine = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    if family == "transformer":
        engine.set_attn_implementation(attention.NAME)
    pack_linears(engine)
    use_plain_steps(engine)
    blocks = tuple(engine.base_model.layers)
    backbone = Backbone(model, family, blocks, tuple(range(len(blocks))), engine.lm_head)
    if model.config.model_type not in families.TESTED:
        conformance.check_outputs(backbone)
    return backbone


def open_backbone(manifest: Manifest, settings: Mapping[str, Any]) -> tuple[Backbone, Any]:
    """Seed torch, and load a job's backbone and tokenizer.

    `settings` has seed, device, dtype and threads; other keys are ignored.
    """
    runtime = {key: settings[key] for key in ("seed", "device", "dtype", "threads")}
    backbone = load(manifest, *job.prepare_torch(**runtime), ROOT)
    return backbone, load_tokenizer(manifest, ROOT)


def load(manifest: Manifest, device: torch.device, dtype: torch.dtype, root: Path = Path()) -> Backbone:
    """Load the backbone that a manifest names, from safetensors or GGUF; never from pickle, and without remote code.

    InputError if a file has changed since it was fetched, or if weights are missing: the library would draw them at
    random.
    """
    folder, options = _location(manifest, root)
    # Progress bars and notes on kernels that are not installed would bury Snakemake's own output.
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    # By the name of its class, since the Auto class costs every job seconds of imports.
    auto = manifest["gguf"] is not None or not manifest["config"].get("architectures")
    loader = transformers.AutoModelForCausalLM if auto else _architecture(manifest["config"])
    options |= {} if manifest["gguf"] else {"use_safetensors": True, "ignore_mismatched_sizes": True}  # refused below
    kernel = {} if manifest["family"] == "mamba" else {"attn_implementation": "sdpa"}
    with _no_code(folder):
        model, report = loader.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options, **kernel)
    for problem in ("missing_keys", "mismatched_keys"):
        if report[problem]:
            first = sorted(map(str, report[problem]))[0]
            raise InputError(
                f"{folder}: its weights do not fit its config ({problem}: {first}); fetch or copy both again"
            )
    return adapt(model.to(device))


def load_tokenizer(manifest: Manifest, root: Path = Path()):
    """Load the tokenizer of a backbone manifest from its tokenizer.json, whatever other packages are installed."""
    folder, options = _location(manifest, root, with_weights=False)
    with _no_code(folder):
        return transformers.AutoTokenizer.from_pretrained(folder, mistral_format=False, **options)


def stop_token_ids(backbone: Backbone, tokenizer) -> frozenset[int]:
    """Return the end-of-sequence ids, both those of the library's `generate` and the tokenizer's.

    They differ where a config was left at its defaults: Codestral Mamba's says 0, its tokenizer says 2.
    """
    ids = backbone.model.generation_config.eos_token_id
    ids = ids if isinstance(ids, Sequence) else [ids]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)


@contextmanager
def _no_code(folder: str) -> Iterator[None]:
    """Turn the library's advice to trust code that came with a model into an InputError of one line."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise InputError(f"{folder}: needs code that comes with it, which is never run") from error


def _architecture(config: Mapping[str, Any]) -> type:
    """Return the library's class that a config names; InputError if the installed library has none of that name."""
    name = config["architectures"][0]
    architecture = getattr(transformers, name, None)
    if not (isinstance(architecture, type) and issubclass(architecture, transformers.PreTrainedModel)):
        raise InputError(f"architecture '{name}' is unknown to the installed transformers")
    return architecture


def _location(manifest: Manifest, root: Path, with_weights: bool = True) -> tuple[str, dict[str, Any]]:
    """Return the folder to load from, and the options; InputError if files have changed since they were fetched.

    It is always a folder: given a hub id, libraries look for more files than were fetched.
    """
    folder = manifests.cached_folder(manifest) if manifest["path"] is None else root / manifest["path"]
    model_files.check_unchanged(folder, manifest, with_weights)
    options = {"gguf_file": manifest["gguf"]} if manifest["gguf"] else {}
    return str(folder), {"trust_remote_code": False, "local_files_only": True} | options
