"""How far a backbone in a coarser number format departs from itself in float32.

Answers are the float32 model's own; all formats read them (teacher forcing), so that positions stay comparable. What a
format does when it decodes freely is in its own answers. Two forms of a backbone are in memory at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from early_exit.decoding import answer, teacher_forced
from early_exit.decoding.job_inputs import AnsweringJob
from early_exit.decoding.teacher_forced import FullAnswer
from early_exit.models.backbone import Backbone
from early_exit.policies import build
from early_exit.policies.confidences import Confidence

REFERENCE, AUTOCAST = "float32", "-autocast"
BIN = 16  # positions of a row of `states`
STATES = ("example_id", "block", "position", "tokens", "difference", "kl")
PREDICTIONS = ("example_id", "tokens", "flips", "first")
DECISIONS = ("example_id", "policy", "setting", "passes", "flips")


@dataclass(frozen=True)
class Form:
    """A backbone in a number format: of its weights, or (`-autocast`) of products with float32 weights.

    Args:
        name: one of the config's `precision.formats`, or float32.
        job: opens the model, the policies and their decoders.
    """

    name: str
    job: AnsweringJob

    @classmethod
    def of(cls, name: str, params: Mapping[str, Any], files: Any) -> "Form":
        """`params` are those of an `AnsweringJob`, whose dtype the format replaces."""
        dtype = REFERENCE if name.endswith(AUTOCAST) else name
        runtime = {**params["runtime"], "dtype": dtype}
        return cls(name, AnsweringJob(SimpleNamespace(**{**params, "runtime": runtime}), files))

    @property
    def backbone(self) -> Backbone:
        return self.job.model[0]

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Within this context the model computes in the form's number format."""
        kind = getattr(torch, self.name.removesuffix(AUTOCAST))
        mixed = self.name.endswith(AUTOCAST)
        with torch.inference_mode(), torch.autocast(self.backbone.device.type, kind if mixed else None, enabled=mixed):
            yield

    def policies(self) -> dict[str, Confidence]:
        """Its policies with heads, by name."""
        return {
            name: build.build(policy, self.backbone, self.job.given[name])
            for name, policy in self.job.policies.items()
            if policy.trained
        }

    def answers(self, examples: pd.DataFrame, job_mib: float) -> pd.DataFrame:
        """Its own answers to examples at all settings, rows of records.GENERATIONS.

        None under autocast: caches have one number format, and autocast gives keys and values two.
        """
        if self.name.endswith(AUTOCAST):
            examples = examples.head(0)
        rows = answer.run(lambda: self.job.answerer(job_mib), examples, self.job.columns, _NothingKept())
        return self.job.frame(rows, "test")

    def read(self, answer: FullAnswer) -> dict[int, Tensor]:
        """Hidden states (1, prompt + answer - 1, hidden) after every block."""
        with self.computing():
            return teacher_forced.exit_states(self.backbone, range(1, self.backbone.depth + 1), answer)


def compare(
    reference: Form, other: Form, answers: Mapping[str, FullAnswer], settings: Mapping[str, Sequence[float]]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """What differs between two forms on the same texts, `answers` by example.

    `settings` are the thresholds of each policy with heads. Returns frames with columns STATES (means over BIN
    positions: relative difference of hidden states, and KL divergence of the predictions in nats), PREDICTIONS (of the
    answer's tokens, how many another token is more probable than, and the first of them, from 0) and DECISIONS (decode
    passes, and those that leave after another block).
    """
    states, predictions, decisions = [], [], []
    ours, theirs = reference.policies(), other.policies()
    for example, text in answers.items():
        hidden, rounded = reference.read(text), other.read(text)
        for n in hidden:
            first, second = _logits(reference, hidden[n]), _logits(other, rounded[n])
            binned = _binned(hidden[n], rounded[n], first, second)
            states += [{"example_id": example, "block": n, **row} for row in binned]
        chosen = slice(len(text.prompt) - 1, None)  # `first` and `second` are now those after the last block
        flipped = (first.argmax(-1) != second.argmax(-1))[chosen].nonzero()[:, 0].tolist()
        count = {"tokens": len(text.token_ids), "flips": len(flipped), "first": next(iter(flipped), None)}
        predictions.append({"example_id": example, **count})
        for name, thresholds in settings.items():
            before = _leaves(reference, ours[name], hidden, text, thresholds)
            after = _leaves(other, theirs[name], rounded, text, thresholds)
            for t, one, two in zip(thresholds, before, after, strict=True):
                counts = {"passes": len(one), "flips": int((one != two).sum())}
                decisions.append({"example_id": example, "policy": name, "setting": t, **counts})
    rows = ((states, STATES), (predictions, PREDICTIONS), (decisions, DECISIONS))
    return tuple(pd.DataFrame(found, columns=columns) for found, columns in rows)


def _logits(form: Form, hidden: Tensor) -> Tensor:
    with form.computing():
        return form.backbone.logits(hidden[0]).float()


def _binned(hidden: Tensor, rounded: Tensor, first: Tensor, second: Tensor) -> Iterator[dict[str, float]]:
    exact, log_p, log_q = hidden[0].float(), first.log_softmax(-1), second.log_softmax(-1)
    difference = (rounded[0].float() - exact).norm(dim=-1) / exact.norm(dim=-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    for start in range(0, len(kl), BIN):
        part = slice(start, start + BIN)
        yield {"position": start, "tokens": len(kl[part]), "difference": float(difference[part].mean()),
               "kl": float(kl[part].mean())}  # fmt: skip


def _leaves(
    form: Form, policy: Confidence, hidden: Mapping[int, Tensor], text: FullAnswer, thresholds: Sequence[float]
) -> list[Tensor]:
    """After which exit each decode pass leaves (its index; the number of exits for none), at each threshold."""
    with form.computing():
        sure = policy.of_answer({n: hidden[n] for n in policy.exits}, len(text.prompt)).float()
    enough = [policy.is_enough(sure, torch.tensor(t, device=sure.device)) for t in thresholds]
    return [torch.where(one.any(-1), one.int().argmax(-1), len(policy.exits)) for one in enough]


class _NothingKept:
    """Stands for `answer.Kept`: few answers, not worth a file of their own beside those of the rules that answer."""

    def get(self, *place: Any) -> None:
        return None

    def add(self, *row: Any) -> None:
        pass
