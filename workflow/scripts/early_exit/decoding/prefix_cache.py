"""The prefix cache: prompts that begin alike compute their common prefix once, where all blocks attend.

Few-shot prompts share their shots; the turns of a conversation share its story and all turns before. Sorted, such
prompts are neighbours, and each pass continues from the keys and values that the pass before it stored for the common
prefix: the same computation in other portions. Recurrent states cannot be cut back to a prefix, so Mamba blocks and
heads that read the prompt compute every prompt whole.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor
from transformers import DynamicCache

from early_exit.models.backbone import Backbone

PASS_TOKENS = 16  # what a pass costs beside its tokens, in tokens: a product with few rows takes as long as with 16
PROMPT_TOKENS = 8192  # the most tokens of a pass, padding included: more gains nothing and takes memory

Prompt = Sequence[int]


class PrefixCache:
    """Keys and values of the last prompt that ran; nothing is stored unless `shares`."""

    def __init__(self, backbone: Backbone, shares: bool):
        self.backbone, self.shares = backbone, shares
        self.prompt: Prompt = ()
        self.cache: DynamicCache | None = None

    def common(self, prompts: Sequence[Prompt]) -> int:
        """Length of the prefix that the last prompt and all of `prompts` (sorted) share, without any last token."""
        return min(self._shared(self.prompt, prompts[0], prompts[-1]), min(map(len, prompts)) - 1)

    def take(self, rows: int, common: int) -> DynamicCache:
        """A cache of the last prompt's first `common` tokens for `rows` rows; the stored one is used up."""
        cache, self.cache, self.prompt = self.cache, None, ()
        if common == 0:
            return self.backbone.new_prompt_cache()
        cache.crop(common - cache.get_seq_length(self.backbone.layer_indices[0]))  # by how many tokens
        cache.batch_repeat_interleave(rows)
        return cache

    def store(self, prompt: Prompt, cache: DynamicCache, row: Tensor) -> None:
        """Store what `cache` holds of `prompt` in `row` (1,), for the next pass."""
        if self.shares:
            cache.batch_select_indices(row)
            self.prompt, self.cache = prompt, cache

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
