"""The embedded models are small, answer well at full depth, and find some tokens harder than others."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from conftest import ROOT
from early_exit.blocks import settling
from early_exit.data import datasets, prompts
from early_exit.data.corpus import load_corpus
from early_exit.decoding import loop, stopping
from early_exit.decoding.batch import Decoder
from early_exit.evaluation import metrics
from early_exit.models import documents, loading
from early_exit.sources import manifests
from tiny import pretrain, world

TINY = ROOT / "workflow/resources/tiny"
SPLITS = {"shots": "train", "calibration": "validation", "test": "test"}
FLOORS = {"triviaqa": ("em", 0.85), "coqa": ("f1", 0.80), "truthfulqa": ("bleu_acc", 0.70)}


@pytest.fixture(scope="module", params=["transformer", "mamba"])
def model(request):
    manifest = manifests.describe("tiny", {"source": "tiny"}, TINY / request.param, str(TINY / request.param))
    backbone = loading.load(manifest, torch.device("cpu"), torch.float32)
    return backbone, loading.load_tokenizer(manifest)


def answers(model, kind, count=None):
    backbone, tokenizer = model
    spec = {
        "kind": kind,
        "source": str(TINY / kind),
        "name": None,
        "revision": None,
        "splits": SPLITS,
        "shots": {"triviaqa": 2, "coqa": 0, "truthfulqa": 1}[kind],
        "examples": {"calibration": 100, "test": count},
    }
    examples = datasets.load(kind, spec, 1).query("split == 'test'").set_index("example_id")
    stop_strings = prompts.PROFILES["official"][kind].stop_strings
    rule = stopping.StopRule(tokenizer, loading.stop_token_ids(backbone, tokenizer), stop_strings, 32)
    requests = [loop.Request(i, tokenizer(prompt)["input_ids"], (1.0,)) for i, prompt in examples["prompt"].items()]
    done = loop.generate(Decoder(backbone), requests, rule, slots=128)
    return examples, {row.example_id: rule.text(row.token_ids) for row in done}


def score(kind, text, example):
    if kind == "truthfulqa":
        return metrics.truthfulqa(text, example["references"], example["incorrect"])
    return getattr(metrics, kind)(text, example["references"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", FLOORS)
def test_both_models_answer_well_at_full_depth(model, kind):
    examples, texts = answers(model, kind)
    assert len(examples) >= 300
    metric, floor = FLOORS[kind]
    mean = pd.Series({i: score(kind, texts[i], example)[metric] for i, example in examples.iterrows()}).mean()
    assert mean >= floor


def test_tokens_differ_in_difficulty(model):
    """After the first exit most predictions have settled, but not all; later exits settle more."""
    backbone, tokenizer = model
    corpus = load_corpus(
        {
            "source": str(TINY / "corpus"),
            "name": None,
            "revision": None,
            "split": "train",
            "documents": 1,
            "held_out": 60,
        },
        1,
    )
    held_out = documents.tokenise(corpus[corpus["split"] == "held_out"], tokenizer, 256)
    share = {row["block"]: row["share"] for row in settling.settling_rows(backbone, held_out, 2048)}
    assert 0.3 < share[8] < share[10] < share[12] < share[14] < 1.0


@pytest.mark.slow
def test_never_exit_equals_plain_greedy_decoding(model):
    backbone, tokenizer = model
    examples, _ = answers(model, "coqa", count=20)
    prompts_ = [tokenizer(prompt)["input_ids"] for prompt in examples["prompt"]]
    rule = stopping.StopRule(tokenizer, {-1}, ["never"], 16)
    requests = [loop.Request(str(k), prompt, (1.0,)) for k, prompt in enumerate(prompts_)]
    ours = {row.example_id: row.token_ids for row in loop.generate(Decoder(backbone), requests, rule, slots=8)}
    for k, prompt in enumerate(prompts_):
        expected = backbone.model.generate(
            torch.tensor([prompt]), max_new_tokens=16, do_sample=False, eos_token_id=[-1]
        )
        assert ours[str(k)] == expected[0, len(prompt) :].tolist()


def test_size_and_loss_curves():
    files = [file for file in TINY.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 15 * 2**20
    for family in ("transformer", "mamba"):
        curve = pd.read_csv(TINY / family / "loss.csv")
        assert curve["answer_loss"].tail(8).mean() < 0.2 * curve["answer_loss"].iloc[0]


@pytest.mark.slow
@pytest.mark.parametrize("family", pretrain.SCHEDULES)
def test_pretraining_writes_a_model_in_the_hub_s_format_and_its_loss_curve(family, tmp_path):
    everything = world.World(7)
    tokenizer = pretrain.train_tokenizer(everything, documents=200)
    schedule = replace(pretrain.SCHEDULES[family], steps=2, rows=1)
    pretrain.pretrain(family, everything, tokenizer, tmp_path, schedule, 1)
    manifest = manifests.describe("tiny", {"source": "tiny"}, tmp_path, str(tmp_path))
    assert manifest["config"] == manifests.describe("t", {"source": "t"}, TINY / family, None)["config"]
    assert loading.load_tokenizer(manifest)("a b")["input_ids"] == tokenizer("a b")["input_ids"]
    assert pd.read_csv(tmp_path / "loss.csv")[["step", "tokens"]].values.tolist() == [[2, 512]]
