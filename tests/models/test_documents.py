"""Documents of a corpus and their batches."""

import itertools

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from early_exit.models.documents import Document, batches, schedule, tokenise

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def of_lengths(lengths):
    return [Document(str(k), [1] * length) for k, length in enumerate(lengths)]


@given(lengths, st.integers(0, 5))
def test_batches_have_every_document_once_within_their_budget(lengths, seed):
    docs = of_lengths(lengths)
    got = list(batches(docs, 64, seed))
    assert sorted(d.document_id for group in got for d in group) == sorted(d.document_id for d in docs)
    assert all(len(g) == 1 or len(g) * max(len(d.token_ids) for d in g) <= 64 for g in got)


@given(lengths, st.integers(1, 3), st.integers(1, 2000))
def test_a_schedule_ends_with_the_step_that_reaches_the_budget(lengths, epochs, budget):
    docs = of_lengths(lengths)
    whole = schedule(docs, 64, 1, epochs)
    assert sum(len(batch) for batch in whole) == epochs * len(docs)
    cut = schedule(docs, 64, 1, epochs, budget)
    assert cut == whole[: len(cut)]
    sums = list(itertools.accumulate(sum(len(d.token_ids) for d in batch) for batch in cut))
    assert sums[-1] >= budget or cut == whole
    assert all(tokens < budget for tokens in sums[:-1])


def test_the_second_epoch_has_another_order():
    docs = of_lengths(range(1, 40))
    steps = schedule(docs, 64, 1, 2)
    half = len(steps) // 2
    assert steps[:half] != steps[half:]
    assert steps == schedule(docs, 64, 1, 2)


def test_documents_take_four_bytes_per_token():
    def tokenizer(texts, truncation, max_length):
        return {"input_ids": [[ord(c) for c in text][:max_length] for text in texts]}

    texts = ["abc", "", "a" * 50, "xy"] * 40
    corpus = pd.DataFrame({"document_id": [f"d{k}" for k in range(len(texts))], "text": texts})
    docs = tokenise(corpus, tokenizer, 10)
    assert [d.document_id for d in docs] == [f"d{k}" for k, text in enumerate(texts) if text]
    assert all(d.token_ids.dtype == np.int32 for d in docs)
    assert [d.token_ids.tolist() for d in docs[:3]] == [[97, 98, 99], [97] * 10, [120, 121]]
