"""Training of exit heads: what it learns, what it holds, how it stops, and that a killed one ends the same."""

import gc
import logging
import math
import pickle
import subprocess
import sys
import weakref
from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from conftest import ROOT, make_random_model
from early_exit.base import resume
from early_exit.base.errors import InputError
from early_exit.decoding import fills, loop
from early_exit.decoding.batch import Decoder
from early_exit.heads import store, targets, training
from early_exit.models import loading
from early_exit.models.backbone import Backbone
from early_exit.models.documents import Document, schedule
from early_exit.policies import confidences
from engine import Length, requests_for
from head_training import EXITS, OPTIONS, SHAPE, SLIM, Forgetful, documents, run_with_checkpoint, trained

CONFIGS = {"calm": {"kind": "calm"}, "ffn": {"kind": "ffn"}}
MAMBA = {"kind": "mamba", "n_groups": 2, **SHAPE}


@pytest.fixture(scope="module")
def one_model():
    return make_random_model("mistral")


def last_losses(curve):
    return [row["loss"] for row in curve if row["step"] == curve[-1]["step"]]


# --- what it learns ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "optimiser"), [("mistral", "adamw"), ("mamba2", "schedulefree-adamw")])
def test_training_lowers_the_loss_and_leaves_the_backbone_alone(name, optimiser):
    model = make_random_model(name)
    before = {name: p.clone() for name, p in model.named_parameters()}
    made, curve = trained(model, CONFIGS | {"slim": SLIM}, documents(40), epochs=8, optimiser=optimiser)
    first = [row["loss"] for row in curve if row["step"] == curve[0]["step"]]
    assert sum(last_losses(curve)) < 0.9 * sum(first)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert [(row["head"], row["exit"]) for row in curve[:12]] == [(h, n) for h in made for n in EXITS]
    assert curve[-1]["tokens"] == 8 * sum(len(d.token_ids) for d in documents(40))


@pytest.mark.parametrize("balance", targets.CLASS_BALANCES)
def test_the_loss_is_the_weighted_cross_entropy_of_the_labels(one_model, balance):
    docs, options = documents(12), {"class_balance": balance, "max_training_tokens": 1, "k": 5}
    _, curve = trained(one_model, {"calm": CONFIGS["calm"]}, docs, **options)
    backbone = loading.adapt(one_model)
    fresh = training.new_heads({"calm": CONFIGS["calm"]}, backbone.hidden_size, EXITS, 3)["calm"]
    first = schedule(docs, 128, 3, 1)[0]
    hidden, labelled, real = targets.hidden_and_labels(backbone, first, EXITS, OPTIONS["label"], 5)
    assert curve[-1]["step"] == 1
    for row in curve:
        truth = labelled[row["exit"]][real].long()
        assert 0 < truth.sum() < len(truth)
        counts = torch.bincount(truth, minlength=2) + 1
        weight = (len(truth) + 2) / (2 * counts) if balance == "balanced" else None
        loss = F.cross_entropy(fresh[str(row["exit"])](hidden[row["exit"]])[real], truth, weight=weight)
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert row["positive_rate"] == pytest.approx(truth.float().mean().item())


def test_exit_weights_scale_what_an_exit_learns(one_model, monkeypatch):
    """With plain gradient descent, since Adam is invariant to the scale of the gradient."""
    monkeypatch.setattr(training, "_optimiser", lambda options, made: torch.optim.SGD(made.parameters(), lr=1.0))
    moved = {}
    for rule in ("uniform", [4, 2, 1, 1]):
        made, _ = trained(one_model, {"calm": CONFIGS["calm"]}, documents(9), exit_weights=rule, max_training_tokens=1)
        fresh = training.new_heads({"calm": CONFIGS["calm"]}, 32, EXITS, 3)
        moved[str(rule)] = [(made["calm"][n].linear.weight - fresh["calm"][n].linear.weight) for n in made["calm"]]
    for factor, uniform, given in zip((2, 1, 0.5, 0.5), *moved.values(), strict=True):
        torch.testing.assert_close(factor * uniform, given)


@pytest.mark.parametrize("name", ["mistral", "mamba2"])
def test_heads_train_and_decode_on_a_bfloat16_backbone(name):
    """As on GPUs: the backbone in bfloat16, heads trained in float32 and used in bfloat16."""
    low = make_random_model(name).to(torch.bfloat16)
    old = {"kind": "mamba", "mixer": "mamba1", "state_size": 4}
    configs = {"calm": {"kind": "calm"}, "mamba": MAMBA, "old": old, "hybrid": SLIM | {"kind": "hybrid"}}
    made, curve = trained(low, configs, documents(20), epochs=1)
    assert all(p.dtype == torch.float32 for p in made.parameters())
    assert all(math.isfinite(row["loss"]) for row in curve)
    backbone = loading.adapt(low)
    requests = requests_for([list(range(3, 9 + k)) for k in range(3)], (0.0, 0.5, 1.0))
    for name in configs:
        policy = confidences.HeadConfidence(made[name].requires_grad_(False).to(torch.bfloat16))
        fill = fills.FILLS[backbone.family]["propagate"]()
        rows = list(loop.generate(Decoder(backbone, policy, fill), requests, Length(), slots=4))
        assert {len(row.token_ids) for row in rows} == {Length.max_new_tokens}
        assert all(set(row.exit_blocks[1:]) == {EXITS[0]} for row in rows if row.setting == 0.0)
        assert all(set(row.exit_blocks) == {backbone.depth} for row in rows if row.setting == 1.0)


def test_a_head_does_not_depend_on_the_heads_trained_with_it(one_model, monkeypatch):
    monkeypatch.setitem(store.KINDS, "forgetful", Forgetful)
    configs = {"calm": CONFIGS["calm"], "one": {"kind": "forgetful"}, "two": {"kind": "forgetful"}, "slim": SLIM}
    together, _ = trained(one_model, configs, documents(20))
    alone, _ = trained(one_model, {"slim": SLIM, "two": configs["two"]}, documents(20))
    for name in alone:
        for key, tensor in alone[name].state_dict().items():
            assert torch.equal(tensor, together[name].state_dict()[key])
    assert not torch.equal(together["one"]["2"].linear.weight, together["two"]["2"].linear.weight)


# --- what it holds -----------------------------------------------------------------------------------------------


def peak_held(model, passes: int) -> int:
    """Most bytes of tensors that exist at once while training, every batch of the same size.

    No hidden state may outlive its batch, and each is computed once for all heads.
    """
    backbone, alive, peak, calls = loading.adapt(model), [], [0], [0]

    @dataclass(frozen=True)
    class Spied(Backbone):
        def run_prompt(self, token_ids, keep=(), cache=None):
            assert [ref for ref in alive if ref() is not None] == []
            last, hidden = super().run_prompt(token_ids, keep, cache)
            alive[:] = [weakref.ref(tensor) for tensor in (last, *hidden.values())]
            calls[0] += 1
            return last, hidden

    def count(*_):
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors()}
        peak[0] = max(peak[0], sum(held.values()))

    spied = Spied(**vars(backbone))
    made = training.new_heads(CONFIGS | {"mamba": MAMBA}, 32, EXITS, 3)
    for n in (2, 5):
        made["mamba"][str(n)].register_forward_hook(count)
    docs = [Document(f"d{k}", [3 + (k * j) % 50 for j in range(32)]) for k in range(12 * passes)]
    training.train(spied, made, docs, EXITS, OPTIONS | {"epochs": 1})
    assert calls[0] == 3 * passes
    return peak[0]


def tensors():
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter):
            yield thing


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(one_model):
    gc.collect()
    once = peak_held(one_model, 1)
    gc.collect()
    assert peak_held(one_model, 2) == once


# --- how it stops ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [(lambda x: x * math.nan, "nan"), (lambda x: torch.stack([x[..., 0], x[..., 0] - math.inf], -1), "inf")],
    ids=["nan", "inf"],
)
def test_the_error_for_a_loss_that_is_not_finite_names_step_and_documents(one_model, monkeypatch, wrong, shown):
    calls = []

    class Broken(Forgetful):
        def classify(self, hidden, cache):
            calls.append(1)
            logits = self.linear(hidden)
            return wrong(logits) if len(calls) > 2 * len(EXITS) else logits

    monkeypatch.setitem(store.KINDS, "broken", Broken)
    docs = documents(40)
    third = ", ".join(d.document_id for d in schedule(docs, 128, 3, 1)[2])
    with pytest.raises(InputError) as caught:
        trained(one_model, {"calm": CONFIGS["calm"], "mine": {"kind": "broken"}}, docs, k=61)
    assert str(caught.value) == (
        f"distillation: loss of head 'mine' after block 2 is {shown} at step 3; documents {third}; "
        "try a lower learning_rate"
    )


def test_a_gradient_that_is_not_finite_is_an_error(one_model, monkeypatch):
    class Steep(Forgetful):
        def classify(self, hidden, cache):
            logits = self.linear(hidden)
            return logits + 0 * (logits - logits.detach()).abs().sqrt()  # sqrt is infinitely steep at 0

    monkeypatch.setitem(store.KINDS, "steep", Steep)
    with pytest.raises(InputError, match=r"norm of the gradient is nan at step 1; documents d\d"):
        trained(one_model, {"mine": {"kind": "steep"}}, documents(20))


def test_a_learning_rate_that_is_too_high_is_an_error(one_model):
    with pytest.raises(InputError, match=r"is (nan|inf) at step \d+; documents d\d"):
        trained(one_model, {"calm": {"kind": "calm", "normalise": "none"}}, documents(20), learning_rate=1e38)


def test_progress_shows_loss_and_speed(one_model, caplog):
    with caplog.at_level(logging.INFO, logger="early_exit"):
        trained(one_model, CONFIGS, documents(9), epochs=1)
    line = next(message for message in caplog.messages if message.startswith("training steps"))
    assert pd.Series([line]).str.fullmatch(r".*: 1/1, .* per second, loss \d\.\d{4}, \d+ tokens/s").item(), line


# --- going on where it was killed --------------------------------------------------------------------------------

KILLED = """
import sys

sys.path[:0] = {paths!r}
import torch

from early_exit.heads import store
from head_training import Forgetful, run_with_checkpoint

torch.set_num_threads(1)


class Waiting(Forgetful):
    def classify(self, hidden, cache):
        if torch.initial_seed() == {moment}:
            print("in the middle", flush=True)
            sys.stdin.read()
        return super().classify(hidden, cache)


store.KINDS["forgetful"] = Waiting
run_with_checkpoint({path!r})
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted training without checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(store.KINDS, "forgetful", Forgetful)
        return run_with_checkpoint(tmp_path_factory.mktemp("whole"), seconds=math.inf)


@pytest.mark.slow
def test_a_killed_training_resumes_and_ends_with_the_same_bytes(whole, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(store.KINDS, "forgetful", Forgetful)
    assert whole[1][-1]["step"] > 5
    # The process stops within step 5, at the second exit of the last head, and is killed there.
    moment = training.crc32(b"3:mine:3:5")
    paths = [str(ROOT / folder) for folder in ("workflow/scripts", "tests")]
    code = KILLED.format(paths=paths, moment=moment, path=str(tmp_path))
    killed = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert killed.stdout.readline() == "in the middle\n"
    killed.kill()
    killed.communicate()
    assert not (tmp_path / "heads.safetensors").exists()
    with caplog.at_level(logging.INFO, logger="early_exit"):
        assert run_with_checkpoint(tmp_path) == whole
    assert any("going on after step 4 of" in message for message in caplog.messages)


def test_a_training_with_adamw_resumes_as_well(tmp_path, monkeypatch):
    monkeypatch.setitem(store.KINDS, "forgetful", Forgetful)
    (tmp_path / "whole").mkdir()
    whole = run_with_checkpoint(tmp_path / "whole", seconds=math.inf, optimiser="adamw")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume.Checkpoint, "is_due", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            run_with_checkpoint(tmp_path, optimiser="adamw")
    assert run_with_checkpoint(tmp_path, optimiser="adamw") == whole


def stop_at_the_third(checkpoint):
    checkpoint.asked = getattr(checkpoint, "asked", 0) + 1
    if checkpoint.asked == 3:
        raise KeyboardInterrupt
    return True


def test_a_checkpoint_of_other_inputs_or_a_damaged_one_is_ignored(whole, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(store.KINDS, "forgetful", Forgetful)
    assert run_with_checkpoint(tmp_path, fingerprint="other") == whole
    path = tmp_path / ".training.partial"
    kept = path.read_bytes()
    assert resume.Checkpoint(path, "same", 0.0).load() is None
    assert "is of other settings, code or data; training starts over" in caplog.text

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    flipped = bytearray(kept)
    flipped[len(kept) // 2] ^= 255
    for broken in (b"", b"rubbish", kept[: len(kept) // 2], bytes(flipped), pickle.dumps(Evil())):
        caplog.clear()
        path.write_bytes(broken)
        assert resume.Checkpoint(path, "other", 0.0).load() is None
        assert "cannot be read" in caplog.text and caplog.text.count("\n") == 1
    assert not (tmp_path / "ran").exists()
    path.write_bytes(kept)
    assert resume.Checkpoint(path, "other", 0.0).load()["step"] == whole[1][-1]["step"] - 1


def test_an_unreadable_checkpoint_changes_no_result(whole, tmp_path, monkeypatch):
    monkeypatch.setitem(store.KINDS, "forgetful", Forgetful)
    (tmp_path / ".training.partial").write_bytes(b"rubbish")
    assert run_with_checkpoint(tmp_path) == whole


def test_a_fingerprint_depends_on_contents_and_settings_only(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    files, settings = [tmp_path / "a", tmp_path / "b"], {"k": 1, "weights": [0.1, 0.2]}
    of_these = resume.fingerprint(files, settings)
    assert of_these == resume.fingerprint(files[::-1], dict(reversed(settings.items())))
    assert of_these != resume.fingerprint(files, settings | {"k": 2})
    assert of_these != resume.fingerprint(files[:1], settings)
    (tmp_path / "a").touch()
    assert of_these == resume.fingerprint(files, settings)
    (tmp_path / "a").write_text("edited")
    assert of_these != resume.fingerprint(files, settings)


def test_a_checkpoint_is_due_by_the_clock(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    checkpoint = resume.Checkpoint(tmp_path / ".training.partial", "f", 30.0)
    assert not checkpoint.is_due()
    now[0] = 130.0
    assert checkpoint.is_due()
    checkpoint.save({"step": 1})
    assert not checkpoint.is_due()
    assert [path.name for path in tmp_path.iterdir()] == [".training.partial"]
