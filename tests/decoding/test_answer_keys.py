"""A key changes with all that an answer depends on, and with nothing else."""

import copy

import pytest
import torch

from early_exit.base import records
from early_exit.experiment import code_digest
from early_exit.experiment.config.policies import parse
from early_exit.heads import store
from early_exit.policies import plan
from pruned_answers import PRUNED, job

CALM = {"kind": "head", "recipe": "paper", "head": "calm", "state_fill": "propagate", "head_state": "skip",
        "adapt": "none", "thresholds": [0.5, 0.9], "datasets": None}  # fmt: skip
POLICIES = {"full": {"kind": "full"}, "calm": CALM, "pruned": PRUNED}


def write_heads(folder, manifest, seed=3, heads=("calm", "ffn")):
    """A trained recipe in a folder; a head's weights follow from the seed and its name."""
    configs, made = {name: {"kind": name} for name in heads}, {}
    for name in heads:
        torch.manual_seed(seed + len(name))
        made[name] = store.build(configs[name], manifest["config"]["hidden_size"], [8, 12], name)
    store.save(torch.nn.ModuleDict(made), configs, manifest, [8, 12], {}, folder)


@pytest.fixture
def keys(tmp_path):
    """The keys of a job, after `edit` has changed it: by policy and setting."""

    def call(edit=lambda this: None, policies=POLICIES, heads=("calm", "ffn"), seed=3):
        this = job(tmp_path, "gold", policies=copy.deepcopy(policies))
        manifest = records.read_json(tmp_path / "tiny.json")
        write_heads(tmp_path / "heads/paper", manifest, seed, heads)
        this.files.heads = [tmp_path / "heads/paper/heads.safetensors"]
        edit(this)
        return this.keys()

    return call


def test_each_policy_and_setting_has_a_key_of_its_own_and_the_same_each_time(keys):
    first = keys()
    assert set(first) == {("full", 1.0), ("calm", 0.5), ("calm", 0.9), ("pruned", 2.0), ("pruned", 6.0)}
    assert len(set(first.values())) == 5 and keys() == first


def test_names_grids_datasets_and_other_heads_do_not_count(keys):
    first = keys()
    renamed = {"full": POLICIES["full"], "mine": CALM | {"thresholds": [0.9, 0.95], "datasets": ["coqa"]}, "p": PRUNED}
    again = keys(policies=renamed, heads=("calm", "ffn-slim", "ffn"))
    assert again["mine", 0.9] == first["calm", 0.9] and again["p", 6.0] == first["pruned", 6.0]
    assert again["mine", 0.95] not in first.values()


def changed(**params):
    """An edit of a job's params: `runtime` and `rules` by key."""

    def edit(this):
        for name, value in params.items():
            old = getattr(this.params, name)
            setattr(this.params, name, {**old, **value} if isinstance(value, dict) else value)

    return edit


ALL, LEAVING = {"full", "calm", "pruned"}, {"calm"}


@pytest.mark.parametrize(
    ("edit", "policies"),
    [
        (changed(max_new_tokens=9), ALL),
        (changed(runtime={"dtype": "bfloat16"}), ALL),
        (changed(runtime={"threads": 2}), ALL),
        (changed(rules={"repetition_penalty": 1.2}), ALL),
        (changed(rules={"prompt_overflow": "cut-left"}), ALL),
        (changed(exits=[8, 10]), LEAVING),
        (changed(runtime={"batch_size": 7, "memory": 99, "seed": 2}), set()),
        (changed(rules={"degeneration": {"ngram": 1, "repeats": 2}}), set()),
    ],
)
def test_params_count_where_answers_depend_on_them(keys, edit, policies):
    first, again = keys(), keys(edit)
    assert {name for name, setting in first if first[name, setting] != again[name, setting]} == policies


def test_weights_count_for_the_policies_of_their_head(keys):
    first, again = keys(), keys(seed=4)
    assert {name for name, setting in first if first[name, setting] != again[name, setting]} == {"calm"}


def test_the_state_fill_counts(keys):
    first, again = keys(), keys(policies=POLICIES | {"calm": CALM | {"state_fill": "copy"}})
    assert first["calm", 0.5] != again["calm", 0.5]


def test_the_engine_s_code_counts(keys, monkeypatch):
    first = keys()
    monkeypatch.setattr(code_digest, "digest", lambda script: f"other code than {script.name}")
    assert not set(first.values()) & set(keys().values())


def test_of_a_plan_only_what_decides_at_the_setting_counts():
    whole = {
        "curve": [{"threshold": 0.5, "share": 0.7}],
        "aims": [{"budget": 0.8, "aim": 0.81, "share": 0.8}, {"budget": 0.9, "aim": 0.92, "share": 0.9}],
        "settings": [{"setting": 0.9, "thresholds": [0.1, 0.2], "share": 0.9}],
    }
    fewer = {**whole, "aims": whole["aims"][:1], "settings": [whole["settings"][0] | {"share": 0.7}]}
    assert plan.part_of_plan(whole, 0.8) == plan.part_of_plan(fewer, 0.8)
    assert plan.part_of_plan(whole, 0.9)["thresholds"] == [[0.1, 0.2]]
    assert plan.part_of_plan(whole, 0.8) != plan.part_of_plan({**whole, "curve": []}, 0.8)
    assert plan.part_of_plan(None, 0.8) == {}


def test_a_policy_at_a_setting_is_all_of_it_but_its_grid():
    at = parse(CALM).at(0.9)
    assert at["setting"] == 0.9 and at["head"] == "calm" and "thresholds" not in at and "datasets" not in at
    assert parse(PRUNED).at(2) == {"kind": "pruned", "by": "last", "prompt": "pruned", "setting": 2.0}
