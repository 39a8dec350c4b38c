"""The prefix cache: prompts that begin alike compute their common prefix once, where all blocks attend.

Few-shot prompts share their shots; the turns of a conversation share its story and all turns before. Sorted, such
prompts are neighbours, and each pass continues from the keys and values that the pass before it stored for the common
prefix: the same computation in other portions. Recurrent states cannot be cut back to a prefix, so Mamba blocks compute
every prompt whole.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from early_exit.models.backbone import Backbone

PASS_TOKENS = 16  # what a pass costs beside its tokens, in tokens: a product with few rows takes as long as with 16
PROMPT_TOKENS = 8192  # the most tokens of a pass, padding included: more gains nothing and takes memory

Prompt = Sequence[int]


class PrefixCache:
    """Keys and values of the last prompt that ran, and its hidden states at exits; nothing unless `shares`."""

    def __init__(self, backbone: Backbone, shares: bool):
        self.backbone, self.shares = backbone, shares
        self.prompt: Prompt = ()
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}  # (1, heads, T, width) each
        self.at_exits: dict[int, Tensor] = {}  # (1, T, hidden)

    def common(self, prompts: Sequence[Prompt]) -> int:
        """Length of the prefix that the last prompt and all of `prompts` (sorted) share, without any last token."""
        return min(self._shared(self.prompt, prompts[0], prompts[-1]), min(map(len, prompts)) - 1)

    def take(self, rows: int, common: int) -> DynamicCache:
        """A cache for `rows` rows that holds the last prompt's first `common` tokens."""
        cache = self.backbone.new_prompt_cache()
        if common:
            for index, stored in self.layers.items():
                keys, values = (part[:, :, :common].repeat_interleave(rows, 0) for part in stored)
                cache.update(keys, values, index)
        return cache

    def extend(self, at_exits: Mapping[int, Tensor], common: int) -> dict[int, Tensor]:
        """Hidden states at exits (rows, T, hidden), behind those of the last prompt's first `common` tokens."""
        if not common:
            return dict(at_exits)
        return {
            n: torch.cat([self.at_exits[n][:, :common].expand(len(new), -1, -1), new], 1) for n, new in at_exits.items()
        }

    def store(self, prompt: Prompt, cache: DynamicCache, at_exits: Mapping[int, Tensor], row: int) -> None:
        """Store what a pass left of `prompt`, which is its row `row`, for the next pass."""
        if self.shares:
            layers = {index: cache.layers[index] for index in self.backbone.layer_indices}
            self.layers = {n: (one.keys[row : row + 1].clone(), one.values[row : row + 1].clone())
                           for n, one in layers.items()}  # fmt: skip
            self.at_exits = {n: hidden[row : row + 1].clone() for n, hidden in at_exits.items()}
            self.prompt = prompt

    def groups(self, prompts: Sequence[Prompt], padding: float) -> Iterator[list[int]]:
        """Neighbours that are cheaper in one pass than apart, as indices.

        `prompts` are sorted. A group's tokens, with padding and without the common prefix, are at most PROMPT_TOKENS,
        and at most `padding` times what its prompts would be apart, each after the one before it.
        """
        group: list[int] = []
        apart, last = 0, self.prompt
        for k, prompt in enumerate(prompts):
            alone = len(prompt) - self._shared(last, prompt)
            longest = max(len(prompts[i]) for i in [*group, k])
            common = self._shared(self.prompt, prompts[group[0] if group else k], prompt)
            together = (len(group) + 1) * (longest - common)
            limit = padding * (apart + alone) + PASS_TOKENS * self.shares
            if group and (together > PROMPT_TOKENS or together > limit):
                yield group
                group, apart = [], 0
            group.append(k)
            apart, last = apart + alone, prompt
        if group:
            yield group

    def _shared(self, *prompts: Prompt) -> int:
        """Length of the common prefix; of sorted prompts the first and the last decide it for all."""
        if not self.shares:
            return 0
        different = (k for k, tokens in enumerate(zip(*prompts, strict=False)) if len(set(tokens)) > 1)
        return next(different, min(map(len, prompts)))
