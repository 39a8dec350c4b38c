"""Loads backbones and their tokenizers from the files that a manifest names, and checks that they fit together."""

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn

from early_exit.base import job, kernels
from early_exit.base.errors import InputError, reading
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
    for package, state in kernels.states().items():
        job.log.log(logging.WARNING if "cannot" in state else logging.INFO, "Mamba kernels of %s: %s", package, state)
    runtime = {key: settings[key] for key in ("seed", "device", "dtype", "threads")}
    backbone = load(manifest, *job.prepare_torch(**runtime), ROOT)
    return backbone, load_tokenizer(manifest, ROOT)


def load(manifest: Manifest, device: torch.device, dtype: torch.dtype, root: Path = Path()) -> Backbone:
    """Load the backbone that a manifest names, from safetensors or GGUF; never from pickle, and without remote code.

    InputError if a file has changed since it was fetched or cannot be read, or if its weights are not those of the
    model that its config describes: the library would draw missing ones at random, and leave out others.
    """
    folder, options = _location(manifest, root)
    # Progress bars and notes on kernels that are not installed would bury Snakemake's own output.
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    # By the name of its class, since the Auto class costs every job seconds of imports.
    auto = manifest["gguf"] is not None or not manifest["config"].get("architectures")
    loader = transformers.AutoModelForCausalLM if auto else architecture(manifest["config"])
    options |= {} if manifest["gguf"] else {"use_safetensors": True, "ignore_mismatched_sizes": True}  # refused below
    kernel = {} if manifest["family"] == "mamba" else {"attn_implementation": "sdpa"}
    with reading(folder), _no_code(folder):
        model, report = loader.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options, **kernel)
    for problem in ("missing_keys", "mismatched_keys"):
        if report[problem]:
            first = sorted(map(str, report[problem]))[0]
            raise InputError(
                f"{folder}: its weights do not fit its config ({problem}: {first}); fetch or copy both again"
            )
    model.config.quantization_config = None  # what the library notes of a GGUF file, whose weights it has unpacked
    _check_left_out(model, sorted(map(str, report["unexpected_keys"])), folder, manifest)
    model.to(device)
    _check_finite(model, folder)
    return adapt(model)


def load_tokenizer(manifest: Manifest, root: Path = Path()):
    """Load a backbone's tokenizer: what its tokenizer.json says, or its GGUF file, whatever else is installed.

    The library's class for a `tokenizer_class` may put steps of its own in place of the file's: GPT2Tokenizer drops
    the splitting of digits that SmolLM2 was trained with (transformers issue 45812). InputError if the tokenizer cannot
    be read, or has token ids for which the model has no embedding.
    """
    folder, options = _location(manifest, root, with_weights=False)
    file = Path(folder, manifest["gguf"] or "tokenizer.json")
    if not file.is_file():
        raise InputError(f"{file}: missing, and no other form of a tokenizer is read; copy it from the model's source")
    with reading(file), _no_code(folder):
        if manifest["gguf"]:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, mistral_format=False, **options)
        else:
            tokenizer = transformers.TokenizersBackend.from_pretrained(folder, **options)
            written = Tokenizer.from_file(str(file))
            for step in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
                setattr(tokenizer.backend_tokenizer, step, getattr(written, step))
    rows = manifest["config"]["vocab_size"]
    token, last = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1], default=("", -1))
    if last >= rows:
        why = f"token {token!r} has id {last}, but the model has {rows} embeddings; take the model's own tokenizer"
        raise InputError(f"{file}: {why}")
    return tokenizer


def stop_token_ids(backbone: Backbone, tokenizer) -> frozenset[int]:
    """Return the end-of-sequence ids, both those of the library's `generate` and the tokenizer's.

    They differ where a config was left at its defaults: Codestral Mamba's says 0, its tokenizer says 2.
    """
    ids = backbone.model.generation_config.eos_token_id
    ids = ids if isinstance(ids, Sequence) else [ids]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)


def _check_left_out(model: nn.Module, names: Sequence[str], folder: str, manifest: Manifest) -> None:
    """Raise an InputError that names a tensor of the files which the model has no place for, and so would leave out.

    It is harmless if the model has the same values anyway, in a parameter or buffer of the same last name: a rotation's
    frequencies, which it computes, or a tied LM head.
    """
    ours: dict[str, list[Tensor]] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        ours.setdefault(name.rpartition(".")[2], []).append(tensor)
    stored = _stored(Path(folder), manifest, {*names})
    for name in names:
        same = ours.get(name.rpartition(".")[2], [])
        if not (name in stored and any(_same(stored[name], tensor) for tensor in same)):
            why = f"its weights do not fit its config: {name} would be left out (quantised, adapted or another model?)"
            raise InputError(f"{folder}: {why}; merge an adapter first, or take a checkpoint of the plain model")


def _stored(folder: Path, manifest: Manifest, names: set[str]) -> dict[str, Tensor]:
    """Return the tensors of these names in the safetensors files."""
    found = {}
    for file in (file for file in manifest["files"] if names and file.endswith(".safetensors")):
        with safe_open(folder / file, framework="pt") as tensors:
            found |= {name: tensors.get_tensor(name) for name in names & {*tensors.keys()}}
    return found


def _same(stored: Tensor, ours: Tensor) -> bool:
    """Return whether two tensors have the same values, as far as the coarser of their number formats goes."""
    if stored.shape != ours.shape or not stored.is_floating_point():
        return False
    eps = max(torch.finfo(stored.dtype).eps, torch.finfo(ours.dtype).eps)
    return torch.allclose(stored.float(), ours.float(), rtol=eps, atol=0)


def _check_finite(model: nn.Module, folder: str) -> None:
    """Raise an InputError that names a weight with NaN or an infinite number: every answer would be the same token."""
    for name, parameter in model.named_parameters():
        if not all(extreme.isfinite() for extreme in parameter.detach().aminmax()):
            what = f"{name} has numbers in {str(parameter.dtype).removeprefix('torch.')} that are NaN or infinite"
            raise InputError(f"{folder}: {what}; fetch or copy it again, or set a dtype with a wider range")


@contextmanager
def _no_code(folder: str) -> Iterator[None]:
    """Turn the library's advice to trust code that came with a model into an InputError of one line."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise InputError(f"{folder}: needs code that comes with it, which is never run") from error


def architecture(config: Mapping[str, Any]) -> type:
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
