"""The public face: it costs nothing to import, `docs/python.md` runs, and answers and FLOPs are right."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import packages_distributions

import pytest
import torch

import early_exit
from conftest import ROOT
from early_exit import Check, Ending, InputError, LogitConfidence, generate, load_backbone, load_heads
from early_exit.experiment import code_digest
from early_exit.heads import store

MODELS = ROOT / "workflow/resources/tiny"
EXITS = [8, 10, 12, 14]
PACKAGE = ROOT / "workflow/scripts/early_exit"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGE = (ROOT / "docs/python.md").read_text()
QUESTIONS = [json.loads(line)["question"] for line in (MODELS / "triviaqa/test.jsonl").read_text().splitlines()[:4]]
PROMPTS = [f"Question: {question}\nAnswer:" for question in QUESTIONS]


def save_heads(model, folder):
    """Heads with random weights, saved as rule train_heads does."""
    torch.manual_seed(0)
    designs = {"calm": {"kind": "calm"}, "mamba": {"kind": "mamba", "expand": 2, "head_dim": 32, "n_groups": 2}}
    width = model.backbone.hidden_size
    heads = torch.nn.ModuleDict({name: store.build(design, width, EXITS) for name, design in designs.items()})
    folder.mkdir(parents=True)
    store.save(heads, designs, model.manifest, EXITS, {}, folder)
    return folder


@pytest.fixture(scope="module", params=["transformer", "mamba"])
def model(request):
    return load_backbone(MODELS / request.param)


@pytest.fixture(scope="module")
def recipe(model, tmp_path_factory):
    return save_heads(model, tmp_path_factory.mktemp("recipe") / "paper")


@pytest.mark.slow
def test_importing_it_loads_no_library_and_leaves_the_interpreter_alone():
    code = "import gc, sys; before = gc.get_threshold(); import early_exit; dir(early_exit)\n"
    code += "assert gc.get_threshold() == before and not {'torch', 'pandas', 'numpy'} & sys.modules.keys()\n"
    code += "from early_exit import generate\nassert gc.get_threshold() == before and 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(ROOT / "workflow/scripts")})


def test_a_job_of_snakemake_collects_garbage_less_often():
    code = "snakemake = None\nimport gc\nfrom early_exit.base import job\nassert gc.get_threshold()[0] == 50_000"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(ROOT / "workflow/scripts")})


def test_every_public_name_is_there_and_an_unknown_one_is_named():
    assert set(early_exit.__all__) <= set(dir(early_exit))
    assert all(getattr(early_exit, name).__name__ == name for name in set(early_exit.__all__) - {"Cost"})
    with pytest.raises(AttributeError, match="no attribute 'generat'; it has Answer, "):
        early_exit.generat  # noqa: B018


def test_the_page_names_every_public_name():
    named = set(re.findall(r"`(\w+)", PAGE))
    assert set(early_exit.__all__) <= named


def test_the_page_s_code_runs_and_is_short(tmp_path, monkeypatch, capsys):
    for name in ("workflow", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results/tiny/heads/tiny-transformer/paper"
    save_heads(load_backbone("workflow/resources/tiny/transformer"), folder)
    blocks = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
    assert len([line for line in blocks[0].splitlines() if line]) <= 10
    names = {}
    for block in blocks:
        exec(block, names)
    assert capsys.readouterr().out.count("% of the decode FLOPs saved") == 2
    assert {n for answer in names["full"] for n in answer.exit_blocks} == {16}
    assert names["confidence"].shape == (1, 3)
    assert {n for answer in names["by_entropy"] for n in answer.exit_blocks} <= {8, 10, 12, 16}
    assert any(answer.flops < answer.flops_full for answer in names["by_entropy"])


def test_without_heads_the_answers_are_the_library_s(model):
    answers = generate(model, PROMPTS, ending=Ending(max_new_tokens=6))
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
        theirs = model.backbone.model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
        expected = theirs[0, ids.shape[1] :].tolist()
        assert answer.token_ids == expected[: len(answer.token_ids)] and len(answer.token_ids) in (6, len(expected))
        assert answer.flops == answer.flops_full and set(answer.exit_blocks) == {16}


@pytest.mark.parametrize("name", ["calm", "mamba"])
def test_with_heads_tokens_leave_and_checks_and_fill_are_paid(model, recipe, name):
    heads = load_heads(recipe, name, model)
    ending = Ending(max_new_tokens=8, stop_strings=["\n"])
    every = generate(model, PROMPTS, heads, threshold=0.0, state_fill="propagate", ending=ending)
    assert {n for answer in every for n in answer.exit_blocks[1:]} == {8}
    free = {"transformer": "copy", "mamba": "skip"}[model.backbone.family]
    cheap = generate(model, PROMPTS[:1], heads, threshold=0.0, state_fill=free, ending=Ending(max_new_tokens=2))[0]
    dear = generate(model, PROMPTS[:1], heads, threshold=0.0, ending=Ending(max_new_tokens=2))[0]
    assert cheap.flops < dear.flops < dear.flops_full
    never = generate(model, PROMPTS, heads, threshold=1.0, ending=ending)
    assert [a.token_ids for a in never] == [a.token_ids for a in generate(model, PROMPTS, ending=ending)]
    checks = sum(len(answer.token_ids) - 1 for answer in never) * len(EXITS) * sum(heads.cost.values())
    assert sum(answer.flops - answer.flops_full for answer in never) == checks


def test_a_check_of_one_s_own_is_paid_and_its_logits_are_not_paid_twice(model):
    class Sure(LogitConfidence):
        def of(self, exit_block, logits):
            return torch.full(logits.shape[:1], float(exit_block == 10))

        @classmethod
        def check(cls, hidden, lm_head):
            return Check(lm_head, gives_logits=True)

    free = {"transformer": "copy", "mamba": "skip"}[model.backbone.family]
    policy, ending = Sure([8, 10], model.backbone.logits), Ending(max_new_tokens=4)
    for answer in generate(model, PROMPTS, policy, threshold=0.5, state_fill=free, ending=ending):
        passes = len(answer.token_ids) - 1
        assert answer.exit_blocks[1:] == [10] * passes
        lm_head = 2 * model.backbone.hidden_size * model.backbone.vocabulary
        blocks = answer.flops_full - passes * lm_head
        assert answer.flops == pytest.approx(blocks * 10 / 16 + passes * 2 * lm_head)
    del Sure.check
    with pytest.raises(InputError, match=r"^Sure has no `check`, which says what one costs"):
        generate(model, PROMPTS, policy, threshold=0.5, ending=ending)


def test_answers_stop_at_stop_strings_and_come_in_the_order_of_the_prompts(model):
    ending = Ending(max_new_tokens=16, stop_strings=["\n"])
    together = generate(model, PROMPTS, ending=ending)
    assert [a.text for a in together] == [generate(model, [prompt], ending=ending)[0].text for prompt in PROMPTS]
    assert all("\n" not in answer.text for answer in together)


def test_mistakes_are_one_line(model, recipe, tmp_path):
    heads = load_heads(recipe, "calm", model)
    with pytest.raises(InputError, match=r"^state_fill: skipp is not one of this \w+'s: \w+, propagate, deferred$"):
        generate(model, PROMPTS, heads, state_fill="skipp")
    with pytest.raises(InputError, match="has no head 'cal', only calm, mamba"):
        load_heads(recipe, "cal", model)
    with pytest.raises(InputError, match=r"config\.json: missing"):
        load_backbone(tmp_path)
    if model.backbone.context:
        with pytest.raises(InputError, match=r"^prompts\[0\]: \d+ tokens and 9999 new ones are more than the \d+ "):
            generate(model, PROMPTS, ending=Ending(max_new_tokens=9999))


def test_a_wheel_has_every_file_of_the_package():
    setuptools = PYPROJECT["tool"]["setuptools"]
    assert setuptools["package-dir"] == {"": "workflow/scripts"}
    assert setuptools["packages"]["find"] == {"where": ["workflow/scripts"], "include": ["early_exit*"]}
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert all((path.parent / "__init__.py").is_file() for path in files if path.suffix == ".py")
    data = [path.relative_to(PACKAGE).as_posix() for path in files if path.suffix != ".py"]
    declared = setuptools["package-data"]["early_exit"]
    assert not [path for path in data if not any(fnmatch(path, pattern) for pattern in declared)]


def test_a_wheel_asks_for_what_the_face_imports_in_the_versions_that_are_pinned():
    asked = dict(line.split(">=") for line in PYPROJECT["project"]["dependencies"])
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    assert asked.items() <= pinned.items()
    files = [path for name in code_digest.modules(PACKAGE / "api.py") if (path := path_of(name))]
    trees = [ast.parse(file.read_text()) for file in [PACKAGE / "api.py", *files]]
    always = imported(statement for tree in trees for statement in tree.body)
    anywhere = imported(node for tree in trees for node in ast.walk(tree))
    assert always <= asked.keys() <= anywhere  # some functions import what they alone need


def imported(nodes):
    """Distributions of others that statements import."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
    distributions = packages_distributions()
    return {name for package in found - sys.stdlib_module_names - {"early_exit"} for name in distributions[package]}


def path_of(name):
    path = ROOT.joinpath("workflow/scripts", *name.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)
