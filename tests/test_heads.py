"""Exit heads: shapes, memory, and the artefact."""

import copy

import pytest
import torch
from transformers import DynamicCache

from early_exit import heads, policies, state
from early_exit.records import InputError

HIDDEN, EXITS = 32, [2, 3, 4, 5]
CONFIGS = {
    "calm": {"kind": "calm"},
    "ffn": {"kind": "ffn"},
    "mamba": {"kind": "mamba", "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 8},
}
BACKBONE = {"name": "b", "source": "x", "revision": None, "sha256": "0" * 64, "config": {"hidden_size": HIDDEN}}


@pytest.fixture
def made():
    torch.manual_seed(1)
    built = {name: heads.build(config, HIDDEN, EXITS) for name, config in CONFIGS.items()}
    return torch.nn.ModuleDict(built).eval().requires_grad_(False)


def saved(made, folder):
    heads.save(made, CONFIGS, BACKBONE, EXITS, {"seed": 1}, folder / "heads.safetensors", folder / "manifest.json")


@pytest.mark.parametrize("name", CONFIGS)
def test_reloaded_head_gives_the_same_outputs(made, name, tmp_path):
    saved(made, tmp_path)
    again = heads.load(tmp_path, name, BACKBONE)
    hidden = torch.randn(3, 7, HIDDEN)
    for n in map(str, EXITS):
        assert torch.equal(again[n](hidden), made[name][n](hidden))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_exit_has_weights_of_its_own(made, name, tmp_path):
    """The authors' earlier code saved the first exit's weights four times."""
    saved(made, tmp_path)
    weights = [torch.cat([p.flatten() for p in h.parameters()]) for h in heads.load(tmp_path, name, BACKBONE).values()]
    for k, one in enumerate(weights):
        assert all(not torch.equal(one, other) for other in weights[:k])


def test_a_head_of_another_backbone_is_refused(made, tmp_path):
    saved(made, tmp_path)
    with pytest.raises(InputError, match="trained for x"):
        heads.load(tmp_path, "calm", BACKBONE | {"sha256": "1" * 64})
    with pytest.raises(InputError, match="has no head 'other'"):
        heads.load(tmp_path, "other", BACKBONE)


def test_confidence_is_the_softmax_of_the_second_logit():
    assert heads.confidence(torch.tensor([0.0, 2.0])).item() == pytest.approx(1 / (1 + torch.e**-2))


@pytest.mark.parametrize("options", [{"normalise": "loud"}, {"kind": "mamba", "head_dim": 7}])
def test_bad_options_are_named(options):
    with pytest.raises(InputError):
        heads.build({"kind": "calm", **options}, HIDDEN, EXITS)


def test_scaling_the_hidden_state_changes_nothing(made):
    hidden = torch.randn(2, 3, HIDDEN)
    head = made["ffn"]["2"]
    assert torch.allclose(head(hidden), head(1000 * hidden), atol=1e-4)


def test_stepping_a_mamba_head_equals_running_it_over_the_sequence(made):
    """Prompt by chunks, then token by token through our state: the same confidences as one pass over everything."""
    policy = policies.HeadConfidence(made["mamba"])
    hidden = {n: torch.randn(3, 12, HIDDEN) for n in EXITS}
    expected = {n: made["mamba"][str(n)](hidden[n]) for n in EXITS}
    policy.open(4)
    slots = torch.tensor([0, 1, 2])
    policy.admit(slots, {n: h[:, :5] for n, h in hidden.items()}, torch.tensor([0, 1, 2]))
    for t in range(5, 12):
        policy.states[0].begin(3)
        for n in EXITS:
            threshold = torch.tensor([0.2, 0.5, 0.8])
            leaving = policy.leave(n, hidden[n][:, t : t + 1], threshold)
            assert torch.equal(leaving, heads.confidence(expected[n][:, t]) > threshold)


def test_a_mamba_head_skips_tokens_that_left_below_it(made):
    """A row's head state advances only when its exit is reached; other rows are untouched."""
    policy = policies.HeadConfidence(made["mamba"])
    policy.open(2)
    prompt = {n: torch.randn(2, 4, HIDDEN) for n in EXITS}
    policy.admit(torch.tensor([0, 1]), prompt, torch.tensor([0, 1]))
    memory = policy.states[0]
    before = copy.deepcopy(memory.recurrent)
    memory.begin(2)
    policy.leave(2, torch.randn(2, 1, HIDDEN), torch.zeros(2))
    memory.narrow(torch.tensor([1]))
    policy.leave(3, torch.randn(1, 1, HIDDEN), torch.zeros(1))
    assert not torch.equal(memory.recurrent[0], before[0])
    assert torch.equal(memory.recurrent[1][0], before[1][0])
    assert not torch.equal(memory.recurrent[1][1], before[1][1])
    assert torch.equal(memory.recurrent[2], before[2])


def test_state_insert_repeats_rows_of_a_prompt(made):
    cache = made["mamba"]["2"].new_cache()
    assert isinstance(cache, DynamicCache)
    with torch.no_grad():
        for n in EXITS:
            made["mamba"][str(n)](torch.randn(2, 6, HIDDEN), cache)
    memory = state.RecurrentState(range(len(EXITS)), 3, torch.device("cpu"))
    memory.insert(torch.tensor([0, 1, 2]), cache, torch.tensor([1, 1, 0]), 7)
    assert torch.equal(memory.recurrent[0][0], memory.recurrent[0][1])
    assert not torch.equal(memory.recurrent[0][0], memory.recurrent[0][2])
