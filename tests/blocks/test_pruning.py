"""Static pruning: which blocks go, how they are scored, and what a model without them answers."""

import math
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from conftest import Float64, make_random_model
from early_exit.base.errors import InputError
from early_exit.blocks import pruning
from early_exit.blocks.scores import greedy_losses, score_rows, similarities
from early_exit.decoding import answer, memory, run_parts
from early_exit.experiment.config.policies import parse
from early_exit.models import loading
from early_exit.models.documents import Document
from early_exit.report import pruning as pruning_figures
from early_exit.report import style
from engine import Length, prompts, requests_for, run
from head_training import documents
from reference import KINDS

DEPTH = 6
NEW_TOKENS = 8
DROPPED = [(1,), (2, 5), (1, 2, 3, 4, 6)]


# --- which blocks --------------------------------------------------------------------------------------------------


def table(depth, values):
    """Scores of every candidate, of all three kinds."""
    rows = [("block-influence", 1, n) for n in range(1, depth + 1)]
    rows += [("angular", k, n) for k in range(1, depth) for n in range(1, depth - k + 2)]
    frame = pd.DataFrame(rows, columns=["by", "dropped", "block"]).assign(backbone="one")
    return frame.assign(score=[values.random() for _ in range(len(frame))])


def greedy(depth, values):
    """Scores of one-by-one: candidates are the blocks that are left."""
    left, rows = list(range(1, depth + 1)), []
    for dropped in range(1, depth):
        step = [("one-by-one", dropped, n, values.random()) for n in left]
        left.remove(min(step, key=lambda row: row[3])[2])
        rows += step
    return pd.DataFrame(rows, columns=["by", "dropped", "block", "score"])


@given(st.integers(2, 10), st.randoms(use_true_random=False), st.data())
@settings(max_examples=30, deadline=None)
def test_blocks_with_the_smallest_scores_are_dropped(depth, values, data):
    scores = pd.concat([table(depth, values), greedy(depth, values)])
    count = data.draw(st.integers(1, depth - 1))
    for by in pruning.BY:
        gone = pruning.blocks_to_drop(by, count, depth, scores)
        assert len(set(gone)) == count and list(gone) == sorted(gone) and set(gone) <= set(range(1, depth + 1))
        own = scores[scores["by"] == by].set_index(["dropped", "block"])["score"]
        if by == "last":
            assert gone == tuple(range(depth - count, depth))  # before the last one, which stays
        elif by == "block-influence":
            assert max(own[1, n] for n in gone) <= min(own[1, n] for n in range(1, depth + 1) if n not in gone)
        elif by == "angular":
            assert all(b == a + 1 for a, b in pairwise(gone))
            assert own[count, gone[0]] == min(own[count])
        else:
            before = pruning.blocks_to_drop(by, count - 1, depth, scores) if count > 1 else ()
            (new,) = set(gone) - set(before)
            assert own[count, new] == min(own[count])


def test_missing_scores_are_an_error():
    scores = greedy(5, np.random)
    with pytest.raises(InputError, match="block scores: none for 3 blocks dropped by one-by-one"):
        pruning.blocks_to_drop("one-by-one", 3, 5, scores[scores["dropped"] < 3])
    with pytest.raises(InputError, match="none for 2 blocks dropped by angular"):
        pruning.blocks_to_drop("angular", 2, 5, scores)


def test_drop_table_and_metadata_name_the_blocks():
    policy = {"kind": "pruned", "by": "last", "prompt": "full", "drop": [1, 3]}
    assert pruning.drop_table({"p": policy}, 6, pd.DataFrame()).to_numpy().tolist() == [
        ["p", "last", "full", 1, "5"],
        ["p", "last", "full", 3, "3 4 5"],
    ]
    dropped = pruning.read_drops(policy, 6, None)
    assert dropped == {1.0: (5,), 3.0: (3, 4, 5)}
    assert pruning.metadata({"p": dropped}) == {"dropped_blocks": '{"p": {"1": [5], "3": [3, 4, 5]}}'}
    assert pruning.read_drops({"kind": "full"}, 6, None) == pruning.metadata({}) == {}


# --- scores --------------------------------------------------------------------------------------------------------


def angle(a, b):
    """In half turns, by the sides of the triangle that two unit vectors span (exact for small angles, too)."""
    a, b = a / a.norm(), b / b.norm()
    return 2 * math.atan2(float((a - b).norm()), float((a + b).norm())) / math.pi


def test_similarities_in_batches_equal_those_of_single_documents(double_model):
    backbone, docs = loading.adapt(double_model), documents(5)
    with Float64(), torch.no_grad():
        cosines, angles = similarities(backbone, docs, 32)
        alone = []
        for document in docs:
            tokens = torch.tensor([document.token_ids])
            _, hidden = backbone.run_prompt(tokens, range(1, DEPTH + 1))
            states = [backbone.embed(tokens)[0], *(hidden[n][0] for n in range(1, DEPTH + 1))]
            alone += [[state[t] for state in states] for t in range(len(document.token_ids))]
    for i, j in [(0, 1), (1, 2), (5, 6), (0, 6), (2, 5)]:
        assert float(angles[i, j]) == pytest.approx(np.mean([angle(s[i], s[j]) for s in alone]), rel=1e-9)
        likeness = [float(F.cosine_similarity(s[i], s[j], dim=0)) for s in alone]
        assert float(cosines[i, j]) == pytest.approx(np.mean(likeness), rel=1e-9)
    assert float(angles.diagonal().max()) < 1e-7


def cut(name, gone, dtype=torch.float32):
    """The library's own model with fewer layers."""
    model = make_random_model(name, dtype)
    kept = [k for k in range(DEPTH) if k + 1 not in gone]
    model.base_model.layers = nn.ModuleList(model.base_model.layers[k] for k in kept)
    model.config.num_hidden_layers = len(kept)
    for k, layer in enumerate(model.base_model.layers):
        (layer.self_attn if hasattr(layer, "self_attn") else layer.mixer).layer_idx = k
    return model


@pytest.mark.parametrize("name", ["llama", "mamba2"])
def test_greedy_losses_equal_the_librarys_loss(name):
    backbone, docs = loading.adapt(make_random_model(name)), documents(4)
    rows = greedy_losses(backbone, docs, 32, 2)
    gone = []
    for dropped in (1, 2):
        step = {block: value for count, block, value in rows if count == dropped}
        assert sorted(step) == [n for n in range(1, DEPTH + 1) if n not in gone]
        for block, value in step.items():
            model, total, count = cut(name, [*gone, block]), 0.0, 0
            for document in docs:
                tokens = torch.tensor([document.token_ids])
                with torch.no_grad():
                    total += float(model(tokens, labels=tokens).loss) * (tokens.numel() - 1)
                count += tokens.numel() - 1
            assert value == pytest.approx(total / count, rel=1e-4)
        gone.append(min(step, key=step.get))


def test_score_rows_have_every_candidate(random_model):
    backbone, docs = loading.adapt(random_model), [Document("a", [3, 4, 5, 6])]
    found = pd.DataFrame([*score_rows(backbone, docs, 32, "likeness"), *score_rows(backbone, docs, 32, "loss", 2)])
    counts = found.groupby("by")["block"].count().to_dict()
    assert counts == {"block-influence": 6, "angular": 2 + 3 + 4 + 5 + 6, "one-by-one": 6 + 5}
    assert set(found.columns) | {"backbone"} == set(pruning.SCORE_COLUMNS)
    assert found["score"].notna().all()
    one = found[(found["by"] == "angular") & (found["dropped"] == 5)]
    assert one["block"].tolist() == [1, 2]
    assert len(pruning.blocks_to_drop("one-by-one", 2, DEPTH, found)) == 2


# --- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", DROPPED)
def test_a_pruned_backbone_equals_the_model_without_the_blocks(random_model, gone):
    """Prompts begin alike, so that beginnings are shared where they can be."""
    pruned, some = loading.adapt(random_model).without(gone), [[7, 8, 9, 5, *prompt] for prompt in prompts(5)]
    assert pruned.layer_indices == tuple(k for k in range(DEPTH) if k + 1 not in gone)
    ours = run(pruned, requests_for(some), slots=2)
    model = cut(random_model.config.model_type, gone)
    for k, prompt in enumerate(some):
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=10, do_sample=False, eos_token_id=[-1])
        assert ours[f"{k:02d}", 1.0].token_ids == expected[0, len(prompt) :].tolist()
        assert ours[f"{k:02d}", 1.0].exit_blocks == [DEPTH - len(gone)] * 10


def with_a_full_prompt(model, prompt, gone):
    """Token ids: the prompt through all layers of the slow reference, later tokens through those that are left."""
    reference = next(kind for kind in KINDS if model.config.model_type in KINDS[kind])(model, "")
    tokens = []
    for token in prompt:
        reference.step(token, lambda n, hidden: False)
    hidden = reference.hidden[-1][-1]
    for _ in range(NEW_TOKENS):
        tokens.append(int(reference.logits(hidden).argmax()))
        hidden = model.get_input_embeddings()(torch.tensor([tokens[-1]]))[0]
        reference.hidden.append([hidden])  # its position
        for n, layer in enumerate(reference.layers):
            if n + 1 not in gone:
                hidden = reference.block(n, layer, hidden)
    return tokens


@pytest.mark.parametrize("gone", DROPPED[:2])
def test_with_a_full_prompt_only_later_tokens_skip_the_blocks(double_model, gone):
    backbone, some = loading.adapt(double_model), [[7, 8, 9, *prompt] for prompt in prompts(4, longest=12)]
    with Float64(), torch.inference_mode():
        ours = run(
            backbone.without(gone), requests_for(some), slots=2, rule=Length(NEW_TOKENS), prompt_backbone=backbone
        )
        for k, prompt in enumerate(some):
            row = ours[f"{k:02d}", 1.0]
            assert row.token_ids == with_a_full_prompt(double_model, prompt, gone)
            assert row.exit_blocks == [DEPTH] + [DEPTH - len(gone)] * (NEW_TOKENS - 1)


def test_a_part_with_a_full_prompt_reaches_the_loop(random_model):
    backbone, requests = loading.adapt(random_model), requests_for(prompts(2), [2.0])
    (part,) = run_parts.pruned(parse({"kind": "pruned", "drop": [2], "prompt": "full"}), backbone, {2.0: (2, 5)})
    rules = answer.Rules(Length(3), "refuse", 1.0)
    rows = list(answer.answer_part(part, requests, rules, memory.Limits(4, 2**40)))
    assert [row.exit_blocks for row in rows] == [[6, 4, 4]] * 2


@pytest.mark.parametrize("gone", [(0,), (7,), tuple(range(1, 7))])
def test_unknown_blocks_or_all_blocks_cannot_be_dropped(random_model, gone):
    with pytest.raises(InputError, match="leave one at least"):
        loading.adapt(random_model).without(gone)


# --- the figure ----------------------------------------------------------------------------------------------------


def drawn(*, backbone=("tiny-transformer", "tiny-mamba")):
    rng = np.random.default_rng(1)
    scores, chosen = [], []
    some = {by: {"by": by, "prompt": "pruned", "drop": [1, 3]} for by in pruning.BY}
    for name in backbone:
        own = pd.concat([table(8, rng), greedy(8, rng)]).assign(backbone=name)
        scores.append(own)
        chosen.append(pruning.drop_table(some, 8, own).assign(backbone=name))
    return pd.concat(scores), pd.concat(chosen)


def test_the_figure_shows_every_block_that_goes():
    scores, chosen = drawn()
    figure = pruning_figures.pruned_blocks(scores, chosen)
    assert len(figure.axes) == 6
    influence, angles, gone = figure.axes[:3]
    own = scores[(scores["backbone"] == "tiny-transformer")]
    np.testing.assert_allclose(influence.get_lines()[0].get_ydata(), own[own["by"] == "block-influence"]["score"])
    assert [text.get_text() for text in angles.get_legend().get_texts()] == ["1", "3"]
    labels = [tick.get_text() for tick in gone.get_yticklabels()]
    assert labels[:2] == ["angular 1", "angular 3"] and "loss" in labels[-1] + labels[5] + labels[6] + labels[7]
    squares = [line for line in gone.get_lines() if line.get_marker() == "s"]
    wanted = chosen[chosen["backbone"] == "tiny-transformer"].sort_values(["by", "dropped"])["blocks"]
    assert [" ".join(str(int(x)) for x in line.get_xdata()) for line in squares] == wanted.tolist()


@pytest.mark.slow
def test_equal_figures_are_equal_bytes_and_an_empty_one_is_refused(tmp_path):
    found = []
    for name in ("one", "two"):
        style.save(pruning_figures.pruned_blocks(*drawn()), tmp_path / f"{name}.svg", tmp_path / f"{name}.png")
        found.append([sha256((tmp_path / f"{name}.{end}").read_bytes()).digest() for end in ("svg", "png")])
    assert found[0] == found[1]
    scores, chosen = drawn()
    with pytest.raises(InputError, match=r"pruned_blocks\.csv: no rows to draw"):
        pruning_figures.pruned_blocks(scores, chosen[:0])
