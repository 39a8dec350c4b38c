"""Configs with every source pinned, so that they load without a network."""

from conftest import ROOT
from early_exit.experiment.config import load as module

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_IDS = [
    "HuggingFaceTB/SmolLM2-135M", "AntonV/mamba2-130m-hf", "mistralai/Mistral-7B-v0.3",
    "mistralai/Mamba-Codestral-7B-v0.1", "mandarjoshi/trivia_qa", "EleutherAI/coqa", "truthfulqa/truthful_qa",
    "HuggingFaceFW/fineweb-edu",
]  # fmt: skip
REVISIONS = dict.fromkeys(HUB_IDS, COMMIT)


def load(**user):
    """The complete config for the keys of a user."""
    return module.load({"revisions": REVISIONS, **user}, ROOT)
