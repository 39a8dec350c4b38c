"""One run: a backbone and a policy answer the examples of one split at every setting."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import pandas as pd

from early_exit.base import job
from early_exit.base.errors import InputError
from early_exit.base.journal import Journal
from early_exit.base.records import GENERATIONS
from early_exit.data.conversations import Prompt, Rounds
from early_exit.decoding import loop, memory, stopping
from early_exit.decoding.requests import Generation, Request
from early_exit.decoding.run_parts import RunPart
from early_exit.decoding.stopping import StopRule


@dataclass(frozen=True)
class Rules:
    """What makes an answer beside model and policy.

    Args:
        stop: where answers end.
        prompt_overflow: what happens to a prompt that the window has no room for: refuse, cut-left or cut-right.
        repetition_penalty: see `GreedyDecoding`; 1 is none.
        degeneration: `ngram` and `repeats` of a repetition loop (see `stopping.is_degenerate`).
    """

    stop: StopRule
    prompt_overflow: str
    repetition_penalty: float
    degeneration: Mapping[str, int]


@dataclass(frozen=True)
class Answerer:
    """The decoders of a run with the rules of answering, ready for prompts.

    `setting_kind` and `seed` are the run's, as records.GENERATIONS has them.
    """

    tokenizer: Callable
    parts: Sequence[RunPart]
    rules: Rules
    limits: memory.Limits
    setting_kind: str
    seed: int

    @property
    def settings(self) -> list[float]:
        return [setting for part in self.parts for setting in part.settings]

    def __call__(self, prompts: Sequence[Prompt]) -> Iterator[Generation]:
        """The answers to each prompt at each of its settings, in the order in which they end."""
        room = window_room(self.parts[0].decoder.backbone.context, self.rules.stop.max_new_tokens)
        requests = tokenise(prompts, self.tokenizer, room, self.rules.prompt_overflow)
        for part in self.parts:
            yield from answer_part(part, requests, self.rules, self.limits)


def empty_answers() -> pd.DataFrame:
    """A frame of records.GENERATIONS without rows."""
    return pd.DataFrame(columns=GENERATIONS.names)


def run(answerer: Answerer, examples: pd.DataFrame, journal: Journal) -> pd.DataFrame:
    """Answer all examples; a frame of records.GENERATIONS sorted by example and setting.

    `examples` are rows of records.EXAMPLES. `journal` stores the answers; those that it holds already are not generated
    again.
    """
    rules, settings = answerer.rules, answerer.settings
    rounds, rows = Rounds(examples, settings), list(journal.rows)
    for row in rows:
        rounds.note(row["example_id"], row["setting"], row["text"])
    answers = chain.from_iterable(answerer(prompts) for prompts in rounds)
    for answer in job.progress(answers, len(examples) * len(settings) - len(rows), "answers"):
        text = rules.stop.text(answer.token_ids)
        rounds.note(answer.example_id, answer.setting, text)
        row = {
            "example_id": answer.example_id,
            "setting": answer.setting,
            "setting_kind": answerer.setting_kind,
            "prompt_sha256": answer.request.prompt_sha256,
            "prompt_tokens": answer.prompt_tokens,
            "prompt_cut": answer.request.prompt_cut,
            "token_ids": answer.token_ids,
            "exit_blocks": answer.exit_blocks,
            "drafted": answer.drafted,
            "accepted": answer.accepted,
            "text": text,
            "stop_reason": answer.stop_reason,
            "degenerate": stopping.is_degenerate(answer.token_ids, **rules.degeneration),
            "repetition_penalty": rules.repetition_penalty,
            "seed": answerer.seed,
        }
        rows.append(row)
        journal.add(row)
    return pd.DataFrame(rows).sort_values(["example_id", "setting"], ignore_index=True)


def window_room(context: int | None, max_new_tokens: int) -> int | None:
    """The tokens that a prompt may have in a window of `context` tokens; None: as many as it likes."""
    return None if context is None else context - max_new_tokens


def tokenise(prompts: Sequence[Prompt], tokenizer: Callable, room: int | None, overflow: str) -> list[Request]:
    """Prompts as requests.

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
        requests.append(Request(prompt.example_id, token_ids, prompt.settings, prompt.sha256, cut))
    return requests


def answer_part(
    part: RunPart, requests: Sequence[Request], rules: Rules, limits: memory.Limits
) -> Iterator[Generation]:
    """The answers at the part's settings; a batch that runs out of memory is halved, and its rows start again."""
    missing = _only(requests, lambda row: row[1] in part.settings)
    if not missing:
        return
    decoder = part.decoder
    shape = memory.Shape(
        prompt=max(len(request.token_ids) for request in missing),
        new_tokens=rules.stop.max_new_tokens,
        exits_read=len(decoder.policy.exits) * decoder.policy.reads_prompt,
        drafted=decoder.drafted,
        asks_lm_head=decoder.policy.asks_lm_head,
    )
    slots = memory.rows_that_fit(limits, decoder.largest_backbone, shape)
    predicted = memory.peak(decoder.largest_backbone, slots, shape) / memory.MIB
    job.log.info("%d rows at once, %.0f MiB predicted beside the weights", slots, predicted)
    while missing:
        done = set()
        try:
            for answer in loop.generate(
                decoder, missing, rules.stop, slots=slots, repetition_penalty=rules.repetition_penalty
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
        missing = _only(missing, lambda row: row not in done)  # noqa: B023
        memory.release(decoder.backbone.device)


def _only(requests: Sequence[Request], is_wanted: Callable[[tuple[str, float]], bool]) -> list[Request]:
    """The requests with those of their rows (example, setting) that are wanted."""
    narrowed = [
        replace(request, settings=[t for t in request.settings if is_wanted((request.example_id, t))])
        for request in requests
    ]
    return [request for request in narrowed if request.settings]
