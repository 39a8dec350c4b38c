"""How early predictions settle, against a model run one document at a time."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from early_exit.blocks import settling
from early_exit.models import loading
from head_training import documents


def test_settling_in_batches_equals_that_of_single_documents(random_model):
    backbone, docs = loading.adapt(random_model), documents(8)
    table = settling.settling_rows(backbone, docs, 64)
    assert [row["block"] for row in table] == list(range(1, backbone.depth + 1))
    assert {row["tokens"] for row in table} == {sum(len(document.token_ids) for document in docs)}
    equal, cosine = [], []
    for document in docs:
        with torch.no_grad():
            last, hidden = backbone.run_prompt(torch.tensor([document.token_ids]), range(1, backbone.depth + 1))
            final = backbone.logits(last).argmax(-1)
            equal.append([(backbone.logits(hidden[n]).argmax(-1) == final)[0].numpy() for n in hidden])
            cosine.append([F.cosine_similarity(hidden[n][0], last[0], dim=-1).numpy() for n in hidden])
    assert [row["share"] for row in table] == pytest.approx(np.concatenate(equal, axis=1).mean(axis=1))
    assert [row["cosine"] for row in table] == pytest.approx(np.concatenate(cosine, axis=1).mean(axis=1), abs=1e-4)


def test_the_last_block_is_the_full_model_and_the_first_is_not(random_model):
    table = settling.settling_rows(loading.adapt(random_model), documents(8), 64)
    assert table[-1]["share"] == 1.0
    assert table[-1]["cosine"] == pytest.approx(1.0, abs=1e-6)
    assert table[0]["cosine"] < 0.99
    assert all(0 <= row["share"] <= 1 and -1 <= row["cosine"] <= 1 for row in table)


def test_padding_changes_no_mean(random_model):
    backbone, docs = loading.adapt(random_model), documents(6)
    together, apart = settling.settling_rows(backbone, docs, 1000), settling.settling_rows(backbone, docs, 1)
    assert [row["cosine"] for row in together] == pytest.approx([row["cosine"] for row in apart], abs=1e-4)
