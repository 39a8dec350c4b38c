"""Pretraining of the two tiny language models on the closed world, from a seed (rule `pretrain_tiny`).

It is plain next-token training without anything that favours early exits. Answer tokens weigh more in the loss: the
text of a story is random, and what the models should learn is to answer.
"""

import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, Mamba2Config, MistralConfig, PreTrainedModel, PreTrainedTokenizerFast

from tiny.world import Document, World

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
DEPTH, WIDTH, WINDOW = 16, 128, 256
ANSWER_WEIGHT = 6.0


@dataclass(frozen=True)
class Schedule:
    """`steps` batches of rows x WINDOW tokens at the highest learning rate `lr`, and the mix of their documents.

    `story_share` and `retold` are shares in 0..1 (see `World.documents`).
    """

    steps: int
    rows: int
    lr: float
    story_share: float
    retold: float = 0.0


SCHEDULES = {
    "transformer": Schedule(steps=4000, rows=4, lr=3e-3, story_share=0.6),
    "mamba": Schedule(steps=2200, rows=4, lr=3e-3, story_share=0.65, retold=0.6),
}


def train_tokenizer(world: World, vocab_size: int = 768, documents: int = 4000) -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE tokenizer trained on the world's documents; it begins every text with `<s>`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((d.text for d in itertools.islice(world.documents(seed=-1), documents)), trainer)
    bpe.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, pad_token=PAD)


def model_config(family: str, tokenizer: PreTrainedTokenizerFast):
    """Returns the config of 16 blocks of Mistral (grouped-query attention), or of Mamba-2 with two groups."""
    ids = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if family == "transformer":
        return MistralConfig(
            **ids,
            hidden_size=WIDTH,
            intermediate_size=256,
            num_hidden_layers=DEPTH,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=1024,
            sliding_window=None,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=False,
        )
    return Mamba2Config(
        **ids,
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        expand=2,
        head_dim=64,
        num_heads=4,
        state_size=32,
        n_groups=2,
        chunk_size=32,
        tie_word_embeddings=False,
        residual_in_fp32=False,
    )


def batches(documents: Iterator[Document], tokenizer: PreTrainedTokenizerFast, rows: int) -> Iterator[tuple]:
    """Yields packed windows: token ids, shape (rows, WINDOW + 1), and their weights in the loss, of the same shape."""
    ids, weights = [], []
    need = rows * (WINDOW + 1)
    for document in documents:
        encoded = tokenizer(document.text, return_offsets_mapping=True)
        ids += [*encoded["input_ids"], tokenizer.eos_token_id]
        in_answer = [
            any(start <= a < end and b > a for start, end in document.answers) for a, b in encoded["offset_mapping"]
        ]
        weights += [ANSWER_WEIGHT if inside else 1.0 for inside in in_answer] + [1.0]
        if len(ids) >= need:
            yield torch.tensor(ids[:need]).view(rows, -1), torch.tensor(weights[:need]).view(rows, -1)
            ids, weights = ids[need:], weights[need:]


def pretrain(
    family: str, world: World, tokenizer: PreTrainedTokenizerFast, folder: Path, schedule: Schedule, seed: int
) -> None:
    """Train a model; writes it to `folder` in the hub's format, and its loss curve to `folder/loss.csv`."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(model_config(family, tokenizer))
    optimisers = build_optimisers(model, schedule.lr)
    rates = [
        torch.optim.lr_scheduler.OneCycleLR(
            o, [g["lr"] for g in o.param_groups], total_steps=schedule.steps, pct_start=0.05, cycle_momentum=False
        )
        for o in optimisers
    ]
    documents = world.documents(seed, schedule.story_share, schedule.retold)
    stream = itertools.islice(batches(documents, tokenizer, schedule.rows), schedule.steps)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "loss.csv").open("w", newline="") as file:
        curve = csv.writer(file)
        curve.writerow(["step", "tokens", "loss", "answer_loss"])
        for step, (ids, weights) in enumerate(stream, 1):
            logits = model(ids[:, :-1], use_cache=False).logits
            losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            weight = weights[:, 1:].flatten()
            loss = (losses * weight).sum() / weight.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimiser, rate in zip(optimisers, rates, strict=True):
                optimiser.step()
                optimiser.zero_grad()
                rate.step()
            if step % 25 == 0 or step == schedule.steps:
                answer_loss = losses[weight > 1].mean().item()
                curve.writerow([step, step * schedule.rows * WINDOW, f"{loss.item():.4f}", f"{answer_loss:.4f}"])
    state = {name: tensor.to(torch.float16) for name, tensor in model.state_dict().items()}  # for half the size
    model.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)


def build_optimisers(model: PreTrainedModel, lr: float) -> list[torch.optim.Optimizer]:
    """Returns AdamW for Mamba-2; for the Transformer, Muon for the matrices of its blocks and AdamW for the rest."""
    parameters = dict(model.named_parameters())
    matrices = {name: p for name, p in parameters.items() if p.ndim == 2}
    if model.config.model_type != "mamba2":
        matrices = {name: p for name, p in matrices.items() if ".layers." in name}
        others = [p for name, p in parameters.items() if name not in matrices]
        muon = torch.optim.Muon(list(matrices.values()), lr=lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)]
    others = [p for name, p in parameters.items() if name not in matrices]
    groups = [{"params": list(matrices.values()), "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))]
