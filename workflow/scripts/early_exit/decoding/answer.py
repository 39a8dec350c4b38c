"""A backbone answers the examples of one dataset, with several policies and at all settings of each.

A prompt runs once for all policies that take it from the same blocks; then one policy after the other decodes it. What
a prompt left is stored meanwhile, so prompts are taken in chunks that fit a quarter of the memory.
"""

from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch

from early_exit.base import job
from early_exit.base.errors import InputError
from early_exit.base.kept_answers import KeptAnswers, Row
from early_exit.data.conversations import Prompt, Rounds
from early_exit.decoding import loop, memory
from early_exit.decoding.prompt_passes import PromptPasses
from early_exit.decoding.requests import Generation, Request
from early_exit.decoding.run_parts import RunPart
from early_exit.decoding.stopping import StopRule

Column = tuple[str, float]  # a policy's name and one of its settings
Asked = Sequence[tuple[Prompt, Request]]


@dataclass(frozen=True)
class Rules:
    """What makes an answer beside model and policy.

    Args:
        stop: where answers end.
        prompt_overflow: what happens to a prompt that the window has no room for: refuse, cut-left or cut-right.
        repetition_penalty: see `GreedyDecoding`; 1 is none.
    """

    stop: StopRule
    prompt_overflow: str
    repetition_penalty: float


@dataclass(frozen=True)
class Answerer:
    """The decoders of all policies, by name, with the rules of answering, ready for prompts."""

    tokenizer: Callable
    parts: Mapping[str, Sequence[RunPart]]
    rules: Rules
    limits: memory.Limits

    @property
    def device(self) -> torch.device:
        return self._named_parts[0][1].decoder.backbone.device

    @property
    def _named_parts(self) -> list[tuple[str, RunPart]]:
        return [(policy, part) for policy, parts in self.parts.items() for part in parts]

    def __call__(self, prompts: Sequence[Prompt]) -> Iterator[tuple[str, Generation]]:
        """The policy and the answer, for each column of each prompt, in the order in which they end."""
        named = self._named_parts
        room = window_room(named[0][1].decoder.backbone.context, self.rules.stop.max_new_tokens)
        requests = tokenise(prompts, self.tokenizer, room, self.rules.prompt_overflow)
        asked = list(zip(prompts, requests, strict=True))
        sharing: dict[int, list[tuple[str, RunPart]]] = {}
        for policy, part in named:
            sharing.setdefault(id(part.decoder.largest_backbone), []).append((policy, part))
        for same in sharing.values():
            yield from self._answer_sharing(same, asked)

    def _answer_sharing(self, parts: Sequence[tuple[str, RunPart]], asked: Asked) -> Iterator[tuple[str, Generation]]:
        """The answers of decoders whose prompts run through the same blocks."""
        decoders = [part.decoder for _, part in parts]
        backbone, exits_read = decoders[0].largest_backbone, {n for one in decoders for n in one.exits_read}
        asked = [one for one in asked if any(_requests(policy, part, [one]) for policy, part in parts)]
        reserved = self.limits.budget // 4 if len(parts) > 1 else 0
        for chunk in _chunks(asked, PromptPasses(backbone, exits_read, reserved)):
            prompts = PromptPasses(backbone, exits_read, reserved)
            for policy, part in parts:
                for generation in answer_part(part, _requests(policy, part, chunk), self.rules, self.limits, prompts):
                    yield policy, generation


@dataclass(frozen=True)
class Kept:
    """The kept answers of a job, and the key of each of its columns."""

    answers: KeptAnswers
    keys: Mapping[Column, str]

    def get(self, column: Column, example_id: str, prompt_sha256: str) -> Row | None:
        return self.answers.get(self.keys[column], example_id, prompt_sha256)

    def add(self, column: Column, row: Row) -> None:
        self.answers.add(self.keys[column], row)


def run(
    open_answerer: Callable[[], Answerer], examples: pd.DataFrame, columns: Sequence[Column], kept: Kept,
    excluded: Collection[tuple[str, Column]] = (),
) -> list[tuple[Column, Row]]:  # fmt: skip
    """Answer all examples for all columns but the pairs `excluded`.

    `examples` are rows of records.EXAMPLES. Answers that are kept already are not computed again; where all are,
    `open_answerer` is not called.
    """
    rounds = Rounds(examples, columns, excluded)
    total = len(examples) * len(columns) - len(excluded)
    rows = []
    for column, row in job.progress(_rows(open_answerer, rounds, kept), total, "answers"):
        rounds.note(row["example_id"], column, row["text"])
        rows.append((column, row))
    return rows


def _rows(open_answerer: Callable[[], Answerer], rounds: Rounds, kept: Kept) -> Iterator[tuple[Column, Row]]:
    """The answers of all rounds: of each first those that are kept, then the others, which are kept from now on."""
    answerer = None
    for prompts in rounds:
        missing = []
        for prompt in prompts:
            known = {column: kept.get(column, prompt.example_id, prompt.sha256) for column in prompt.columns}
            yield from ((column, row) for column, row in known.items() if row)
            if columns := tuple(column for column, row in known.items() if row is None):
                missing.append(replace(prompt, columns=columns))
        if not missing:
            continue
        answerer = answerer or open_answerer()
        for policy, answer in answerer(missing):
            row = {
                "example_id": answer.example_id,
                "prompt_sha256": answer.request.prompt_sha256,
                "prompt_tokens": answer.prompt_tokens,
                "prompt_cut": answer.request.prompt_cut,
                "token_ids": answer.token_ids,
                "exit_blocks": answer.exit_blocks,
                "drafted": answer.drafted,
                "accepted": answer.accepted,
                "text": answerer.rules.stop.text(answer.token_ids),
                "stop_reason": answer.stop_reason,
            }
            kept.add((policy, answer.setting), row)
            yield (policy, answer.setting), row


def window_room(context: int | None, max_new_tokens: int) -> int | None:
    """The tokens that a prompt may have in a window of `context` tokens; None: as many as it likes.

    InputError if there is no room for any.
    """
    if context is None:
        return None
    if context <= max_new_tokens:
        raise InputError(
            f"max_new_tokens: {max_new_tokens} leaves a prompt no room in the backbone's window of {context} tokens; "
            "lower it in the config's entry of the dataset"
        )
    return context - max_new_tokens


def tokenise(prompts: Sequence[Prompt], tokenizer: Callable, room: int | None, overflow: str) -> list[Request]:
    """Prompts as requests without settings.

    A prompt of more than `room` tokens is an InputError that names the example (`refuse`), or loses its first
    (`cut-left`) or last tokens (`cut-right`); how many is logged, and noted in the request.
    """
    encoded = tokenizer([prompt.text for prompt in prompts])["input_ids"]
    requests = []
    for prompt, token_ids in zip(prompts, encoded, strict=True):
        cut = 0 if room is None else max(0, len(token_ids) - room)
        if cut:
            length = len(token_ids)
            if overflow == "refuse":
                raise InputError(
                    f"example {prompt.example_id}: its prompt has {length} tokens, the backbone's window has room for "
                    f"{room}; lower max_new_tokens or set generation.prompt_overflow: cut-left"
                )
            token_ids = token_ids[-room:] if overflow == "cut-left" else token_ids[:room]
            job.log.warning("example %s: prompt of %d tokens, %s to %d", prompt.example_id, length, overflow, room)
        requests.append(Request(prompt.example_id, token_ids, (), prompt.sha256, cut))
    return requests


def answer_part(
    part: RunPart, requests: Sequence[Request], rules: Rules, limits: memory.Limits, prompts: PromptPasses | None = None
) -> Iterator[Generation]:
    """The answers to requests with settings of the part; a batch that runs out of memory is halved, and starts again.

    `prompts` are the passes of its prompts, if other decoders share them.
    """
    if not requests:
        return
    missing, decoder = requests, part.decoder
    prompts = prompts or PromptPasses(decoder.largest_backbone, decoder.exits_read)
    shape = memory.Shape(
        prompt=max(len(request.token_ids) for request in missing),
        new_tokens=rules.stop.max_new_tokens,
        exits_read=len(prompts.exits_read),
        drafted=decoder.drafted,
        asks_lm_head=decoder.policy.asks_lm_head,
    )
    slots = memory.rows_that_fit(limits, decoder.largest_backbone, shape, prompts.reserved)
    predicted = memory.peak(decoder.largest_backbone, slots, shape) / memory.MIB
    job.log.info("%d rows at once, %.0f MiB predicted beside the weights", slots, predicted)
    while missing:
        done = set()
        try:
            for answer in loop.generate(
                decoder, missing, rules.stop, slots=slots, repetition_penalty=rules.repetition_penalty, prompts=prompts
            ):
                done.add((answer.example_id, answer.setting))
                yield answer
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
            if slots == 1:
                raise InputError("out of memory with a single row; give the job more memory (resources)") from error
            slots //= 2
            job.log.warning("out of memory: going on with %d rows at once", slots)
        missing = _without(missing, done)
        memory.release(decoder.backbone.device)


def _without(requests: Sequence[Request], done: Container[tuple[str, float]]) -> list[Request]:
    """The requests without those rows (example, setting) that are done."""
    rest = [replace(one, settings=[t for t in one.settings if (one.example_id, t) not in done]) for one in requests]
    return [request for request in rest if request.settings]


def _requests(policy: str, part: RunPart, asked: Asked) -> list[Request]:
    """The requests with the settings that a part of a policy answers."""
    narrowed = [
        replace(request, settings=[t for name, t in prompt.columns if name == policy and t in part.settings])
        for prompt, request in asked
    ]
    return [request for request in narrowed if request.settings]


def _chunks(asked: Asked, prompts: PromptPasses) -> Iterator[Asked]:
    """Neighbouring prompts whose passes take as much memory as is reserved for them; all, if they are not stored."""
    chunk, stored = [], 0
    for one in sorted(asked, key=lambda one: prompts.order(one[1])):
        size = memory.stored_prompt(prompts.backbone, len(one[1].token_ids), len(prompts.exits_read))
        if chunk and prompts.reserved and stored + size > prompts.reserved:
            yield chunk
            chunk, stored = [], 0
        chunk.append(one)
        stored += size
    if chunk:
        yield chunk
