"""What heads are distilled from: labels, loss weights, batches."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from early_exit.base.errors import InputError
from early_exit.models import documents as distill
from early_exit.models import loading

EXITS = [2, 3, 4, 5]
lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def documents(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        distill.Document(f"d{k}", torch.randint(3, 61, (5 + k % 9,), generator=generator).tolist())
        for k in range(count)
    ]


def of_lengths(lengths):
    return [distill.Document(str(k), [1] * length) for k, length in enumerate(lengths)]


def test_the_two_label_rules_differ_as_written():
    exit_logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])  # exit's best: 0; its two best: 0, 1
    oracle_logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]])  # oracle's best: 1; its two best: 1, 3
    assert distill.labels(exit_logits, oracle_logits, "exit-in-oracle-topk", 2).tolist() == [False]
    assert distill.labels(exit_logits, oracle_logits, "oracle-in-exit-topk", 2).tolist() == [True]
    with pytest.raises(InputError, match="unknown"):
        distill.labels(exit_logits, oracle_logits, "topk", 2)


@given(st.integers(1, 60))
def test_labels_loosen_with_k_and_are_the_library_s_topk(k):
    generator = torch.Generator().manual_seed(k)
    a, b = torch.randn(50, 61, generator=generator), torch.randn(50, 61, generator=generator)
    for rule, (one, many) in zip(distill.LABELS, ((a, b), (b, a)), strict=True):
        tight, loose = distill.labels(a, b, rule, k), distill.labels(a, b, rule, k + 1)
        assert not (tight & ~loose).any()
        assert distill.labels(a, a, rule, k).all()
        among = (many.topk(k).indices == one.argmax(-1, keepdim=True)).any(-1)
        assert torch.equal(tight, among)


def test_a_token_that_ties_with_the_kth_counts_as_in():
    oracle = torch.tensor([1.0, 2.0, 2.0, 2.0])
    for best in (1, 2, 3):
        assert distill.labels(torch.eye(4)[best], oracle, "exit-in-oracle-topk", 1)
    assert not distill.labels(torch.eye(4)[0], oracle, "exit-in-oracle-topk", 3)


def test_exit_weights_are_the_papers_or_given():
    assert distill.exit_weights("linear", 4) == [0.1, 0.2, 0.3, 0.4]
    assert distill.exit_weights("uniform", 4) == [0.25] * 4
    assert distill.exit_weights([3, 1], 2) == [0.75, 0.25]
    with pytest.raises(InputError, match=r"exit_weights: \[3, 1\] are not one for each of 3 exits"):
        distill.exit_weights([3, 1], 3)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_class_weights_give_both_labels_the_same_say(negative, positive):
    weights = distill.class_weights(torch.tensor([negative, positive], dtype=torch.double))
    said = weights * torch.tensor([negative + 1, positive + 1])
    assert said[0] == pytest.approx(said[1])
    assert said.sum() == pytest.approx(negative + positive + 2)


@given(lengths, st.integers(0, 5))
def test_batches_hold_every_document_once_within_their_budget(lengths, seed):
    docs = of_lengths(lengths)
    got = list(distill.batches(docs, 64, seed))
    assert sorted(d.document_id for group in got for d in group) == sorted(d.document_id for d in docs)
    assert all(len(g) == 1 or len(g) * max(len(d.token_ids) for d in g) <= 64 for g in got)


@given(lengths, st.integers(1, 3), st.integers(1, 2000))
def test_a_schedule_ends_with_the_step_that_reaches_the_budget(lengths, epochs, budget):
    docs = of_lengths(lengths)
    whole = distill.schedule(docs, 64, 1, epochs)
    assert sum(len(batch) for batch in whole) == epochs * len(docs)
    cut = distill.schedule(docs, 64, 1, epochs, budget)
    assert cut == whole[: len(cut)]
    sums = list(itertools.accumulate(sum(len(d.token_ids) for d in batch) for batch in cut))
    assert sums[-1] >= budget or cut == whole
    assert all(tokens < budget for tokens in sums[:-1])


def test_a_second_pass_has_another_order():
    docs = of_lengths(range(1, 40))
    steps = distill.schedule(docs, 64, 1, 2)
    half = len(steps) // 2
    assert steps[:half] != steps[half:]
    assert steps == distill.schedule(docs, 64, 1, 2)


def test_a_corpus_becomes_documents_of_four_bytes_a_token():
    def tokenizer(texts, truncation, max_length):
        return {"input_ids": [[ord(c) for c in text][:max_length] for text in texts]}

    texts = ["abc", "", "a" * 50, "xy"] * 40
    corpus = pd.DataFrame({"document_id": [f"d{k}" for k in range(len(texts))], "text": texts})
    docs = distill.tokenise(corpus, tokenizer, 10)
    assert [d.document_id for d in docs] == [f"d{k}" for k, text in enumerate(texts) if text]
    assert all(d.token_ids.dtype == np.int32 for d in docs)
    assert [d.token_ids.tolist() for d in docs[:3]] == [[97, 98, 99], [97] * 10, [120, 121]]


def test_padding_changes_no_target(random_model):
    backbone, docs = loading.adapt(random_model), documents(6)
    hidden, labelled, real = distill.targets(backbone, docs, EXITS, "exit-in-oracle-topk", 3)
    for row, document in enumerate(docs):
        length = len(document.token_ids)
        alone_hidden, alone_labels, _ = distill.targets(backbone, [document], EXITS, "exit-in-oracle-topk", 3)
        assert real[row].sum() == length
        for n in EXITS:
            assert torch.allclose(hidden[n][row, :length], alone_hidden[n][0], atol=1e-4)
            assert torch.equal(labelled[n][row, :length], alone_labels[n][0])
