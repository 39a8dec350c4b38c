"""Labels and loss weights of the training of heads."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from early_exit.base.errors import InputError
from early_exit.heads import targets
from early_exit.models import loading
from head_training import EXITS, documents


def test_the_two_label_rules_differ():
    exit_logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])  # exit's best: 0; its two best: 0, 1
    oracle_logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]])  # oracle's best: 1; its two best: 1, 3
    assert targets.labels(exit_logits, oracle_logits, "exit-in-oracle-topk", 2).tolist() == [False]
    assert targets.labels(exit_logits, oracle_logits, "oracle-in-exit-topk", 2).tolist() == [True]
    with pytest.raises(InputError, match="unknown"):
        targets.labels(exit_logits, oracle_logits, "topk", 2)


@given(st.integers(1, 60))
def test_labels_grow_with_k_and_equal_torchs_topk(k):
    generator = torch.Generator().manual_seed(k)
    a, b = torch.randn(50, 61, generator=generator), torch.randn(50, 61, generator=generator)
    for rule, (one, many) in zip(targets.LABELS, ((a, b), (b, a)), strict=True):
        tight, loose = targets.labels(a, b, rule, k), targets.labels(a, b, rule, k + 1)
        assert not (tight & ~loose).any()
        assert targets.labels(a, a, rule, k).all()
        among = (many.topk(k).indices == one.argmax(-1, keepdim=True)).any(-1)
        assert torch.equal(tight, among)


def test_a_token_that_ties_with_the_kth_counts_as_in():
    oracle = torch.tensor([1.0, 2.0, 2.0, 2.0])
    for best in (1, 2, 3):
        assert targets.labels(torch.eye(4)[best], oracle, "exit-in-oracle-topk", 1)
    assert not targets.labels(torch.eye(4)[0], oracle, "exit-in-oracle-topk", 3)


def test_exit_weights_are_linear_uniform_or_given():
    assert targets.exit_weights("linear", 4) == [0.1, 0.2, 0.3, 0.4]
    assert targets.exit_weights("uniform", 4) == [0.25] * 4
    assert targets.exit_weights([3, 1], 2) == [0.75, 0.25]
    with pytest.raises(InputError, match=r"exit_weights: \[3, 1\] has 2 weights; give one per exit \(3\)"):
        targets.exit_weights([3, 1], 3)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_class_weights_balance_the_two_labels(negative, positive):
    weights = targets.class_weights(torch.tensor([negative, positive], dtype=torch.double))
    said = weights * torch.tensor([negative + 1, positive + 1])
    assert said[0] == pytest.approx(said[1])
    assert said.sum() == pytest.approx(negative + positive + 2)


def test_padding_changes_no_target(random_model):
    backbone, docs = loading.adapt(random_model), documents(6)
    hidden, labelled, real = targets.hidden_and_labels(backbone, docs, EXITS, "exit-in-oracle-topk", 3)
    for row, document in enumerate(docs):
        length = len(document.token_ids)
        alone_hidden, alone_labels, _ = targets.hidden_and_labels(backbone, [document], EXITS, "exit-in-oracle-topk", 3)
        assert real[row].sum() == length
        for n in EXITS:
            assert torch.allclose(hidden[n][row, :length], alone_hidden[n][0], atol=1e-4)
            assert torch.equal(labelled[n][row, :length], alone_labels[n][0])
