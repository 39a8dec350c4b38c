"""Number formats against float32, and the growth of a change against recurrences whose exponent is known."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from conftest import make_random_model
from early_exit.decoding import perturbation, precision
from early_exit.decoding.teacher_forced import FullAnswer
from early_exit.evaluation.precision import exponents
from early_exit.models import loading

TEXT = FullAnswer(list(range(3, 24)), [5, 9, 11, 30, 2])
CHANGES = perturbation.Changes([0.01, 0.1], 2, 1)


def form(name: str, model: str) -> precision.Form:
    dtype = torch.float32 if name.endswith(precision.AUTOCAST) else getattr(torch, name)
    backbone = loading.adapt(make_random_model(model, dtype))
    return precision.Form(name, SimpleNamespace(model=(backbone, None), policies={}, given={}))


def compare(name: str, model: str):
    return precision.compare(form("float32", model), form(name, model), {"a": TEXT}, {})


@pytest.mark.parametrize("model", ["qwen3", "mamba", "mamba2"])
def test_float32_differs_from_itself_by_exactly_nothing(model):
    states, predictions, _ = compare("float32", model)
    assert len(states) == 6 * 2  # blocks, times 25 positions in bins of 16
    assert (states[["difference", "kl"]] == 0.0).all(axis=None)
    assert predictions[["tokens", "flips"]].to_numpy().tolist() == [[5, 0]] and predictions["first"].isna().all()


@pytest.mark.parametrize("model", ["qwen3", "mamba2"])
@pytest.mark.parametrize("name", ["bfloat16", "float16", "bfloat16-autocast"])
def test_differences_are_those_of_the_library_s_own_forward(name, model):
    states, _, _ = compare(name, model)
    tokens = torch.tensor([[*TEXT.prompt, *TEXT.token_ids[:-1]]])
    hidden = {}
    for kind in ("float32", name):
        dtype = torch.float32 if kind.endswith("-autocast") else getattr(torch, kind)
        mixed = torch.autocast("cpu", torch.bfloat16, enabled=kind.endswith("-autocast"))
        with torch.no_grad(), mixed:
            states_after = make_random_model(model, dtype)(tokens, output_hidden_states=True).hidden_states
        hidden[kind] = states_after[model == "qwen3"].float()  # a Mamba's tuple starts after the first block
    difference = (hidden[name] - hidden["float32"]).norm(dim=-1) / hidden["float32"].norm(dim=-1)
    first = states[states["block"] == 1]
    mean = (first["difference"] * first["tokens"]).sum() / first["tokens"].sum()
    assert mean == pytest.approx(float(difference.mean()), rel=0.2)
    assert mean > 1e-5


class Recurrence(nn.Module):
    """A block that adds a running sum of its inputs, of which each step keeps the share `decay`."""

    def __init__(self, decay: float):
        super().__init__()
        self.decay = decay

    def forward(self, hidden, **options):
        state, out = torch.zeros_like(hidden[:, 0]), []
        for t in range(hidden.shape[1]):
            state = self.decay * state + hidden[:, t]
            out.append(state)
        return torch.stack(out, dim=1)


@pytest.mark.parametrize("decay", [0.8, 1.0, 1.1])
def test_the_exponent_of_a_linear_recurrence_is_the_logarithm_of_its_decay(decay):
    backbone = loading.adapt(make_random_model("qwen3"))
    backbone = dataclasses.replace(backbone, blocks=(Recurrence(decay),), layer_indices=(0,))
    rows = pd.DataFrame(perturbation.follow(backbone, list(range(3, 48)), CHANGES)).assign(example_id="a")
    assert exponents(rows)["exponent"].to_numpy() == pytest.approx(math.log(decay), abs=2e-3)


@pytest.mark.parametrize("model", ["mamba2"])
def test_a_mamba_whose_decay_was_made_unstable_is_found_out(model):
    text, largest = [3 + k % 50 for k in range(96)], {}  # a short text shows what comes first, not what lasts
    for unstable in (False, True):
        backbone = loading.adapt(make_random_model(model))
        for block in backbone.blocks if unstable else ():
            block.mixer.time_step_limit = (-0.1, -0.1)  # a negative step makes exp(A * step) grow
        rows = pd.DataFrame(perturbation.follow(backbone, text, CHANGES)).assign(example_id="a")
        found = exponents(rows)
        largest[unstable] = found.loc[found["followed"] == "state", "exponent"].max()
    assert largest[False] < 0.0 < 0.05 < largest[True]


def test_a_change_below_the_resolution_counts_as_the_resolution():
    rows = torch.tensor([[1.0, 0.0], [1.0, 1e-30]])
    (row,) = perturbation._distances("hidden", 1, 4, rows, perturbation.Changes([0.1], 1, 1))
    assert np.exp(row["log_distance"]) == pytest.approx(perturbation.RESOLUTION)
