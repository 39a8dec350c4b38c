"""The config: what merges over what, what is filled in, and the one line that each mistake gets."""

import json
import math
import runpy
from itertools import product
from types import SimpleNamespace
from typing import get_args

import pytest
import yaml

from configs import COMMIT, load
from conftest import ROOT
from early_exit.base.errors import InputError
from early_exit.blocks import pruning
from early_exit.costs import passes
from early_exit.decoding import fills
from early_exit.experiment import runs
from early_exit.experiment.config import load as module
from early_exit.experiment.config import pages, policies
from early_exit.experiment.config.entry import derived, members
from early_exit.experiment.config.experiment import Experiment
from early_exit.experiment.config.heads import Distillation, FileHead, Mamba1Mixer, Mamba2Mixer
from early_exit.experiment.config.pages import keys
from early_exit.experiment.config.policies import parse
from early_exit.heads import mixers, store, targets
from early_exit.policies.build import policy_class
from early_exit.sources import user_code
from shapes import MISTRAL_7B

PRESETS = ["tiny", "small", "paper"]
HEAD = {"kind": "head", "recipe": "paper", "head": "calm", "state_fill": "copy"}
RIVAL = {"kind": "softmax", "state_fill": "propagate"}


def message(**user) -> str:
    with pytest.raises(InputError) as caught:
        load(**user)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_key_has_a_description():
    for path, field in keys(Experiment):
        assert field.description, path


def test_config_yaml_is_right_when_uncommented():
    lines = (ROOT / "config.yaml").read_text().split("preset: tiny\n")[1].splitlines()
    user = yaml.safe_load("\n".join(line.removeprefix("# ") for line in lines))
    with pytest.raises(InputError, match=r"mine\.source"):  # nothing lies at models/mine
        load(**user)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_load(preset):
    config = load(preset=preset)
    assert config.name == preset
    on_one = sum(policy.only_on == ["coqa"] for policy in config.policies.values())
    assert on_one == {"tiny": 8}.get(preset, 3)  # adaptive thresholds; of the default six heads and two rivals, too
    assert len(runs.runs(config)) == 54 + 2 * on_one
    for backbone in config.backbones.values():
        assert len(backbone.exits) == 4
    dumped = config.model_dump()
    assert json.loads(json.dumps(dumped)) == dumped
    assert Experiment.model_validate(dumped).model_dump() == dumped


def test_the_paper_s_shapes():
    config = load(preset="paper")
    assert config.backbones["mistral-7b"].exits == [16, 20, 24, 28]
    assert config.backbones["codestral-mamba-7b"].exits == [32, 40, 48, 56]
    shape = {"expand": 2, "head_dim": 64, "state_size": 128, "n_groups": 8, "conv_kernel": 4, "chunk_size": 64}
    assert config.heads["mamba"].model_dump() == {"kind": "mamba", "normalise": "rms", "mixer": "mamba2", **shape}
    assert config.heads["calm"].model_dump() == {"kind": "calm", "normalise": "rms"}
    assert config.distillation.k == 15 and config.distillation.learning_rate == 2.5e-4


def test_defaults_and_facts_of_the_model_are_filled_in():
    config = load()
    backbone = config.backbones["tiny-mamba"]
    assert (backbone.family, backbone.depth, backbone.dtype) == ("mamba", 16, "float32")
    assert backbone.parameters == 16 * (128 * (2 * 256 + 2 * 2 * 32 + 4) + 4 * 384 + 256 * 128) + 2 * 768 * 128
    assert config.degeneration.model_dump() == {"ngram": 4, "repeats": 4}
    assert config.policies["full"].model_dump() == {"kind": "full"}
    assert config.policies["calm-copy"].rule.thresholds == config.thresholds
    assert config.policies["calm-copy"].head_state == "skip"
    assert config.datasets["coqa"].splits.model_dump() == {
        "shots": "train",
        "calibration": "validation",
        "test": "test",
    }


def test_a_design_gets_the_keys_and_defaults_of_its_kind_and_mixer(tmp_path):
    (tmp_path / "mine.py").write_text("class Mine:\n    pass\n")
    mine = {"kind": f"{tmp_path}/mine.py:Mine", "channels": [1, 2], "rank": 3}
    config = load(heads={
        "slim": {"kind": "mamba-slim"}, "old": {"kind": "hybrid", "mixer": "mamba1"}, "lean": {"kind": "ffn-slim"},
        "mine": mine,
    })  # fmt: skip
    shape = {"mixer": "mamba2", "expand": 2, "head_dim": 64, "state_size": 128, "conv_kernel": 4, "chunk_size": 64}
    shared = {"normalise": "rms", "rank": 128}
    assert config.heads["slim"].model_dump() == {"kind": "mamba-slim", **shared, **shape, "n_groups": 1}
    old = {"mixer": "mamba1", "expand": 2, "state_size": 16, "conv_kernel": 4}
    assert config.heads["old"].model_dump() == {"kind": "hybrid", **shared, **old}
    assert config.heads["lean"].model_dump() == {"kind": "ffn-slim", **shared}
    assert config.heads["mine"].model_dump() == {"normalise": "rms", **mine}
    assert user_code.files(head.kind for head in config.heads.values()) == [str(tmp_path / "mine.py")]


def test_the_seed_of_training_is_the_experiment_s_unless_given():
    assert load(seed=5).distillation.seed == 5
    assert load(seed=5, distillation={"seed": 0}).distillation.seed == 0


def test_user_keys_go_before_the_preset_s_and_null_takes_away():
    config = load(
        name="mine", datasets={"coqa": {"examples": {"test": 7}}}, backbones={"tiny-mamba": None},
        policies={"pruned": None, "calm-copy": {"thresholds": [0.3]}}, thresholds=[0.1, 0.2],
    )  # fmt: skip
    assert config.name == "mine"
    assert config.datasets["coqa"].examples.model_dump() == {"calibration": 100, "test": 7}
    assert list(config.backbones) == ["tiny-transformer"]
    assert "pruned" not in config.policies
    assert config.policies["calm-copy"].rule.thresholds == [0.3]
    assert config.policies["ffn-copy"].rule.thresholds == [0.1, 0.2]
    policies = {run.policy for run in runs.runs(config)}
    assert policies == {
        "full",
        "oracle",
        *(f"calm-{adapt}" for adapt in ("decay", "per-exit", "budget")),
        *("ffn-slim", "mamba-slim", "hybrid", "softmax", "self-speculative"),
        *(f"{head}-{fill}" for head in ("calm", "ffn", "mamba") for fill in ("copy", "propagate")),
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_groups_run_only_where_they_are_asked_for(preset):
    presets = module.read_yaml(ROOT / module.PRESETS / f"{preset}.yaml")
    grouped = {group: set(names) for group, names in presets["groups"].items()}
    every, apart = set(presets["policies"]), set().union(*grouped.values())
    assert set(load(preset=preset).policies) == every - apart
    assert set(load(preset=preset, group="rivals").policies) == every - apart | grouped["rivals"]
    everything = load(preset=preset, group="all")
    assert set(everything.policies) == every
    ran = {(run.dataset, run.policy) for run in runs.runs(everything)}
    assert ran >= set(product(everything.datasets, every))


def test_a_policy_of_ones_own_runs_and_one_that_is_matched_comes_along():
    policies = {"mine": RIVAL, "calm-copy": None, "chance": {"kind": "random", "match": "margin"}}
    config = load(policies=policies, groups={"more": ["chance"], "gone": ["calm-copy"]})
    assert "mine" in config.policies and "margin" not in config.policies
    config = load(policies=policies, groups={"more": ["chance"]}, group="more")
    assert {"mine", "margin", "chance", "full"} <= set(config.policies)
    assert config.policies["chance"].state_fill == "propagate"
    assert "saturation" not in config.policies
    assert "random" not in load(policies={"calm-propagate": None}, group="all").policies


def test_what_of_a_preset_does_not_fit_a_backbone_is_cut_and_said_and_what_the_user_wrote_is_refused(tmp_path):
    shape = MISTRAL_7B | {"num_hidden_layers": 6, "max_position_embeddings": 200}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    backbones = {"tiny-mamba": None, "short": {"source": str(tmp_path)}}
    config = load(backbones=backbones)
    assert config.policies["pruned"].drop == [1, 2, 4] and config.corpus.max_tokens == 200
    assert config.notes == [
        "policies.pruned.drop: [1, 2, 4], not [1, 2, 4, 6, 8]: a backbone has 6 blocks",
        "corpus.max_tokens: 200, not 256: a backbone's window has no more",
    ]
    assert len(load(backbones=backbones, group="pruning").notes) == 6  # of those that run
    with pytest.raises(InputError, match=r"policies.pruned.drop': 6 is too many for 'short', which has 6 blocks"):
        load(backbones=backbones, policies={"pruned": {"drop": [2, 6]}})
    with pytest.raises(InputError, match=r"corpus.max_tokens': 256 is more than the window of 'short' has, 200 tokens"):
        load(backbones=backbones, corpus={"max_tokens": 256})


def test_policies_get_the_keys_of_their_kind_and_of_how_they_adapt():
    config = load(group="all", thresholds=[0.3])
    policies = {name: policy.model_dump() for name, policy in config.policies.items()}
    assert policies["margin"] == {"kind": "margin", "state_fill": "propagate", "thresholds": [0.3], "adapt": "none",
                                  "datasets": None}  # fmt: skip
    assert policies["softmax"]["thresholds"] == [0.5, 0.8, 0.95]  # its own
    assert policies["saturation"]["thresholds"][-1] == 0.999
    assert policies["calm-decay"]["temperature"] == 4 and policies["calm-decay"]["thresholds"] == [0.3]
    assert "thresholds" not in policies["calm-budget"] and policies["calm-budget"]["horizon"] == 4
    assert policies["calm-per-exit"]["levels"][-1] == 1.0
    assert policies["patience"]["patience"] == [2, 3, 4] and "adapt" not in policies["patience"]
    assert policies["fixed"] == {"kind": "fixed", "state_fill": "propagate", "datasets": None}
    assert all(parse(policy).model_dump() == policy for policy in policies.values())


def test_each_kind_says_its_settings_and_what_they_are():
    policies, exits = load(group="all").policies, [8, 10, 12, 14]
    assert {name: policies[name].settings(exits) for name in ("fixed", "patience", "full", "random")} == {
        "fixed": exits, "patience": [2, 3, 4], "full": [1.0], "random": [],
    }  # fmt: skip
    kinds = {name: policies[name].setting_kind for name in ("calm-decay", "calm-budget", "patience", "pruned", "full")}
    assert kinds == {"calm-decay": "threshold", "calm-budget": "budget", "patience": "exits in a row",
                     "pruned": "blocks dropped", "full": "none"}  # fmt: skip
    assert policies["calm-budget"].settings(exits) == policies["calm-budget"].rule.budgets


def test_the_safest_setting_comes_first():
    policies = load(group="all").policies
    for policy in policies.values():
        values = policy.settings([8, 10, 12, 14])
        assert policy.safest_first(values) == (values if policy.kind == "pruned" else values[::-1])
    calibrated = {name for name, policy in policies.items() if policy.is_calibrated}
    assert calibrated >= {"calm-copy", "calm-decay", "calm-per-exit", "softmax", "patience"}
    assert not calibrated & {"full", "oracle", "pruned", "fixed", "random", "calm-budget", "mamba-budget"}


def test_text_from_the_command_line_is_read_as_yaml():
    config = load(
        thresholds=["0.25", "1"], policies={"pruned": "null"}, backbones={"tiny-mamba": {"exits": ["8", "9"]}}
    )
    assert config.thresholds == [0.25, 1]
    assert "pruned" not in config.policies
    assert config.backbones["tiny-mamba"].exits == [8, 9]


def test_exits_are_fractions_of_the_depth_unless_given():
    assert load(backbones={"tiny-mamba": {"exits": None}}).backbones["tiny-mamba"].exits == [8, 10, 12, 14]
    small = load(preset="small", backbones={"smollm2-135m": {"exits": None}})
    assert small.backbones["smollm2-135m"].exits == [15, 19, 23, 27]


def test_a_revision_of_the_user_s_goes_before_a_pinned_one():
    config = load(preset="small", datasets={"coqa": {"revision": "f" * 40}})
    assert config.datasets["coqa"].revision == "f" * 40
    assert config.datasets["triviaqa"].revision == COMMIT


def test_a_local_folder_may_hold_a_gguf_file(tmp_path):
    (tmp_path / "model.gguf").touch()
    spec = {"source": str(tmp_path), "gguf": "model.gguf", "family": "transformer", "depth": 30, "parameters": 1.3e8}
    backbone = load(backbones={"mine": spec}, policies={"pruned": {"drop": [1]}}).backbones["mine"]
    assert backbone.exits == [15, 19, 23, 27] and backbone.path == str(tmp_path)
    assert backbone.files == [str(tmp_path / "model.gguf")]
    assert "backbones.mine.gguf" in message(backbones={"mine": {**spec, "gguf": "other.gguf"}})
    for fact in ("depth", "parameters"):
        assert f"backbones.mine.{fact}" in message(backbones={"mine": {**spec, fact: None}})


@pytest.mark.parametrize(
    ("user", "parts"),
    [
        ({"preset": "tinny"}, ["preset", "'tinny'", "'tiny'"]),
        ({"treshold": 1}, ["treshold", "did you mean 'thresholds'"]),
        ({"name": "../up"}, ["name", "'../up'"]),
        ({"thresholds": [0.5, 1.5]}, ["thresholds[1]", "1.5"]),
        ({"thresholds": [-0.1]}, ["thresholds[0]", "-0.1"]),
        ({"thresholds": [0.9, 0.5]}, ["thresholds", "[0.9, 0.5]", "ascending"]),
        ({"thresholds": []}, ["thresholds", "[]"]),
        ({"batch_size": "many"}, ["batch_size", "'many'"]),
        ({"seed": 1.5}, ["seed", "1.5"]),
        ({"resources": {"mem_mb": 0}}, ["resources.mem_mb", "0"]),
        ({"estimate": {"utilisation": 2}}, ["estimate.utilisation", "2"]),
        ({"seed": math.nan}, ["seed", "nan"]),
        ({"memory": math.inf}, ["memory", "inf", "finite"]),
        ({"estimate": {"tflops": math.nan}}, ["estimate.tflops", "nan", "finite"]),
        ({"distillation": {"learning_rate": "1e-3"}}, ["distillation.learning_rate", "'1e-3'", "write 1.0e-3"]),
        ({"thresholds": ["5E-1"]}, ["thresholds[0]", "'5E-1'", "write 5.0e-1"]),
        ({"recipes": {"r": ["calm", False]}}, ["recipes.r[1]", "False", "quotes"]),
        ({"group": True}, ["group", "True", "boolean", "quotes"]),
        ({"name": 2024}, ["name", "2024", "number", "quotes"]),
        ({"backbones": {False: None}}, ["backbones.False", "boolean", "quotes"]),
        ({"heads": {2024: {"kind": "calm"}}}, ["heads.2024", "number", "quotes"]),
        ({"policies": {"p": "softmax"}}, ["policies.p", "'softmax'", "mapping"]),
        ({"device": "gpu"}, ["device", "'gpu'", "'cpu'"]),
        ({"backbones": {"Big One": {"source": "workflow"}}}, ["backbones.Big One", "no name"]),
        ({"backbones": {"tiny-mamba": {"exits": [8, 20]}}}, ["backbones.tiny-mamba.exits", "20", "beyond", "16"]),
        ({"backbones": {"tiny-mamba": {"exits": [8, 16]}}}, ["backbones.tiny-mamba.exits", "16"]),
        ({"backbones": {"tiny-mamba": {"exits": [10, 8]}}}, ["backbones.tiny-mamba.exits", "[10, 8]"]),
        ({"backbones": {"tiny-mamba": {"exits": [8, 8]}}}, ["backbones.tiny-mamba.exits", "[8, 8]"]),
        ({"backbones": {"tiny-mamba": {"depth": 12}}}, ["backbones.tiny-mamba.depth", "12", "16"]),
        ({"backbones": {"tiny-mamba": {"parameters": 3.0e6}}}, ["backbones.tiny-mamba.parameters", "3000000.0"]),
        ({"backbones": {"tiny-mamba": {"family": "transformer"}}}, ["backbones.tiny-mamba.family", "'transformer'"]),
        ({"backbones": {"tiny-mambo": None}}, ["backbones.tiny-mambo", "did you mean 'tiny-mamba'"]),
        ({"backbones": {"m": {"source": "./nowhere"}}}, ["backbones.m.source", "'./nowhere'", "does not exist"]),
        ({"backbones": {"m": {"source": "gpt2"}}}, ["backbones.m.source", "'gpt2'", "owner/name"]),
        ({"backbones": {"m": {"source": "a/b"}}}, ["backbones.m.revision", "'a/b'", "make pin"]),
        ({"backbones": {"m": {"source": "a/b", "revision": "main"}}}, ["backbones.m.revision", "'main'"]),
        ({"backbones": {"m": {"source": "a/b", "revision": COMMIT}}}, ["backbones.m.family", "null"]),
        ({"backbones": {"m": {"source": "config.yaml"}}}, ["backbones.m.source", "'config.yaml'", "gguf"]),
        ({"backbones": {"m": {}}}, ["backbones.m.source", "missing"]),
        ({"datasets": {"d": {"kind": "trivia", "source": "workflow"}}}, ["datasets.d.kind", "'trivia'", "'triviaqa'"]),
        ({"datasets": {"d": {"kind": "coqa", "source": "/no.json"}}}, ["datasets.d.source", "'/no.json'"]),
        ({"datasets": {"corpus": {"kind": "coqa", "source": "workflow"}}}, ["datasets.corpus"]),
        ({"datasets": {"coqa": {"example": {}}}}, ["datasets.coqa.example", "'examples'"]),
        ({"corpus": {"source": "~/no/such/folder"}}, ["corpus.source", "'~/no/such/folder'"]),
        ({"heads": {"calm": {"expand": 2}}}, ["heads.calm.expand", "2", "calm"]),
        ({"heads": {"h": {"kind": "lstm"}}}, ["heads.h.kind", "'lstm'", "calm, ffn, mamba"]),
        ({"heads": {"h": {"kind": "ffn-slim", "rnak": 2}}}, ["heads.h.rnak", "did you mean 'rank'"]),
        ({"heads": {"h": {"kind": "mamba", "mixer": "mamba1", "n_groups": 2}}}, ["heads.h.n_groups", "2", "'mamba1'"]),
        ({"heads": {"h": {"kind": "no/such.py:Mine"}}}, ["heads.h.kind", "'no/such.py:Mine'", "does not exist"]),
        ({"heads": {"h": {"kind": "tests/conftest.py:Mine"}}}, ["heads.h.kind", "names no class of the file"]),
        ({"heads": {"h": {"kind": "tests/conftest.py"}}}, ["heads.h.kind", "file.py:Class"]),
        ({"distillation": {"exit_weights": [1, 2, 3]}}, ["distillation.exit_weights", "[1.0, 2.0, 3.0]", "4 exits"]),
        ({"distillation": {"exit_weights": [1, 2, 3, 0]}}, ["distillation.exit_weights[3]", "0"]),
        ({"distillation": {"exit_weights": "cubic"}}, ["distillation.exit_weights", "'cubic'", "linear, uniform"]),
        ({"distillation": {"class_balance": "balance"}}, ["distillation.class_balance", "'balanced'"]),
        ({"distillation": {"max_training_tokens": 0}}, ["distillation.max_training_tokens", "0"]),
        ({"recipes": {"r": ["calm", "clam"]}}, ["recipes.r[1]", "'clam'", "'calm'"]),
        ({"head_quality": {"recipes": ["papre"]}}, ["head_quality.recipes[0]", "'papre'", "'paper'"]),
        ({"policies": {"full": None}}, ["policies.full", "null"]),
        ({"policies": {"fuller": {"kind": "full"}}}, ["policies.full"]),
        ({"policies": {"p": {"kind": "head", "head": "calm"}}}, ["policies.p.recipe", "missing"]),
        ({"policies": {"p": {**HEAD, "recipe": "papers"}}}, ["policies.p.recipe", "'papers'", "'paper'"]),
        ({"policies": {"p": {**HEAD, "head": "calmer"}}}, ["policies.p.head", "'calmer'", "'calm'"]),
        ({"policies": {"p": {**HEAD, "state_fill": "fill"}}}, ["policies.p.state_fill", "'fill'"]),
        ({"policies": {"p": {**HEAD, "head_state": "copy"}}}, ["policies.p.head_state", "'copy'", "skip, propagate"]),
        ({"policies": {"pruned": {"head_state": "skip"}}}, ["policies.pruned.head_state", "'skip'", "'pruned'"]),
        ({"policies": {"p": {**HEAD, "thresholds": [2]}}}, ["policies.p.thresholds[0]", "2"]),
        ({"policies": {"p": {**HEAD, "drop": [2]}}}, ["policies.p.drop", "[2]", "head"]),
        ({"policies": {"p": {**HEAD, "adapt": "decays"}}}, ["policies.p.adapt", "'decays'", "'decay'"]),
        ({"policies": {"p": {**HEAD, "temperature": 3}}}, ["policies.p.temperature", "3", "adapt 'none'"]),
        ({"policies": {"p": {**HEAD, "adapt": "decay", "temperature": -1}}}, ["policies.p.temperature", "-1"]),
        ({"policies": {"p": {**HEAD, "adapt": "budget", "thresholds": [0.5]}}}, ["policies.p.thresholds", "'budget'"]),
        ({"policies": {"p": {**HEAD, "adapt": "budget", "budgets": [0.0]}}}, ["policies.p.budgets[0]", "0.0"]),
        ({"policies": {"p": {**HEAD, "adapt": "budget", "budgets": [0.9, 0.7]}}}, ["policies.p.budgets", "ascending"]),
        ({"policies": {"p": {**HEAD, "adapt": "budget", "horizon": 0}}}, ["policies.p.horizon", "0"]),
        ({"policies": {"p": {**HEAD, "adapt": "per-exit", "levels": [2]}}}, ["policies.p.levels[0]", "2"]),
        ({"policies": {"p": {"kind": "softmax"}}}, ["policies.p.state_fill", "missing"]),
        ({"policies": {"p": {**RIVAL, "head": "calm"}}}, ["policies.p.head", "'calm'", "kind 'softmax'"]),
        ({"policies": {"p": {**RIVAL, "kind": "entropy"}}}, ["policies.p.kind", "'entropy'"]),
        ({"policies": {"p": {**RIVAL, "kind": "patience", "adapt": "decay"}}}, ["policies.p.adapt", "kind 'patience'"]),
        ({"policies": {"p": {**RIVAL, "kind": "patience", "patience": [0]}}}, ["policies.p.patience[0]", "0"]),
        ({"policies": {"p": {**RIVAL, "kind": "fixed", "thresholds": [1]}}}, ["policies.p.thresholds", "kind 'fixed'"]),
        ({"policies": {"p": {**RIVAL, "datasets": ["squad"]}}}, ["policies.p.datasets[0]", "'squad'", "triviaqa"]),
        ({"policies": {"p": {"kind": "random"}}}, ["policies.p.match", "missing"]),
        ({"policies": {"p": {"kind": "random", "match": "pruned"}}}, ["policies.p.match", "'pruned'", "tokens leave"]),
        ({"policies": {"full": {"datasets": ["coqa"]}}}, ["policies.full.datasets", "kind 'full'"]),
        ({"datasets": {"coqa": {"max_new_tokens": 1024}}}, ["datasets.coqa.max_new_tokens", "no room"]),
        ({"corpus": {"max_tokens": 1025}}, ["corpus.max_tokens", "window of 'tiny-transformer'", "1024 tokens"]),
        ({"group": "rival"}, ["group", "'rival'", "did you mean 'rivals'"]),
        ({"groups": {"all": ["softmax"]}}, ["groups.all"]),
        ({"groups": {"mine": ["sofmax"]}}, ["groups.mine[0]", "'sofmax'", "'softmax'"]),
        ({"groups": {"mine": ["full"]}}, ["groups.mine[0]", "'full'", "always runs"]),
        (
            {"generation": {"repetition_penalty": 1.2}, "policies": {"oracle": None}},
            ["policies.calm-per-exit.adapt", "repetition_penalty"],
        ),
        ({"policies": {"pruned": {"drop": [4, 16]}}}, ["policies.pruned.drop", "16", "tiny-transformer"]),
        ({"policies": {"pruned": {"by": "first"}}}, ["policies.pruned.by", "'first'", "block-influence"]),
        ({"policies": {"p": {"kind": "self-speculative", "exit": 16}}}, ["policies.p.exit", "16", "tiny-transformer"]),
        (
            {"policies": {"p": {"kind": "self-speculative", "draft_tokens": [4, 2]}}},
            ["policies.p.draft_tokens", "[4, 2]", "ascending"],
        ),
        (
            {"backbones": {"tiny-mamba": None}, "policies": {"p": {**HEAD, "state_fill": "skip"}}},
            ["policies.p.state_fill", "'skip'", "no backbone"],
        ),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_line_with_key_and_value(user, parts):
    line = message(**user)
    assert line.startswith(f"config key '{parts[0]}'")
    for part in parts[1:]:
        assert part in line


def test_without_revisions_the_line_says_make_pin(monkeypatch):
    monkeypatch.setattr(module, "REVISIONS", "workflow/presets/no-such-file.yaml")
    others = {"backbones": {"mine": {"source": "me/mine"}}, "corpus": {"source": "me/texts"}}
    with pytest.raises(InputError) as caught:
        load(preset="paper", revisions={}, **others)
    lines = str(caught.value).splitlines()  # all at once
    assert len(lines) == 3 and all("make pin" in line for line in lines)
    assert lines[0].startswith("config key 'backbones.codestral-mamba-7b.revision'")
    assert module.load({"preset": "small"}, ROOT).backbones["smollm2-135m"].revision.startswith("93efa2f0")


def test_sources_that_are_not_here_are_named_all_at_once():
    with pytest.raises(InputError) as caught:
        load(backbones={"m": {"source": "./gone"}}, datasets={"coqa": {"source": "./away"}}, corpus={"source": "~/no"})
    named = [line.split("'")[1] for line in str(caught.value).splitlines()]
    assert named == ["backbones.m.source", "datasets.coqa.source", "corpus.source"]
    gguf = {"source": "workflow/resources/tiny/mamba", "gguf": "no.gguf"}
    with pytest.raises(InputError) as caught:
        load(backbones={"a": gguf, "b": gguf})
    named = [line.split("'")[1] for line in str(caught.value).splitlines()]
    assert named == ["backbones.a.gguf", "backbones.b.gguf"]


def test_make_pin_asks_the_hub_once_for_each_source_and_keeps_what_it_knows(monkeypatch, tmp_path):
    asked = []

    def info(self, source):
        asked.append(source)
        return SimpleNamespace(sha=COMMIT)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", info)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", info)
    monkeypatch.setattr(module, "REVISIONS", str(tmp_path / "revisions.yaml"))
    (tmp_path / "revisions.yaml").write_text(f"me/texts: {'e' * 40}\n")
    (tmp_path / "mine.yaml").write_text("{corpus: {source: me/texts}, backbones: {mine: {source: me/mine}}}")
    monkeypatch.setattr("sys.argv", ["pin_revisions.py", str(tmp_path / "mine.yaml")])
    runpy.run_path(str(ROOT / "workflow/scripts/pin_revisions.py"), run_name="__main__")
    assert asked == ["mistralai/Mamba-Codestral-7B-v0.1", "me/mine"]  # the presets name all others
    pinned = module.load({"preset": "paper", "corpus": {"source": "me/texts"}}, ROOT)
    assert pinned.backbones["codestral-mamba-7b"].revision == COMMIT
    assert pinned.backbones["mistral-7b"].revision == "caa1feb0e54d415e2df31207e5f4e273e33509b1"
    assert pinned.corpus.revision == "e" * 40


def test_what_the_config_allows_is_what_the_package_knows():
    """The config must not import torch, so it names state fills, heads and labels a second time."""

    def choices(model, name):
        return set(get_args(model.model_fields[name].annotation))

    assert {family: tuple(known) for family, known in fills.FILLS.items()} == policies.STATE_FILLS
    kinds = [*members(Experiment.model_fields["heads"].annotation)]
    assert {choice for kind in kinds for choice in choices(kind, "kind") if kind is not FileHead} == set(store.KINDS)
    assert {choice for kind in (Mamba1Mixer, Mamba2Mixer) for choice in choices(kind, "mixer")} == set(mixers.MIXERS)
    assert choices(Distillation, "label") == set(targets.LABELS)
    assert choices(Distillation, "class_balance") == set(targets.CLASS_BALANCES)
    assert choices(policies.TrainedHead, "head_state") == set(passes.HEAD_STATES)
    leaving = {policies.Fixed, policies.Random, *derived(policies.Leaving, "kind")} - {policies.FilePolicy}
    assert all(policy_class(entry).entry is entry for entry in leaving)
    assert choices(policies.Pruned, "by") == set(pruning.BY) == {"last", *policies.Pruned.MEASURES}
    assert choices(policies.Pruned, "prompt") == set(pruning.PROMPTS)


def test_an_integral_float_is_an_integer():
    assert load(batch_size=1.0e3).batch_size == 1000


def test_another_kind_of_the_same_name_starts_afresh():
    """The preset's keys of the other kind are not the user's, and must not be refused as strays."""
    policy = load(policies={"calm-copy": {"kind": "pruned", "drop": [3]}}).policies["calm-copy"]
    assert policy.model_dump() == {"kind": "pruned", "drop": [3], "by": "last", "prompt": "pruned", "datasets": None}


def test_a_key_that_stands_twice_in_a_file_is_refused(tmp_path):
    path = tmp_path / "user.yaml"
    path.write_text("seed: 1\nthresholds: [0.5]\nseed: 2\n")
    with pytest.raises(InputError, match=r"user\.yaml\", line 3: key 'seed' stands twice|line 3: key 'seed'"):
        module.check_files([path])
    path.write_text("seed: 1\n")
    module.check_files([path])


@pytest.mark.parametrize(("path", "text"), [(pages.SCHEMA, pages.schema), (pages.PAGE, pages.page)])
def test_the_pages_of_the_config_are_as_the_classes_say(path, text):
    assert (ROOT / path).read_text(encoding="utf-8") == text(), "stale: run make config-pages"
