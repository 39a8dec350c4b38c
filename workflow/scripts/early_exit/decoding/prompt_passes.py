"""Passes over prompts at full depth, which decoders of one backbone share: a prompt that has run is not run again."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from early_exit.decoding.prefix_cache import PrefixCache
from early_exit.decoding.requests import Request
from early_exit.models.backbone import Backbone

PADDING = 1.25  # where padding does no harm, prompts run together up to this many times their own tokens


@dataclass(frozen=True)
class PromptPass:
    """What one pass over prompts left; padding stands behind a prompt, and nothing before it has seen it.

    Args:
        cache: the library's, a row for each prompt.
        lengths: (prompts,) tokens.
        logits: (prompts, vocabulary) of each prompt's last token.
        at_exits: hidden states (prompts, T, hidden) after the exits that are read.
    """

    cache: DynamicCache
    lengths: Tensor
    logits: Tensor
    at_exits: Mapping[int, Tensor]


@dataclass(frozen=True)
class ReadPrompts:
    """The requests whose prompts one pass has read; `rows` says in which of its rows each prompt is."""

    done: PromptPass
    rows: Sequence[int]
    requests: Sequence[Request]

    def of_equal_length(self) -> "Iterator[ReadPrompts]":
        """The same in parts, one for each length of prompts."""
        by_length: dict[int, list[int]] = {}
        for k, request in enumerate(self.requests):
            by_length.setdefault(len(request.token_ids), []).append(k)
        for places in by_length.values():
            yield ReadPrompts(self.done, [self.rows[k] for k in places], [self.requests[k] for k in places])


class PromptPasses:
    """Runs prompts through `backbone`, neighbours that begin alike or are of one length in one pass.

    Args:
        exits_read: blocks whose hidden states heads will read.
        reserved: bytes for what passes leave, which is stored for other decoders; without, nothing is stored.
    """

    def __init__(self, backbone: Backbone, exits_read: Collection[int] = (), reserved: int = 0):
        self.backbone, self.exits_read, self.reserved = backbone, sorted(exits_read), reserved
        # A prefix can be shared only where a prompt leaves nothing but keys and values, one pair for each position.
        self.prefixes = PrefixCache(backbone, backbone.family == "transformer")
        self._stored: dict[tuple[int, ...], tuple[PromptPass, int]] = {}

    def order(self, request: Request) -> tuple:
        """Sorts requests so that neighbours share a prefix, or at least have the same length."""
        tokens = request.token_ids
        return tokens if self.prefixes.shares else len(tokens), request.example_id

    def read(self, requests: Sequence[Request]) -> Iterator[ReadPrompts]:
        """The passes over the prompts of `requests` (sorted); only those are run that are not stored."""
        stored: dict[int, list[tuple[int, Request]]] = {}
        passes, waiting = {}, []
        for request in requests:
            if (place := self._stored.get(tuple(request.token_ids))) is None:
                waiting.append(request)
            else:
                done, row = place
                passes[id(done)] = done
                stored.setdefault(id(done), []).append((row, request))
        for key, members in stored.items():
            rows, same = zip(*members, strict=True)
            yield ReadPrompts(passes[key], rows, same)
        padding = PADDING if self.prefixes.shares else 1.0
        for group in self.prefixes.groups([request.token_ids for request in waiting], padding):
            together = [waiting[k] for k in group]
            yield ReadPrompts(self._run(together), range(len(together)), together)

    def _run(self, requests: Sequence[Request]) -> PromptPass:
        """Run prompts in one pass, behind the prefix that they share with the prompts before them."""
        prefixes, device = self.prefixes, self.backbone.device
        prompts = [torch.tensor(request.token_ids, device=device) for request in requests]
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        common = prefixes.common([request.token_ids for request in requests])
        cache = prefixes.take(len(requests), common)
        new = pad_sequence([prompt[common:] for prompt in prompts], batch_first=True)  # (prompts, T)
        hidden, at_exits = self.backbone.run_prompt(new, self.exits_read, cache, common)
        logits = self.backbone.logits(hidden[torch.arange(len(requests), device=device), lengths - common - 1])
        done = PromptPass(cache, lengths, logits, prefixes.extend(at_exits, common))
        prefixes.store(requests[-1].token_ids, cache, done.at_exits, len(requests) - 1)
        if self.reserved:
            for row, request in enumerate(requests):
                self._stored[tuple(request.token_ids)] = done, row
        return done
