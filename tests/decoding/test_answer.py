"""A run's loop around the engine: memory budgets, running out of memory, prompts beyond the window, own history."""

import logging

import pandas as pd
import pytest
import torch

from early_exit.base.errors import InputError
from early_exit.data.conversations import Prompt
from early_exit.decoding import answer, loop, memory, run_parts
from early_exit.decoding.batch import Decoder
from early_exit.decoding.run_parts import RunPart
from early_exit.experiment.config.policies import parse
from early_exit.models import loading
from early_exit.policies import base
from engine import LIMITS, Length, prompts, requests_for, rules
from peak_memory import SHAPES, PeakMemory


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("rows", "length"), [(1, 150), (6, 150), (24, 30)])
def test_predicted_peak_bounds_the_measured_one(name, rows, length):
    torch.manual_seed(0)
    backbone = loading.adapt(SHAPES[name]().eval())
    requests = [loop.Request(f"{k}", torch.randint(3, 900, (length,)).tolist(), [1.0]) for k in range(rows)]
    with PeakMemory() as measured:
        list(loop.generate(Decoder(backbone), requests, Length(4), slots=rows))
    predicted = memory.peak(backbone, rows, memory.Shape(length, 4))
    assert predicted / 2 < measured.peak <= predicted


def test_rows_fit_a_budget(random_model):
    backbone = loading.adapt(random_model)
    shape = memory.Shape(20, 8)
    enough = memory.peak(backbone, 12, shape)
    assert memory.rows_that_fit(memory.Limits(50, enough), backbone, shape) == 12
    assert memory.rows_that_fit(memory.Limits(7, enough), backbone, shape) == 7
    assert memory.rows_that_fit(memory.Limits(50, 0), backbone, shape) == 1


def test_budget_is_what_the_config_says_or_the_job_has_left():
    cpu = torch.device("cpu")
    assert memory.budget(3.5, 1000, cpu) == int(3.5 * memory.MIB)
    large = memory.budget("auto", 100_000, cpu)
    assert 80_000 * memory.MIB < large < 100_000 * memory.MIB  # less what this process holds
    assert memory.budget("auto", 1, cpu) == 0


class OutOfMemory(base.FullDepth):
    """Runs out of memory at given steps, as torch says it."""

    exits = (2,)

    def __init__(self, steps, error):
        self.steps, self.error, self.seen, self.slots = set(steps), error, 0, []

    def open(self, slots):
        self.slots.append(slots)

    def leave(self, exit_block, hidden, thresholds):
        self.seen += 1
        if self.seen in self.steps:
            raise self.error
        return super().leave(exit_block, hidden, thresholds)


ON_CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried ...")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), ON_CPU])
def test_out_of_memory_halves_the_batch_and_loses_no_row(random_model, error, caplog):
    backbone = loading.adapt(random_model)
    requests = requests_for(prompts(9, seed=2), settings=[0.1, 0.2])

    def answer_with(policy):
        part = RunPart([0.1, 0.2], Decoder(backbone, policy))
        rows = answer.answer_part(part, requests, rules(Length()), memory.Limits(8, 2**40))
        return [((row.example_id, row.setting), row.token_ids) for row in rows]

    troubled = OutOfMemory([12, 25], error)
    with caplog.at_level(logging.INFO, logger="early_exit"):
        got = answer_with(troubled)
    assert len(got) == len(dict(got)) == 18
    assert dict(got) == dict(answer_with(base.FullDepth()))
    assert troubled.slots == [8, 4, 2]
    assert "out of memory: going on with 2 rows at once" in caplog.text


def test_out_of_memory_with_one_row_is_a_clear_error(random_model):
    part = RunPart([1.0], Decoder(loading.adapt(random_model), OutOfMemory(range(99), ON_CPU)))
    with pytest.raises(InputError, match="out of memory with a single row"):
        list(answer.answer_part(part, requests_for(prompts(2)), rules(Length()), memory.Limits(1, 2**40)))


def test_other_errors_pass(random_model):
    part = RunPart([1.0], Decoder(loading.adapt(random_model), OutOfMemory([1], RuntimeError("shapes"))))
    with pytest.raises(RuntimeError, match="shapes"):
        list(answer.answer_part(part, requests_for(prompts(2)), rules(Length()), LIMITS))


class Words:
    """A tokenizer with a token for each word."""

    def __call__(self, texts):
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}


@pytest.mark.parametrize(("overflow", "kept"), [("cut-left", [3, 4, 5]), ("cut-right", [1, 2, 3])])
def test_prompts_beyond_the_window_are_cut_and_noted(overflow, kept):
    long, short = Prompt("a", "1 2 3 4 5", (("calm", 0.5),)), Prompt("b", "1 2 3", (("calm", 0.5),))
    requests = answer.tokenise([long, short], Words(), 3, overflow)
    assert [request.token_ids for request in requests] == [kept, [1, 2, 3]]
    assert [(request.prompt_sha256, request.prompt_cut) for request in requests] == [
        (long.sha256, 2),
        (short.sha256, 0),
    ]


def test_prompts_beyond_the_window_are_refused_by_name():
    with pytest.raises(InputError, match="example a: its prompt has 5 tokens, the backbone's window has room for 3"):
        answer.tokenise([Prompt("a", "1 2 3 4 5", (("calm", 0.5),))], Words(), 3, "refuse")


@pytest.mark.parametrize("new", [3, 4])
def test_a_window_without_room_for_a_prompt_is_refused(new):
    """Not cut: of no token, or of a negative number of tokens, cutting would leave all of it."""
    assert answer.window_room(3, 2) == 1 and answer.window_room(None, 99) is None
    with pytest.raises(InputError, match=f"max_new_tokens: {new} leaves a prompt no room .* of 3 tokens; lower it"):
        answer.window_room(3, new)


def test_prompts_without_a_window_are_never_cut():
    (request,) = answer.tokenise([Prompt("a", "1 2 3 4 5", (("calm", 0.5),))], Words(), None, "refuse")
    assert request.token_ids == [1, 2, 3, 4, 5]


def test_parts_of_pruning_answer_each_setting_once(random_model):
    backbone = loading.adapt(random_model)
    parts = run_parts.pruned(parse({"kind": "pruned", "drop": [1, 2]}), backbone, {1.0: (5,), 2.0: (2, 3)})
    assert [part.decoder.backbone.depth for part in parts] == [5, 4]
    rows = []
    for part in parts:
        rows += answer.answer_part(part, requests_for(prompts(3), part.settings), rules(Length(4)), LIMITS)
    frame = pd.DataFrame({"setting": [row.setting for row in rows], "blocks": [row.exit_blocks[1] for row in rows]})
    assert frame.groupby("setting")["blocks"].agg(["count", "max"]).to_numpy().tolist() == [[3, 5], [3, 4]]
