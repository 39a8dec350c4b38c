"""Choosing tokens: the repetition penalty against the library's, row by row, through moves and new rows."""

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from early_exit.decoding import loop, prefix_cache
from early_exit.decoding.batch import Decoder
from early_exit.decoding.next_token import GreedyDecoding
from early_exit.models import loading
from engine import prompts, requests_for, run


@pytest.mark.parametrize("penalty", [0.5, 1.3, 4.0])
def test_tokens_equal_the_librarys_generate(random_model, penalty):
    """Fewer slots than rows: what a row has seen must follow it when it moves, and be forgotten when it ends."""
    backbone, some = loading.adapt(random_model), prompts(8, seed=11)
    ours = run(backbone, requests_for(some), slots=3, repetition_penalty=penalty)
    for k, prompt in enumerate(some):
        expected = random_model.generate(
            torch.tensor([prompt]), max_new_tokens=10, min_new_tokens=10, do_sample=False, repetition_penalty=penalty
        )[0, len(prompt) :].tolist()
        mine = ours[f"{k:02d}", 1.0].token_ids
        stop = mine.index(2) if 2 in mine else 10  # min_new_tokens bans EOS in the library's loop
        assert mine[:stop] == expected[:stop]


def test_a_penalty_changes_repetitive_answers(random_model):
    backbone, some = loading.adapt(random_model), prompts(8, seed=11)
    plain, fined = (run(backbone, requests_for(some), repetition_penalty=p) for p in (1.0, 4.0))
    assert any(plain[key].token_ids != fined[key].token_ids for key in plain)


def test_choice_equals_the_librarys_processor():
    torch.manual_seed(0)
    seen, logits = torch.randint(0, 40, (5, 12)), torch.randn(5, 40)
    greedy = GreedyDecoding(1.7)
    greedy.open(9, 40, torch.device("cpu"))
    slots = torch.tensor([7, 0, 3, 8, 1])
    greedy.admit(slots, seen)
    processed = RepetitionPenaltyLogitsProcessor(1.7)(seen, logits.clone())
    assert greedy.choose(logits, slots) == processed.argmax(-1).tolist()


def test_settings_of_one_prompt_fit_fewer_slots(random_model):
    """Eight settings in three slots are three parts; each has its own prefill, the answers stay."""
    backbone, some = loading.adapt(random_model), prompts(2, seed=5)
    requests = requests_for(some, settings=[float(k) for k in range(8)])
    wide = {key: row.token_ids for key, row in run(backbone, requests, slots=16).items()}
    narrow = {key: row.token_ids for key, row in run(backbone, requests, slots=3).items()}
    assert narrow == wide and len(wide) == 16


def test_prompts_of_one_length_run_in_parts(random_model, monkeypatch):
    backbone = loading.adapt(random_model)
    some = [[3 + k, 9, 4, 8] for k in range(7)]
    whole = {key: row.token_ids for key, row in run(backbone, requests_for(some), slots=7).items()}
    monkeypatch.setattr(prefix_cache, "PROMPT_TOKENS", 9)  # two prompts of four tokens at once
    assert {key: row.token_ids for key, row in run(backbone, requests_for(some), slots=7).items()} == whole


def test_nothing_to_answer_is_no_error(random_model):
    backbone = loading.adapt(random_model)
    assert not list(loop.generate(Decoder(backbone), [], None, slots=4))
