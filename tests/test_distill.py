"""Labels, loss weights, batches and training of exit heads."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_decode import Length

from early_exit import backbones, decode, distill, fills, policies
from early_exit.records import InputError

EXITS = [2, 3, 4, 5]
OPTIONS = {"label": "exit-in-oracle-topk", "k": 1, "exit_weights": "linear", "optimiser": "schedulefree-adamw",
           "learning_rate": 0.01, "epochs": 4, "batch_tokens": 128}  # fmt: skip
CONFIGS = {"calm": {"kind": "calm"}, "ffn": {"kind": "ffn"}}


def documents(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        distill.Document(f"d{k}", torch.randint(3, 61, (5 + k % 9,), generator=generator).tolist())
        for k in range(count)
    ]


def trained(model, configs, docs, **changes):
    backbone = backbones.adapt(model)
    heads = distill.new_heads(configs, backbone.hidden_size, EXITS, seed=3)
    curve = []
    distill.train(backbone, heads, docs, EXITS, OPTIONS | changes, 3, curve.extend, every=5)
    return heads, curve


def test_the_two_label_rules_differ_as_written():
    exit_logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])  # exit's best: 0; its two best: 0, 1
    oracle_logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]])  # oracle's best: 1; its two best: 1, 3
    assert distill.labels(exit_logits, oracle_logits, "exit-in-oracle-topk", 2).tolist() == [False]
    assert distill.labels(exit_logits, oracle_logits, "oracle-in-exit-topk", 2).tolist() == [True]
    with pytest.raises(InputError, match="unknown"):
        distill.labels(exit_logits, oracle_logits, "topk", 2)


@given(st.integers(1, 60))
def test_labels_loosen_with_k(k):
    generator = torch.Generator().manual_seed(k)
    a, b = torch.randn(50, 61, generator=generator), torch.randn(50, 61, generator=generator)
    for rule in distill.LABELS:
        tight, loose = distill.labels(a, b, rule, k), distill.labels(a, b, rule, k + 1)
        assert not (tight & ~loose).any()
        assert distill.labels(a, a, rule, k).all()


def test_exit_weights_are_the_papers():
    assert distill.exit_weights("linear", 4) == [0.1, 0.2, 0.3, 0.4]
    assert distill.exit_weights("uniform", 4) == [0.25] * 4


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 5))
def test_batches_hold_every_document_once_within_their_budget(lengths, seed):
    docs = [distill.Document(str(k), [1] * length) for k, length in enumerate(lengths)]
    got = list(distill.batches(docs, 64, seed))
    assert sorted(d.document_id for group in got for d in group) == sorted(d.document_id for d in docs)
    assert all(len(g) == 1 or len(g) * max(len(d.token_ids) for d in g) <= 64 for g in got)


def test_padding_changes_no_target(random_model):
    backbone, docs = backbones.adapt(random_model), documents(6)
    hidden, labelled, real = distill.targets(backbone, docs, EXITS, "exit-in-oracle-topk", 3)
    for row, document in enumerate(docs):
        length = len(document.token_ids)
        alone_hidden, alone_labels, _ = distill.targets(backbone, [document], EXITS, "exit-in-oracle-topk", 3)
        assert real[row].sum() == length
        for n in EXITS:
            assert torch.allclose(hidden[n][row, :length], alone_hidden[n][0], atol=1e-4)
            assert torch.equal(labelled[n][row, :length], alone_labels[n][0])


def test_training_lowers_the_loss_and_leaves_the_backbone_alone(random_model):
    before = {name: p.clone() for name, p in random_model.named_parameters()}
    _, curve = trained(random_model, CONFIGS, documents(60), epochs=12)
    first = [row["loss"] for row in curve if row["step"] == curve[0]["step"]]
    last = [row["loss"] for row in curve if row["step"] == curve[-1]["step"]]
    assert sum(last) < 0.9 * sum(first)
    assert all(torch.equal(p, before[name]) for name, p in random_model.named_parameters())
    assert {(row["head"], row["exit"]) for row in curve} == {(h, n) for h in CONFIGS for n in EXITS}


def test_heads_train_on_and_run_on_a_bfloat16_backbone(random_model):
    """What GPUs run: the backbone in bfloat16, heads trained in float32 and used in bfloat16."""
    low = copy.deepcopy(random_model).to(torch.bfloat16)
    configs = {"calm": {"kind": "calm"}, "mamba": {"kind": "mamba", "head_dim": 8, "state_size": 8, "n_groups": 2}}
    made, curve = trained(low, configs, documents(20))
    assert all(p.dtype == torch.float32 for p in made.parameters())
    assert all(math.isfinite(row["loss"]) for row in curve)
    backbone = backbones.adapt(low)
    requests = [decode.Request(f"{k}", list(range(3, 9 + k)), (0.0, 0.5, 1.0)) for k in range(3)]
    for name in configs:
        policy = policies.HeadConfidence(made[name].requires_grad_(False).to(torch.bfloat16))
        fill = fills.FILLS[backbone.family]["propagate"]()
        rows = list(decode.generate(backbone, policy, fill, requests, Length(), slots=4))
        assert {len(row.token_ids) for row in rows} == {Length.max_new_tokens}
        assert all(set(row.exit_blocks[1:]) == {EXITS[0]} for row in rows if row.threshold == 0.0)
        assert all(set(row.exit_blocks) == {backbone.depth} for row in rows if row.threshold == 1.0)


def test_a_head_does_not_depend_on_its_neighbours(random_model):
    together, _ = trained(random_model, CONFIGS, documents(20))
    alone, _ = trained(random_model, {"ffn": CONFIGS["ffn"]}, documents(20))
    for name, tensor in alone["ffn"].state_dict().items():
        assert torch.equal(tensor, together["ffn"].state_dict()[name])


def test_a_loss_that_is_not_finite_names_step_and_documents(random_model):
    with pytest.raises(InputError, match=r"step \d+; documents d\d"):
        trained(random_model, {"calm": {"kind": "calm", "normalise": "none"}}, documents(20), learning_rate=1e38)
