"""Trains all heads of a recipe at all exits of a backbone, in one pass over the documents.

The hidden states of a batch are computed once, serve every head, and are freed before the next batch. Heads share no
parameters, and each draws random numbers from a seed of its name, so none depends on which others are trained with it.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import schedulefree
import torch
from torch import nn
from torch.nn import functional as F

from early_exit.base import job
from early_exit.base.errors import InputError
from early_exit.base.resume import Checkpoint
from early_exit.heads import targets
from early_exit.heads.store import build
from early_exit.models.backbone import Backbone
from early_exit.models.documents import Document, schedule

REPORT_EVERY = 10  # steps per row of the curve


def new_heads(
    configs: Mapping[str, Mapping[str, Any]], hidden_size: int, exits: Sequence[int], seed: int
) -> nn.ModuleDict:
    """Build untrained heads by name; a head's initial weights depend on the seed and on its own name only."""
    heads = {}
    for name, config in configs.items():
        _seed(seed, name)
        heads[name] = build(config, hidden_size, exits, name)
    return nn.ModuleDict(heads)


def train(
    backbone: Backbone,
    heads: nn.ModuleDict,
    documents: Sequence[Document],
    exits: Sequence[int],
    options: Mapping[str, Any],
    checkpoint: Checkpoint | None = None,
) -> list[dict[str, Any]]:
    """Train all heads in place, in float32.

    Args:
        backbone: frozen; it computes hidden states and labels.
        heads: by name, one per exit, as `new_heads` builds them, on the backbone's device.
        options: the config's `distillation`.
        checkpoint: where the state is saved, and loaded to resume. The result is the same with or without.

    Returns:
        The training curve: step, tokens (so far), head, exit, loss and positive_rate (means over the steps since the
        previous row).

    Raises:
        InputError: a loss or a gradient is not finite; the message names the step and its documents.
    """
    order = (options[key] for key in ("batch_tokens", "seed", "epochs", "max_training_tokens"))
    steps = schedule(documents, *order)
    run = HeadTraining(backbone, heads, exits, options)
    saved = checkpoint and checkpoint.load()
    if saved:
        run.restore(saved)
        job.log.info("%s: going on after step %d of %d", checkpoint.path, run.step, len(steps))
    heads.train()
    rest = steps[run.step :]
    for batch in job.progress(rest, len(rest), "training steps", note=run.note):
        run.train_on(batch)
        if run.step % REPORT_EVERY == 0 or run.step == len(steps):
            run.report()
        if checkpoint and run.step < len(steps) and checkpoint.is_due():
            checkpoint.save(run.state())
    if hasattr(run.optimiser, "eval"):
        run.optimiser.eval()  # schedule-free: put the averaged weights in place
    heads.eval()
    return run.curve


class HeadTraining:
    """A running training: the state that one step leaves for the next."""

    def __init__(self, backbone: Backbone, heads: nn.ModuleDict, exits: Sequence[int], options: Mapping[str, Any]):
        self.backbone, self.heads, self.exits, self.options = backbone, heads, list(exits), options
        self.optimiser = _optimiser(options, heads)
        self.weights = targets.exit_weights(options["exit_weights"], len(self.exits))
        # Labels of each class so far, (exits, 2).
        self.label_counts = torch.zeros(len(self.exits), 2, dtype=torch.double, device=backbone.device)
        self.step, self.tokens, self.curve = 0, 0, []
        self.losses, self.positives, self.steps_summed = self._zeros(len(heads)), self._zeros(1), 0
        self._begin, self._tokens_before, self._last_loss = time.monotonic(), 0, math.nan

    def train_on(self, batch: Sequence[Document]) -> None:
        """Take one step of the optimiser on a batch."""
        hidden, labelled, real = targets.hidden_and_labels(
            self.backbone, batch, self.exits, self.options["label"], self.options["k"]
        )
        self.step, self.tokens = self.step + 1, self.tokens + int(real.sum())
        self.optimiser.zero_grad()
        losses, positives = [], []
        for k, n in enumerate(self.exits):
            states, truth = hidden.pop(n).float(), labelled.pop(n)[real].long()
            self.label_counts[k] += F.one_hot(truth, 2).sum(0)
            balanced = self.options["class_balance"] == "balanced"
            class_weights = targets.class_weights(self.label_counts[k]).float() if balanced else None
            positives.append(truth.double().mean())
            for name, per_exit in self.heads.items():
                _seed(self.options["seed"], f"{name}:{n}:{self.step}")  # for heads with dropout
                loss = F.cross_entropy(per_exit[str(n)](states)[real], truth, weight=class_weights)
                (self.weights[k] * loss).backward()  # at once, so that only one head's graph is in memory
                losses.append(loss.detach())
        losses = torch.stack(losses).double().cpu().view(len(self.exits), -1).T  # (heads, exits)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.heads.parameters() if p.grad is not None])
        self._refuse_if_not_finite(losses, norm, batch)
        self.optimiser.step()
        self.losses += losses
        self.positives += torch.stack(positives).cpu()
        self.steps_summed += 1
        self._last_loss = losses.mean().item()

    def report(self) -> None:
        """Add one row per head and exit to the curve."""
        losses, positives = self.losses / self.steps_summed, self.positives[0] / self.steps_summed
        self.curve += [
            {
                "step": self.step,
                "tokens": self.tokens,
                "head": name,
                "exit": n,
                "loss": losses[i, k].item(),
                "positive_rate": positives[k].item(),
            }
            for i, name in enumerate(self.heads)
            for k, n in enumerate(self.exits)
        ]
        self.losses, self.positives, self.steps_summed = self._zeros(len(self.heads)), self._zeros(1), 0

    def note(self) -> str:
        """Return the end of a progress line: the last step's loss, mean over heads and exits, and tokens per second."""
        seconds = max(time.monotonic() - self._begin, 1e-9)
        return f"loss {self._last_loss:.4f}, {(self.tokens - self._tokens_before) / seconds:.0f} tokens/s"

    _SAVED = ("step", "tokens", "curve", "label_counts", "losses", "positives", "steps_summed")

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to resume after this step."""
        saved = {name: getattr(self, name) for name in self._SAVED}
        return saved | {"heads": self.heads.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Resume from a `state`."""
        for name in self._SAVED:
            setattr(self, name, state[name])
        self.label_counts = self.label_counts.to(self.backbone.device)
        self._tokens_before = self.tokens
        self.heads.load_state_dict(state["heads"])
        self.optimiser.load_state_dict(state["optimiser"])

    def _refuse_if_not_finite(self, losses: torch.Tensor, norm: torch.Tensor, batch: Sequence[Document]) -> None:
        what = None
        for i, name in enumerate(self.heads):
            for k, n in enumerate(self.exits):
                if what is None and not math.isfinite(losses[i, k]):
                    what = f"loss of head '{name}' after block {n} is {losses[i, k].item()}"
        if what is None and not math.isfinite(norm):
            what = f"norm of the gradient is {norm.item()}"
        if what:
            names = ", ".join(document.document_id for document in batch)
            raise InputError(f"distillation: {what} at step {self.step}; documents {names}; try a lower learning_rate")

    def _zeros(self, rows: int) -> torch.Tensor:
        return torch.zeros(rows, len(self.exits), dtype=torch.double)


def _seed(seed: int, name: str) -> None:
    torch.manual_seed(crc32(f"{seed}:{name}".encode()))


def _optimiser(options: Mapping[str, Any], heads: nn.Module) -> torch.optim.Optimizer:
    if options["optimiser"] == "adamw":
        return torch.optim.AdamW(heads.parameters(), lr=options["learning_rate"])
    optimiser = schedulefree.AdamWScheduleFree(heads.parameters(), lr=options["learning_rate"], warmup_steps=20)
    optimiser.train()
    return optimiser
