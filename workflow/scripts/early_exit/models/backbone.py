"""One adapter over Hugging Face causal language models: embed, blocks, final norm with LM head, caches.

Blocks are called through their own modules, with a cache of ours (see `state`); no forward is copied. What a
backbone does here is run; where a token leaves is not its business. Blocks are counted from 1 (DESIGN: "exit
after n" means that n blocks were run).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import DynamicCache

from early_exit.base import job
from early_exit.base.errors import InputError
from early_exit.base.files import ROOT
from early_exit.models import attention, conformance, packed_linear, recurrent_steps
from early_exit.models.caches import AttentionState, RecurrentState
from early_exit.sources import manifests, model_files


@dataclass(frozen=True)
class Backbone:
    """A frozen language model, cut into the parts that early exits need. `blocks[n - 1]` is block n."""

    model: nn.Module
    family: str
    blocks: tuple[nn.Module, ...]
    layer_indices: tuple[int, ...]  # the library's 0-based index of each block, which caches go by

    @property
    def depth(self) -> int:
        return len(self.blocks)

    @property
    def hidden_size(self) -> int:
        return self.model.config.hidden_size

    @property
    def vocabulary(self) -> int:
        return self.model.lm_head.weight.shape[0]

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def context(self) -> int | None:
        """Longest sequence in tokens that the model was built for; None if it has no limit."""
        if self.family == "mamba":
            return None
        limits = (self.model.config.max_position_embeddings, getattr(self.model.config, "sliding_window", None))
        return min(limit for limit in limits if limit)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Token ids (rows, T) to hidden states (rows, T, hidden)."""
        return self.model.get_input_embeddings()(token_ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and LM head: (rows, hidden) to (rows, vocabulary), in float32 or better."""
        body = self.model.base_model
        norm = body.norm if self.family == "transformer" else body.norm_f
        logits = self.model.lm_head(norm(hidden).to(self.model.lm_head.weight.dtype))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def new_state(self, slots: int, capacity: int) -> AttentionState | RecurrentState:
        """Empty caches for `slots` rows of at most `capacity` tokens."""
        if self.family == "transformer":
            return AttentionState(self.layer_indices, slots, capacity, self.model.base_model.rotary_emb)
        return RecurrentState(self.layer_indices, slots, self.device)

    def run_block(self, n: int, hidden: Tensor, state: AttentionState | RecurrentState) -> Tensor:
        """Block n for each query of `state`, one token each; (queries, 1, hidden) to the same shape."""
        if self.family == "transformer":
            return self.blocks[n - 1](
                hidden, attention_mask=state.mask, past_key_values=state, use_cache=True,
                position_embeddings=state.rotation,
            )  # fmt: skip
        if state.waves is None:
            return self._run_mixer(n, hidden, state, None)
        outputs = torch.empty_like(hidden)
        for wave in state.waves:
            outputs[wave] = self._run_mixer(n, hidden[wave], state, wave)
        return outputs

    def _run_mixer(self, n: int, hidden: Tensor, state: RecurrentState, wave: Tensor | None) -> Tensor:
        state.only(wave)
        hidden = self.blocks[n - 1](hidden, cache_params=state)
        state.write_back(self.layer_indices[n - 1])
        return hidden

    def run_prompt(
        self, token_ids: Tensor, keep: Collection[int] = (), cache: DynamicCache | None = None, past: int = 0
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """All blocks over whole sequences of one length, from token ids (rows, T); the rest as in `run_sequences`."""
        return self.run_sequences(self.embed(token_ids), keep, cache, past)

    def run_sequences(
        self, hidden: Tensor, keep: Collection[int] = (), cache: DynamicCache | None = None, past: int = 0
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """All blocks over whole sequences of hidden states.

        Args:
            hidden: (rows, T, hidden). Sequences padded on the right are right up to their padding (all is causal).
            keep: blocks whose output is wanted too.
            cache: the library's own cache, filled for decoding; padding must be cut off what it holds.
            past: how many tokens before these it holds already (attention only).

        Returns:
            The hidden states after the last block, and those after each block of `keep`, all (rows, T, hidden).
        """
        kept = {}
        if self.family == "transformer":
            positions = torch.arange(past, past + hidden.shape[1], device=hidden.device)[None]
            rotation = self.model.base_model.rotary_emb(hidden, position_ids=positions)
            options = {"past_key_values": cache, "use_cache": cache is not None, "position_embeddings": rotation,
                       "attention_mask": _causal(positions[0]) if past else None}  # fmt: skip  # none: SDPA's own
        else:
            options = {"cache_params": cache}
        with recurrent_steps.ours():
            for n, block in enumerate(self.blocks, 1):
                hidden = block(hidden, **options)
                if n in keep:
                    kept[n] = hidden
        return hidden, kept

    def new_prompt_cache(self) -> DynamicCache:
        return DynamicCache(config=self.model.config)

    def without(self, dropped: Collection[int]) -> "Backbone":
        """Static pruning: the same weights without the blocks `dropped` (counted from 1), which are gone for good.

        InputError if a number is no block's, or none would be left.
        """
        unknown = set(dropped) - set(range(1, self.depth + 1))
        if unknown or len(set(dropped)) == self.depth:
            raise InputError(f"cannot drop blocks {sorted(dropped)} of {self.depth}; leave one at least")
        kept = [k for k in range(self.depth) if k + 1 not in dropped]
        return replace(self, blocks=tuple(self.blocks[k] for k in kept),
                       layer_indices=tuple(self.layer_indices[k] for k in kept))  # fmt: skip


def _causal(positions: Tensor) -> Tensor:
    """Which of all positions up to the last each of `positions` (T,) attends to: (1, 1, T, last + 1)."""
    return (torch.arange(int(positions[-1]) + 1, device=positions.device) <= positions[:, None])[None, None]


def adapt(model: nn.Module) -> Backbone:
    """Wrap a loaded causal LM; InputError if it is not built as one of the families (see `structure`)."""
    family = manifests.family(model.config.to_dict(), "backbone")
    conformance.check_modules(model, family)
    if family == "transformer":
        if model.config._attn_implementation not in ("sdpa", attention.NAME):
            raise InputError(f"backbone uses attention '{model.config._attn_implementation}'; load it with 'sdpa'")
        model.set_attn_implementation(attention.NAME)
    packed_linear.ours(model).eval().requires_grad_(False)
    blocks = tuple(model.base_model.layers)
    backbone = Backbone(model, family, blocks, tuple(range(len(blocks))))
    if model.config.model_type not in manifests.TESTED:
        conformance.check_outputs(backbone)
    return backbone


def open_backbone(manifest: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[Backbone, Any]:
    """Seeded torch, the backbone and its tokenizer, as every job that runs a model starts.

    `settings` has seed, device, dtype and threads; other keys are not looked at.
    """
    wanted = {key: settings[key] for key in ("seed", "device", "dtype", "threads")}
    backbone = load(manifest, *job.prepare_torch(**wanted), ROOT)
    return backbone, load_tokenizer(manifest, ROOT)


def load(manifest: Mapping[str, Any], device: torch.device, dtype: torch.dtype, root: Path = Path()) -> Backbone:
    """Load the weights that a backbone manifest names (safetensors or GGUF, never pickle, no remote code).

    InputError if a file is not the one that was fetched, or if weights are missing: the library would draw them.
    """
    folder, options = _location(manifest, root)
    # What they say of each job (bars, kernels that are not installed) would bury what Snakemake says.
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    # The class by its name: the Auto class costs every job seconds of imports.
    auto = manifest["gguf"] is not None or not manifest["config"].get("architectures")
    loader = transformers.AutoModelForCausalLM if auto else _architecture(manifest["config"])
    options |= {} if manifest["gguf"] else {"use_safetensors": True, "ignore_mismatched_sizes": True}  # refused below
    kernel = {} if manifest["family"] == "mamba" else {"attn_implementation": "sdpa"}
    with _no_code(folder):
        model, found = loader.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options, **kernel)
    for problem in ("missing_keys", "mismatched_keys"):
        if found[problem]:
            first = sorted(map(str, found[problem]))[0]
            raise InputError(
                f"{folder}: its weights do not fit its config ({problem}: {first}); fetch or copy both again"
            )
    return adapt(model.to(device))


def load_tokenizer(manifest: Mapping[str, Any], root: Path = Path()):
    """The tokenizer that belongs to a backbone manifest, by its tokenizer.json, whatever else is installed."""
    folder, options = _location(manifest, root, with_weights=False)
    with _no_code(folder):
        return transformers.AutoTokenizer.from_pretrained(folder, mistral_format=False, **options)


def stop_token_ids(backbone: Backbone, tokenizer) -> frozenset[int]:
    """End-of-sequence ids, those of the library's own `generate` and the tokenizer's.

    They differ where a config was left at its defaults: Codestral Mamba's says 0, its tokenizer's end is 2.
    """
    ids = backbone.model.generation_config.eos_token_id
    ids = ids if isinstance(ids, Sequence) else [ids]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)


@contextmanager
def _no_code(folder: str) -> Iterator[None]:
    """One line instead of the library's advice to trust what came with a model."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise InputError(f"{folder}: needs code that comes with it, which is never run") from error


def _architecture(config: Mapping[str, Any]) -> type:
    name = config["architectures"][0]
    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise InputError(f"architecture '{name}' is unknown to the installed transformers")
    return found


def _location(manifest: Mapping[str, Any], root: Path, with_weights: bool = True) -> tuple[str, dict[str, Any]]:
    """The folder to load from, its files unchanged since they were fetched, and how to load from it.

    It is always a folder: by a hub id, libraries look for more than what was fetched.
    """
    folder = manifests.cached(manifest) if manifest["path"] is None else root / manifest["path"]
    model_files.check_unchanged(folder, manifest, with_weights)
    options = {"gguf_file": manifest["gguf"]} if manifest["gguf"] else {}
    return str(folder), {"trust_remote_code": False, "local_files_only": True} | options
