"""An adapter over Hugging Face causal language models: embeddings, blocks, final norm with LM head, caches.

Blocks are called as modules with caches of ours (see `caches`); no forward is copied. Where a token leaves is decided
elsewhere. Blocks are counted from 1: "exit after n" means that n blocks were run.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from early_exit.base.errors import InputError
from early_exit.models.caches import AttentionState, RecurrentState


class NotFinite(InputError):
    """Logits are infinite or no numbers: whatever were chosen from them would look like an answer."""


@dataclass(frozen=True)
class Backbone:
    """A frozen language model, cut into the parts that early exits need; `loading.adapt` makes it.

    Args:
        model: the library's, as it was loaded. Its own forward and `generate` are what results are compared with.
        family: transformer or mamba.
        blocks: `blocks[n - 1]` is block n. Blocks and LM head are copies of the model's that share its weights.
        layer_indices: the library's 0-based index of each block, by which caches are addressed.
        lm_head: maps the normed hidden state to logits.
    """

    model: nn.Module
    family: str
    blocks: tuple[nn.Module, ...]
    layer_indices: tuple[int, ...]
    lm_head: nn.Module

    @property
    def depth(self) -> int:
        return len(self.blocks)

    @property
    def hidden_size(self) -> int:
        return self.model.config.hidden_size

    @property
    def vocabulary(self) -> int:
        return self.lm_head.weight.shape[0]

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def context(self) -> int | None:
        """The longest sequence, in tokens, that the model was built for; None without a limit."""
        if self.family == "mamba":
            return None
        limits = (self.model.config.max_position_embeddings, getattr(self.model.config, "sliding_window", None))
        return min(limit for limit in limits if limit)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Map token ids (rows, T) to hidden states (rows, T, hidden)."""
        return self.model.get_input_embeddings()(token_ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """Apply final norm and LM head: (..., hidden) to (..., vocabulary), in float32 or better.

        NotFinite if one of the logits is infinite or not a number.
        """
        body = self.model.base_model
        norm = body.norm if self.family == "transformer" else body.norm_f
        logits = self.lm_head(norm(hidden).to(self.lm_head.weight.dtype))
        # The largest is not a number if one of them is not.
        if logits.numel() and not bool(torch.isfinite(logits.amax())):
            kind = str(self.model.dtype).removeprefix("torch.")
            raise NotFinite(f"logits are not finite in {kind}; take another dtype, or see that the weights are whole")
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def new_state(self, slots: int, capacity: int) -> AttentionState | RecurrentState:
        """Return empty caches for `slots` rows of at most `capacity` tokens."""
        if self.family == "transformer":
            return AttentionState(self.layer_indices, slots, capacity, self.model.base_model.rotary_emb)
        return RecurrentState(self.layer_indices, slots, self.device)

    def run_block(self, n: int, hidden: Tensor, state: AttentionState | RecurrentState) -> Tensor:
        """Run block n for each query of `state`, one token each: (queries, 1, hidden) to the same shape."""
        if self.family == "transformer":
            return self.blocks[n - 1](
                hidden,
                attention_mask=state.mask,
                past_key_values=state,
                use_cache=True,
                position_embeddings=state.rotation,
            )
        if state.waves is None:
            return self._run_mixer(n, hidden, state, None)
        outputs = torch.empty_like(hidden)
        for wave in state.waves:
            outputs[wave] = self._run_mixer(n, hidden[wave], state, wave)
        return outputs

    def _run_mixer(self, n: int, hidden: Tensor, state: RecurrentState, wave: Tensor | None) -> Tensor:
        state.select(wave)
        hidden = self.blocks[n - 1](hidden, cache_params=state)
        state.write_back(self.layer_indices[n - 1])
        return hidden

    def run_prompt(
        self, token_ids: Tensor, keep: Collection[int] = (), cache: DynamicCache | None = None, past: int = 0
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run all blocks over token ids (rows, T) of whole sequences; the rest as in `run_sequences`."""
        return self.run_sequences(self.embed(token_ids), keep, cache, past)

    def run_sequences(
        self, hidden: Tensor, keep: Collection[int] = (), cache: DynamicCache | None = None, past: int = 0
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run all blocks over whole sequences of hidden states.

        Args:
            hidden: (rows, T, hidden). Padding on the right does not change results before it: all blocks are causal.
            keep: blocks whose output is returned, too.
            cache: the library's cache, filled for decoding; what it holds of padding must be cut off.
            past: number of earlier tokens that it holds already (attention only).

        Returns:
            The hidden states after the last block, and those after each block of `keep`, all (rows, T, hidden).
        """
        kept = {}
        if self.family == "transformer":
            positions = torch.arange(past, past + hidden.shape[1], device=hidden.device)[None]
            rotation = self.model.base_model.rotary_emb(hidden, position_ids=positions)
            mask = causal_mask(positions[0]) if past else None  # without a mask SDPA is causal by itself
            options = {
                "past_key_values": cache,
                "use_cache": cache is not None,
                "position_embeddings": rotation,
                "attention_mask": mask,
            }
        else:
            options = {"cache_params": cache}
        for n, block in enumerate(self.blocks, 1):
            hidden = block(hidden, **options)
            if n in keep:
                kept[n] = hidden
        return hidden, kept

    def new_prompt_cache(self) -> DynamicCache:
        """Return the library's empty cache for `run_prompt`."""
        return DynamicCache(config=self.model.config)

    def without(self, dropped: Collection[int]) -> "Backbone":
        """Return the backbone without the blocks `dropped` (static pruning), on the same weights.

        InputError if a number is not a block's, or if no block would be left.
        """
        unknown = set(dropped) - set(range(1, self.depth + 1))
        if unknown or len(set(dropped)) == self.depth:
            raise InputError(f"cannot drop blocks {sorted(dropped)} of {self.depth}; leave one at least")
        kept = [k for k in range(self.depth) if k + 1 not in dropped]
        blocks, indices = (tuple(part[k] for k in kept) for part in (self.blocks, self.layer_indices))
        return replace(self, blocks=blocks, layer_indices=indices)


def causal_mask(positions: Tensor) -> Tensor:
    """Return which positions each of `positions` (T,) attends to: (1, 1, T, last position + 1), True for attended."""
    return (torch.arange(int(positions[-1]) + 1, device=positions.device) <= positions[:, None])[None, None]
