"""A short training of heads on random documents, for tests."""

import torch

from early_exit.heads import training
from early_exit.models import loading
from early_exit.models.documents import Document

EXITS = [2, 3, 4, 5]
OPTIONS = {
    "label": "exit-in-oracle-topk", "k": 1, "exit_weights": "linear", "class_balance": "none", "seed": 3,
    "optimiser": "schedulefree-adamw", "learning_rate": 0.01, "epochs": 4, "max_training_tokens": None,
    "batch_tokens": 128,
}  # fmt: skip


def documents(count, seed=0):
    """Random documents of 5 to 13 tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [Document(f"d{k}", torch.randint(3, 61, (5 + k % 9,), generator=generator).tolist()) for k in range(count)]


def trained(model, configs, docs, checkpoint=None, **changes):
    """Heads of the given designs trained on a model, and the training curve; `changes` are to OPTIONS."""
    backbone, options = loading.adapt(model), OPTIONS | changes
    made = training.new_heads(configs, backbone.hidden_size, EXITS, options["seed"])
    return made, training.train(backbone, made, docs, EXITS, options, checkpoint)
