"""Exit heads: shapes, memory, the artefact, and a head from outside."""

import copy
import math
import re
import textwrap

import pytest
import torch
from pydantic import TypeAdapter
from transformers import DynamicCache
from transformers.models.mamba import modeling_mamba

from conftest import ROOT, make_random_model
from early_exit.base.errors import InputError
from early_exit.base.records import read_json, write_json
from early_exit.experiment.config.heads import HeadDesign
from early_exit.heads import store
from early_exit.models import caches
from early_exit.policies import confidences
from early_exit.sources import manifests, user_code
from head_training import EXITS, documents, trained

HIDDEN = 32
SHAPE = {"head_dim": 8, "state_size": 8, "chunk_size": 8}
CONFIGS = {
    "calm": {"kind": "calm"},
    "ffn": {"kind": "ffn"},
    "mamba": {"kind": "mamba", "n_groups": 2, **SHAPE},
    "mamba1": {"kind": "mamba", "mixer": "mamba1", "state_size": 4},
    "ffn-slim": {"kind": "ffn-slim", "rank": 8},
    "mamba-slim": {"kind": "mamba-slim", "rank": 8, **SHAPE},
    "hybrid": {"kind": "hybrid", "rank": 8, **SHAPE},
}
STATEFUL = ["mamba", "mamba1", "mamba-slim", "hybrid"]
BACKBONE = {"name": "b", "source": "x", "revision": None, "sha256": "0" * 64, "config": {"hidden_size": HIDDEN}}
MINE = """
from torch import nn

from early_exit.costs.parts import linear
from early_exit.heads.designs import Head


class Bottleneck(Head):
    def __init__(self, hidden_size, layer_idx, exits, *, width=16, **options):
        super().__init__(hidden_size, layer_idx, exits, **options)
        self.layers = nn.Sequential(nn.Linear(hidden_size, width), nn.GELU(), nn.Linear(width, 2))

    def classify(self, hidden, cache):
        return self.layers(hidden)

    @classmethod
    def cost(cls, hidden_size, *, width=16, **options):
        return linear(hidden_size * width + width * 2)
"""


@pytest.fixture
def made():
    torch.manual_seed(1)
    built = {name: store.build(config, HIDDEN, EXITS, name) for name, config in CONFIGS.items()}
    return torch.nn.ModuleDict(built).eval().requires_grad_(False)


def save(made, folder, configs=CONFIGS, backbone=BACKBONE):
    store.save(made, configs, backbone, EXITS, {"seed": 1}, folder)


# --- designs -----------------------------------------------------------------------------------------------------


def test_confidence_is_the_softmax_of_the_second_logit():
    assert store.confidence(torch.tensor([0.0, 2.0])).item() == pytest.approx(1 / (1 + torch.e**-2))


@pytest.mark.parametrize("name", CONFIGS)
def test_scaling_the_hidden_state_changes_logits_only_without_normalisation(name):
    hidden = torch.randn(2, 3, HIDDEN)
    for normalise in ("rms", "none"):
        torch.manual_seed(1)
        head = store.build(CONFIGS[name] | {"normalise": normalise}, HIDDEN, [2])["2"].eval()
        assert head(hidden).shape == (2, 3, 2)
        assert torch.allclose(head(hidden), head(1000 * hidden), atol=1e-4) == (normalise == "rms")


@pytest.mark.parametrize(
    ("design", "message"),
    [
        ({"kind": "calm", "normalise": "loud"}, "heads.x: normalise: 'loud' is unknown; use rms or none"),
        ({"kind": "mamba", "head_dim": 7}, "heads.x: head_dim: 7 does not split expand x width = 64 channels"),
        ({"kind": "mamba", "mixer": "mamba3"}, "heads.x: mixer: 'mamba3' is unknown; use mamba2 or mamba1"),
        ({"kind": "mamba", "mixer": "mamba1", "head_dim": 8}, "heads.x: head_dim: is no option of mixer mamba1"),
        ({"kind": "hybrid", "rank": 33}, "heads.x: rank: 33 is more than the hidden states' 32 channels"),
        ({"kind": "calm", "depth": 2}, "heads.x: cannot be made with {'depth': 2} ("),
        ({"kind": "mlp"}, "heads.x: kind 'mlp' is unknown; known are calm, ffn, mamba"),
        ({}, "heads.x: 'kind' is missing"),
    ],
)
def test_the_error_names_a_bad_option(design, message):
    with pytest.raises(InputError) as caught:
        store.build(design, HIDDEN, EXITS, "x")
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_the_config_s_defaults_are_the_classes_own():
    """At 7B width, where every default fits."""
    designs = TypeAdapter(HeadDesign)
    for design in [{"kind": kind} for kind in store.KINDS] + [{"kind": "hybrid", "mixer": "mamba1"}]:
        filled = designs.validate_python(design).model_dump()
        assert len(filled) > len(design)
        assert store.cost(filled, 4096) == store.cost(design, 4096)
        with torch.device("meta"):
            shapes = [
                {name: tensor.shape for name, tensor in store.build(options, 4096, [1]).state_dict().items()}
                for options in (filled, design)
            ]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_check_costs_a_product_with_every_matrix(made, name):
    """Biases, norms and the state's own parameters are not counted."""
    weights = made[name]["2"].named_parameters()
    matrices = [p.numel() for key, p in weights if p.ndim > 1 and not key.endswith("A_log")]
    cost = store.cost(CONFIGS[name], HIDDEN)
    assert cost["linear"] == 2 * sum(matrices)
    assert (cost["recurrence"] > 0) == (name in STATEFUL)


# --- memory ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STATEFUL)
def test_a_stateful_head_token_by_token_equals_one_pass_over_the_sequence(made, name):
    """A prompt's pass, then single tokens through our state, have the confidences of one pass over everything."""
    policy = confidences.HeadConfidence(made[name])
    hidden = {n: torch.randn(3, 12, HIDDEN) for n in EXITS}
    expected = {n: made[name][str(n)](hidden[n]) for n in EXITS}
    policy.open(4)
    policy.admit(torch.tensor([0, 1, 2]), {n: h[:, :5] for n, h in hidden.items()}, torch.tensor([0, 1, 2]))
    for t in range(5, 12):
        policy.begin(3)
        for n in EXITS:
            sure = store.confidence(expected[n][:, t])
            torch.testing.assert_close(policy.confidence(n, hidden[n][:, t : t + 1]), sure, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", STATEFUL)
def test_a_stateful_head_is_causal(made, name):
    head, hidden = made[name]["2"], torch.randn(1, 9, HIDDEN)
    other = hidden.clone()
    other[:, 4] = torch.randn(HIDDEN)
    differs = (head(hidden) - head(other)).abs().sum(-1)[0] > 1e-7
    assert not differs[:4].any() and differs[4:].all()


def test_a_mamba_head_skips_tokens_that_left_below_it(made):
    """A row's head state advances only when its exit is reached; other rows are untouched."""
    policy = confidences.HeadConfidence(made["mamba"])
    policy.open(2)
    prompt = {n: torch.randn(2, 4, HIDDEN) for n in EXITS}
    policy.admit(torch.tensor([0, 1]), prompt, torch.tensor([0, 1]))
    memory = policy.state
    before = copy.deepcopy(memory.recurrent)
    policy.begin(2)
    policy.leave(2, torch.randn(2, 1, HIDDEN), torch.tensor([0.0, 1.0]))
    policy.leave(3, torch.randn(1, 1, HIDDEN), torch.zeros(1))
    assert not torch.equal(memory.recurrent[0], before[0])
    assert torch.equal(memory.recurrent[1][0], before[1][0])
    assert not torch.equal(memory.recurrent[1][1], before[1][1])
    assert torch.equal(memory.recurrent[2], before[2])


@pytest.mark.parametrize("name", STATEFUL)
def test_state_insert_repeats_rows_of_a_prompt(made, name):
    cache = made[name]["2"].new_cache()
    assert isinstance(cache, DynamicCache)
    with torch.no_grad():
        for n in EXITS:
            made[name][str(n)](torch.randn(2, 6, HIDDEN), cache)
    memory = caches.RecurrentState(range(len(EXITS)), 3, torch.device("cpu"))
    memory.insert(torch.tensor([0, 1, 2]), cache, torch.tensor([1, 1, 0]), 7)
    assert torch.equal(memory.recurrent[0][0], memory.recurrent[0][1])
    assert not torch.equal(memory.recurrent[0][0], memory.recurrent[0][2])


def test_mamba1_training_kernels_get_the_bias_of_the_output_projection(made, monkeypatch):
    """Without it the trained head would differ from the one that decodes."""
    given = []
    monkeypatch.setattr(modeling_mamba, "mamba_inner_fn", lambda *args, **_: given.append(args))
    head = made["mamba1"]["2"].train()
    head(torch.randn(1, 3, HIDDEN))
    assert torch.equal(given[0][6], head.mixer.out_proj.bias)


# --- the artefact ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_reloaded_head_gives_the_same_outputs(made, name, tmp_path):
    save(made, tmp_path)
    again = store.load(tmp_path, name, BACKBONE)
    hidden = torch.randn(3, 7, HIDDEN)
    for n in map(str, EXITS):
        assert torch.equal(again[n](hidden), made[name][n](hidden))
        assert not again[n].training and not any(p.requires_grad for p in again[n].parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_every_exit_has_different_weights(made, name, tmp_path):
    """The authors' earlier code saved the first exit's weights four times."""
    save(made, tmp_path)
    weights = [torch.cat([p.flatten() for p in h.parameters()]) for h in store.load(tmp_path, name, BACKBONE).values()]
    for k, one in enumerate(weights):
        assert all(not torch.equal(one, other) for other in weights[:k])


def test_heads_of_another_backbone_name_or_file_are_refused(made, tmp_path):
    save(made, tmp_path)
    with pytest.raises(InputError, match="trained for x"):
        store.load(tmp_path, "calm", BACKBONE | {"sha256": "1" * 64})
    with pytest.raises(InputError, match="has no head 'other'"):
        store.load(tmp_path, "other", BACKBONE)
    with pytest.raises(InputError, match="no such model folder"):
        store.load(tmp_path, "calm", tmp_path / "nowhere")
    (tmp_path / "heads.safetensors").write_bytes((tmp_path / "heads.safetensors").read_bytes() + b" ")
    with pytest.raises(InputError, match=r"is not the file that manifest\.json describes"):
        store.load(tmp_path, "calm", BACKBONE)


@pytest.mark.parametrize("given", ["folder", "manifest file", "manifest"])
def test_a_head_is_loaded_in_three_lines_for_a_model_s_folder_or_manifest(tmp_path, monkeypatch, given):
    """The lines of the module's docstring, from another folder."""
    model = ROOT / "workflow/resources/tiny/mamba"
    manifest = manifests.describe("tiny-mamba", {"source": str(model)}, model, str(model))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results/tiny/heads/tiny-mamba/paper"
    exits = [8, 10]
    saved = torch.nn.ModuleDict({"mamba": store.build(CONFIGS["mamba"], 128, exits)})
    store.save(saved, {"mamba": CONFIGS["mamba"]}, manifest, exits, {}, folder)
    backbone = {"folder": str(model), "manifest file": "tiny-mamba.json", "manifest": manifest}[given]
    write_json(manifest, tmp_path / "tiny-mamba.json")
    lines = re.search(r"^    from early_exit(?:.+\n)+", store.__doc__, re.MULTILINE)[0]
    lines = textwrap.dedent(lines).replace('"workflow/resources/tiny/mamba"', "backbone")
    assert lines.count("\n") == 3
    names = {"hidden": torch.randn(2, 5, 128), "backbone": backbone}
    exec(lines, names)
    expected = store.confidence(saved["mamba"].eval()["8"](names["hidden"]))
    assert torch.equal(names["sure"], expected) and expected.shape == (2, 5)


# --- a head from outside -----------------------------------------------------------------------------------------


def test_a_users_class_in_a_file_is_trained_saved_loaded_and_costed(tmp_path, monkeypatch):
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads/mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    design = {"kind": "heads/mine.py:Bottleneck", "width": 4}
    made, curve = trained(
        make_random_model("mistral"), {"mine": design, "calm": {"kind": "calm"}}, documents(40), epochs=10
    )
    losses = [row["loss"] for row in curve if row["head"] == "mine" and row["exit"] == 2]
    assert losses[-1] < losses[0] and all(math.isfinite(loss) for loss in losses)
    save(made, tmp_path, {"mine": design, "calm": {"kind": "calm"}})
    assert read_json(tmp_path / "manifest.json")["code"].keys() == {design["kind"]}
    again = store.load(tmp_path, "mine", BACKBONE)
    hidden = torch.randn(2, 3, HIDDEN)
    assert torch.equal(again["3"](hidden), made["mine"]["3"](hidden))
    assert type(again["3"]).__name__ == "Bottleneck" and again["3"].layers[0].out_features == 4
    assert store.cost(design, HIDDEN) == {"linear": 2 * (HIDDEN * 4 + 8), "recurrence": 0, "per_context": 0}

    (tmp_path / "heads/mine.py").write_text(MINE.replace("GELU", "ReLU"))
    with pytest.raises(InputError, match=r"'mine' was trained before heads/mine.py:Bottleneck was edited"):
        store.load(tmp_path, "mine", BACKBONE)
    assert "ReLU" in str(store.build(design, HIDDEN, [2])["2"])  # the new text, not what was imported before
    store.load(tmp_path, "calm", BACKBONE)


def test_a_users_file_is_searched_in_the_repository_and_then_in_the_working_directory(tmp_path, monkeypatch):
    work, repository = tmp_path / "work", tmp_path / "repository"
    for folder in (work, repository):
        folder.mkdir()
        (folder / "mine.py").write_text("class Mine:\n    pass\n")
    (work / "other.py").write_text("class Other:\n    pass\n")
    monkeypatch.chdir(work)
    designs = ["mine.py:Mine", "other.py:Other", "calm"]
    assert user_code.files(designs, repository) == [str(repository / "mine.py"), str(work / "other.py")]
    assert user_code.files([f"{work}/mine.py:Mine"], repository) == [str(work / "mine.py")]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (None, "Mine", "names a file that does not exist"),
        ("class Yours:\n    pass\n", "Mine", "no class"),
        ("class Mine(:\n", "Mine", "SyntaxError"),
        ("import no_such_module\nclass Mine:\n    pass\n", "Mine", "No module named 'no_such_module'"),
        ("class Mine:\n    pass\n", "Mine", "is no subclass of early_exit.heads.designs.Head"),
        ("from early_exit.heads.designs import Head\nclass Mine(Head):\n    pass\n", "Mine", "has no `cost`"),
        ("class Mine:\n    pass\n", "", "is not written as file.py:Class"),
    ],
)
def test_a_file_without_a_usable_class_is_refused_in_one_line(tmp_path, text, name, message):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    kind = f"{tmp_path}/mine.py:{name}"
    with pytest.raises(InputError) as caught:
        store.cost({"kind": kind}, HIDDEN, "x")
    line = str(caught.value)
    assert message in line and line.startswith("heads.x: ") and "\n" not in line
    found = user_code.problem(kind)
    runs_nothing = "import" in (text or "") or message.startswith("is no subclass")  # seen by a job, not by the config
    assert (found is None) == runs_nothing and "\n" not in (found or "")


def test_a_bad_cost_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text(MINE.replace("return linear(", "return ("))
    with pytest.raises(InputError, match=r"heads.x: its `cost` gives 544; add it up"):
        store.cost({"kind": f"{tmp_path}/mine.py:Bottleneck"}, HIDDEN, "x")


def test_the_example_is_short():
    assert len(MINE.strip().splitlines()) < 20
