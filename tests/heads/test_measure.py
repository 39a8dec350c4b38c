"""Confidences of heads on held-out text, against each document alone."""

import numpy as np
import pandas as pd
import pytest
import torch

from early_exit.base import records
from early_exit.base.errors import InputError
from early_exit.heads import measure as head_outputs
from early_exit.heads import store, training
from early_exit.models import loading
from early_exit.models.documents import Document

EXITS = [2, 4, 5]
DESIGNS = {"calm": {"kind": "calm"}, "ffn": {"kind": "ffn"},
           "mamba": {"kind": "mamba", "head_dim": 8, "state_size": 8, "n_groups": 2}}  # fmt: skip


def documents(count=7):
    generator = torch.Generator().manual_seed(0)
    lengths = [9, 4, 12, 1, 7, 12, 5][:count]
    return [
        Document(f"d{k}", torch.randint(3, 61, (length,), generator=generator).numpy())
        for k, length in enumerate(lengths)
    ]


def measure(model, batch_tokens=24, seeds=(3, 4), k=2):
    backbone = loading.adapt(model)
    trained = {seed: training.new_heads(DESIGNS, backbone.hidden_size, EXITS, seed).eval() for seed in seeds}
    label = "exit-in-oracle-topk"
    return trained, head_outputs.measure(backbone, trained, documents(), label, k, batch_tokens)


@torch.no_grad()
def test_confidences_labels_and_agreement_are_those_of_each_document_alone(random_model):
    trained, rows = measure(random_model)
    assert len(rows) == 2 * 50 * len(EXITS)
    keys = ["seed", "document_id", "position", "exit"]
    assert list(rows.columns) == [*keys, "label", "agreement", *(f"confidence_{name}" for name in DESIGNS)]
    assert rows[keys].equals(rows[keys].sort_values(keys, ignore_index=True))
    for document in documents():
        ids = torch.as_tensor(document.token_ids)[None].long()
        best = random_model(ids).logits[0].argsort(-1, descending=True)
        _, hidden = loading.adapt(random_model).run_prompt(ids, EXITS)
        own = rows[rows["document_id"] == document.document_id]
        for n in EXITS:
            said = loading.adapt(random_model).logits(hidden[n])[0].argmax(-1)
            at = own[(own["exit"] == n) & (own["seed"] == 4)].sort_values("position")
            assert at["agreement"].tolist() == (said == best[:, 0]).tolist()
            assert at["label"].tolist() == (best[:, :2] == said[:, None]).any(-1).tolist()
            for name in DESIGNS:
                confidence = store.confidence(trained[4][name][str(n)](hidden[n]))[0]
                assert np.allclose(at[f"confidence_{name}"], confidence, atol=1e-5)


def test_measuring_again_gives_the_same_bytes_and_other_batches_the_same_numbers(random_model, tmp_path):
    for name in ("one", "two"):
        records.write_table(measure(random_model)[1], tmp_path / name, records.confidences_schema(DESIGNS))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    read = records.read_table(tmp_path / "one", records.confidences_schema(DESIGNS))
    other = measure(random_model, batch_tokens=1)[1]
    pd.testing.assert_frame_equal(read, other, check_dtype=False, atol=1e-5)


def save(folder, seed, source="b" * 64):
    backbone = {"name": "b", "source": "s", "revision": None, "sha256": source, "config": {"hidden_size": 32}}
    folder.mkdir()
    made = training.new_heads(DESIGNS, 32, EXITS, seed)
    rest = {"seed": seed, "distillation": {}, "max_tokens": 9, "corpus": {}, "versions": {}, "steps": 1, "tokens": 1}
    store.save(made, DESIGNS, backbone, EXITS, rest, folder)
    return backbone


def test_trainings_are_known_by_their_seed(tmp_path):
    backbone = save(tmp_path / "a", 5)
    save(tmp_path / "b", 2)
    trained = head_outputs.load([tmp_path / "a", tmp_path / "b"], ["calm", "mamba"], backbone)
    assert list(trained) == [5, 2] and list(trained[5]) == ["calm", "mamba"]
    assert not torch.equal(trained[5]["calm"]["2"].linear.weight, trained[2]["calm"]["2"].linear.weight)
    save(tmp_path / "c", 5)
    with pytest.raises(InputError, match="c: a second training from seed 5"):
        head_outputs.load([tmp_path / "a", tmp_path / "c"], ["calm"], backbone)
    with pytest.raises(InputError, match="trained for s"):
        head_outputs.load([tmp_path / "a"], ["calm"], {**backbone, "sha256": "c" * 64})
