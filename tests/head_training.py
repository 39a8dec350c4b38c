"""Heads trained for a few steps on random documents, with checkpoints where a test wants them."""

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from conftest import make_random_model
from early_exit.base import resume
from early_exit.heads import designs, training
from early_exit.models import loading
from early_exit.models.documents import Document

EXITS = [2, 3, 4, 5]
OPTIONS = {
    "label": "exit-in-oracle-topk", "k": 1, "exit_weights": "linear", "class_balance": "none", "seed": 3,
    "optimiser": "schedulefree-adamw", "learning_rate": 0.01, "epochs": 4, "max_training_tokens": None,
    "batch_tokens": 128,
}  # fmt: skip
SHAPE = {"head_dim": 8, "state_size": 8, "chunk_size": 8}
SLIM = {"kind": "mamba-slim", "rank": 8, **SHAPE}
RESUMED = {"calm": {"kind": "calm"}, "slim": SLIM, "mine": {"kind": "forgetful"}}


def documents(count, seed=0):
    """Random documents of 5 to 13 tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [Document(f"d{k}", torch.randint(3, 61, (5 + k % 9,), generator=generator).tolist()) for k in range(count)]


def trained(model, configs, docs, checkpoint=None, **changes):
    """Heads of the given designs trained on a model, and the training curve; `changes` are to OPTIONS."""
    backbone, options = loading.adapt(model), OPTIONS | changes
    made = training.new_heads(configs, backbone.hidden_size, EXITS, options["seed"])
    return made, training.train(backbone, made, docs, EXITS, options, checkpoint)


class Forgetful(designs.Head):
    """With dropout, so that it draws random numbers as it trains."""

    def __init__(self, hidden_size, layer_idx, exits, **options):
        super().__init__(hidden_size, layer_idx, exits, **options)
        self.linear = torch.nn.Linear(hidden_size, 2)

    def classify(self, hidden, cache):
        return self.linear(F.dropout(hidden, 0.5, self.training))


def run_with_checkpoint(folder, seconds=0.0, fingerprint="same", **changes):
    """Train RESUMED with a checkpoint every so many seconds; return the bytes of the heads, and the curve."""
    checkpoint = resume.Checkpoint(f"{folder}/.training.partial", fingerprint, seconds)
    options = {"epochs": 2, "class_balance": "balanced", **changes}
    made, curve = trained(make_random_model("mistral"), RESUMED, documents(30), checkpoint, **options)
    save_file(made.state_dict(), f"{folder}/heads.safetensors")
    with open(f"{folder}/heads.safetensors", "rb") as file:
        return file.read(), curve
