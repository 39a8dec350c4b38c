"""A real model on real questions: what never exits is the library's own greedy text, token by token.

Runs where SmolLM2-135M-Instruct lies as GGUF in models/smollm2 (or in the folder that EARLY_EXIT_SMOLLM2 names) and the
questions beside the repository: 20 prompts, or 200 with EARLY_EXIT_REAL=1.
"""

import os
from itertools import chain
from pathlib import Path

import pytest
import torch

from conftest import ROOT, SHARED
from early_exit.data import datasets
from early_exit.models import loading
from early_exit.sources import manifests
from engine import Length, requests_for, run

FOLDER = Path(os.environ.get("EARLY_EXIT_SMOLLM2", ROOT / "models/smollm2"))
QUESTIONS = {"triviaqa": ("triviaqa-validation.jsonl", 2), "coqa": ("coqa-test-part.json", 0),
             "truthfulqa": ("TruthfulQA.csv", 1)}  # fmt: skip  # with shots
PROMPTS = 200 if os.environ.get("EARLY_EXIT_REAL") else 20
NEW_TOKENS = 12
TIE = 1e-3  # the two sum in other orders; logits here are about 20, in float32

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not any(FOLDER.glob("*.gguf")), reason=f"no GGUF file in {FOLDER}"),
    pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"no question sets in {SHARED / 'data'}"),
]


@pytest.fixture(scope="module")
def smollm2():
    gguf = sorted(FOLDER.glob("*.gguf"))[0].name
    manifest = manifests.describe("smollm2", {"source": str(FOLDER), "gguf": gguf}, FOLDER, str(FOLDER))
    backbone = loading.load(manifest, torch.device("cpu"), torch.float32)
    return backbone, loading.load_tokenizer(manifest)


def real_prompts(tokenizer):
    """Token ids of the shortest prompts of the three sets, as many of each (the slow reference is one core's work)."""
    of_sets = []
    for kind, (file, shots) in QUESTIONS.items():
        spec = {"kind": kind, "source": str(SHARED / "data" / file), "name": None, "revision": None,
                "splits": dict.fromkeys(("shots", "calibration", "test")), "shots": shots,
                "examples": {"calibration": 1, "test": None}}  # fmt: skip
        texts = datasets.load(kind, spec, 1).query("split == 'test'")["prompt"]
        of_sets.append(sorted(tokenizer(list(texts))["input_ids"], key=len))
    return list(chain.from_iterable(zip(*of_sets, strict=False)))[:PROMPTS]


def test_never_exit_equals_the_librarys_generate(smollm2, capsys):
    backbone, tokenizer = smollm2
    some = real_prompts(tokenizer)
    assert len(some) == PROMPTS
    ours = run(backbone, requests_for(some), slots=8, rule=Length(NEW_TOKENS))
    gaps = []
    for k, prompt in enumerate(some):
        row, ids = ours[f"{k:02d}", 1.0], torch.tensor([prompt])
        expected = backbone.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=[-1]
        )[0, len(prompt) :].tolist()
        i = next((i for i, pair in enumerate(zip(row.token_ids, expected, strict=True)) if pair[0] != pair[1]), None)
        if i is not None:
            with torch.inference_mode():
                logits = backbone.model(torch.tensor([prompt + expected[:i]])).logits[0, -1]
            gaps.append(float(logits[expected[i]] - logits[row.token_ids[i]]))
    with capsys.disabled():
        print(f"\n{PROMPTS} prompts: {PROMPTS - len(gaps)} equal; gaps where others first differ: {gaps}")
    assert all(abs(gap) < TIE for gap in gaps)
