"""Environments: pip and conda name the same versions, each pin imports, and no rule lacks what its script imports.

Conda is played by a script here: what is tested is what it is asked for, not what it would solve.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from early_exit.experiment import code_digest

SCRIPTS = ROOT / "workflow/scripts"
ENVS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "envs").glob("*.yaml"))}
OWNERS = metadata.packages_distributions()  # {module: distributions}
KERNELS = {"causal-conv1d", "mamba-ssm"}
BY_CONDA_ALONE = {"python"}
PYTORCH = {"pytorch": "torch", "pytorch-gpu": "torch"}  # conda's names of it
RULE = r"^( *)((?:use )?rule .*):\n((?:\1    .*\n|\n)*)"  # indented where a condition is above it
CONDA = """#!/bin/sh
echo "$@" >> {log}
case "$1 $2" in
  "info --json") echo '{{"conda_prefix": "{prefix}", "platform": "linux-64"}}' ;;
  "--version ") echo "conda 26.1.0" ;;
  "config --get") echo '{{"get": {{"channel_priority": "strict"}}}}' ;;
  "list --explicit") echo "@EXPLICIT" ;;
  "env create") [ "$CONDA_CHANNEL_PRIORITY$CONDA_SUBDIR" = strictlinux-64 ] || exit 1 ;;
  "create "* | "clean "*) ;;
  *) exit 1 ;;
esac
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(*names: str) -> dict[str, str]:
    """{package: version} of requirements files; every line of them is a pin, a hash, a comment or another file."""
    found = {}
    for name in names:
        for line in (ROOT / f"{name}.txt").read_text().splitlines():
            pin = re.fullmatch(r"([\w.-]+)==([\w.]+)( \\)?", line)
            assert pin or re.fullmatch(r"#.*|-r [\w.-]+|    --hash=sha256:[0-9a-f]{64}( \\)?|", line), line
            found |= {normal(pin[1]): pin[2]} if pin else {}
    return found


PINS = pins("requirements", "requirements-dev", "requirements-gpu")
INSTALLED = pins("requirements", "requirements-dev")


def conda_pins(env: str) -> dict[str, str]:
    return dict(spec.split(" ==") for spec in ENVS[env]["dependencies"])


def test_hashes_are_of_the_versions_that_are_named():
    """All but torch's, whose build differs between machines."""
    assert pins("requirements-lock") == {name: version for name, version in INSTALLED.items() if name != "torch"}
    for name in ("requirements-lock", "requirements-gpu"):
        after = re.split(r"^\S+==\S+ \\\n", (ROOT / f"{name}.txt").read_text(), flags=re.MULTILINE)[1:]
        assert all(block.startswith("    --hash=") for block in after)


@pytest.mark.parametrize("env", ENVS)
def test_conda_s_versions_are_exact_and_those_of_pip(env):
    """No `pip:` section: a pin file of conda would leave it out."""
    assert ENVS[env].keys() == {"channels", "dependencies"}
    assert [name for name in ENVS[env]["channels"] if name != "bioconda"] == ["conda-forge", "nodefaults"]
    for spec in ENVS[env]["dependencies"]:
        assert re.fullmatch(r"[a-z0-9][a-z0-9_-]* ==[0-9][0-9a-z.]*", spec), spec
    assert conda_pins(env)["python"] == "3.11.14"
    shared = {name: version for name, version in conda_pins(env).items() if name not in BY_CONDA_ALONE}
    assert shared == {name: PINS[PYTORCH.get(name, normal(name))] for name in shared}


def test_the_gpu_s_environment_is_the_model_s_with_cuda_and_the_kernels_are_optional():
    model, gpu = conda_pins("model"), conda_pins("gpu")
    assert gpu.pop("pytorch-gpu") == model.pop("pytorch")
    assert gpu == model and pins("requirements-gpu").keys() == KERNELS


def test_what_is_pinned_is_installed_and_keeps_to_what_the_packages_ask_of_each_other():
    installed = {name: metadata.version(name).partition("+")[0] for name in INSTALLED}  # torch's build is 2.13.0+cpu
    assert installed == INSTALLED
    done = subprocess.run([sys.executable, "-m", "pip", "check"], text=True, capture_output=True)
    broken = [line for line in done.stdout.splitlines() if normal(line.split()[0]) in INSTALLED]
    assert not broken


def test_what_is_pinned_imports():
    modules = {}
    for module, names in OWNERS.items():
        for name in names:
            modules.setdefault(normal(name), []).append(module)
    wanted = []
    for name in INSTALLED:
        public = [module for module in modules.get(name, []) if module.isidentifier() and module[0] != "_"]
        own = name.replace("-", "_")
        wanted += [own] if own in public else public
    code = f"import importlib\nfor name in {sorted(set(wanted))}:\n    importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert len(wanted) > 0.9 * len(INSTALLED)  # a few hold a program and no module


def jobs() -> dict[str, tuple[str, tuple[str, ...]]]:
    """{rule: (its script or "", its environments)}; a rule made from another has what it does not change."""
    found = {}
    for path in sorted((ROOT / "workflow/rules").glob("*.smk"), key=lambda path: "use rule" in path.read_text()):
        for _, head, body in re.findall(RULE, path.read_text(), re.MULTILINE):
            rule = re.search(r"(\w+)(?: with)?$", head)[1]
            base = found.get(re.search(r"\w+", head.removeprefix("use").removeprefix(" rule"))[0], ("", ()))
            script = re.search(r'"\.\./scripts/(\w+)\.py"', body)
            env = re.search(r'^ +conda:\n +(?:"\.\./\.\./envs/(\w+)\.yaml"|(MODEL_ENV))$', body, re.MULTILINE)
            envs = ("model", "gpu") if env and env[2] else (env[1],) if env else base[1]
            if script or base[0] or re.search(r"^ +shell:$", body, re.MULTILINE):
                found[rule] = (script[1] if script else base[0], envs)
    return found


JOBS = jobs()


def test_every_rule_that_runs_something_has_an_environment():
    text = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    named = set(re.findall(r"^ *(?:use rule \w+ as|rule) (\w+)", text, re.MULTILINE))
    assert "answer_matched" in JOBS and named - JOBS.keys() == {"fetch", "answers"}  # they have inputs alone
    assert all(envs and set(envs) <= ENVS.keys() for _, envs in JOBS.values())
    assert {env for _, envs in JOBS.values() for env in envs} == ENVS.keys()


def test_the_page_on_installing_has_every_environment():
    page = (ROOT / "docs/install.md").read_text()
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == sorted(ENVS)


@cache
def parts(path: Path) -> list[tuple[str | None, set[str], set[str]]]:
    """Each statement at the top of a file: the function or class it makes, what it mentions, packages it imports."""
    found = []
    for top in ast.parse(path.read_text()).body:
        words, packages = set(), set()
        for node in [] if isinstance(top, ast.If) and "TYPE_CHECKING" in ast.unparse(top.test) else ast.walk(top):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                packages |= {module.partition(".")[0] for module in modules}
            words |= {str(getattr(node, field)) for field in ("id", "attr", "name", "value") if hasattr(node, field)}
        is_called = isinstance(top, ast.FunctionDef | ast.ClassDef)
        found.append((top.name if is_called else None, words, packages))
    return found


def imported(words: set[str], files: list[Path]) -> set[str]:
    """Distributions that code imports which mentions `words`, and whatever the files define under a mentioned name.

    An import within a function counts only if something reached mentions the function: a job that never asks for a
    device does without torch.
    """
    waiting = [part for file in files for part in parts(file)]
    words, packages = set(words), set()
    while reached := [part for part in waiting if part[0] is None or part[0] in words]:
        waiting = [part for part in waiting if part not in reached]
        words = words.union(*(part[1] for part in reached))
        packages = packages.union(*(part[2] for part in reached))
    outside = packages - set(sys.stdlib_module_names) - set(code_digest.PACKAGES)
    return {normal(OWNERS[package][0]) for package in outside}


def modules_of(script: Path) -> list[Path]:
    return [path for name in code_digest.modules(script) if (path := code_digest._path(name))]


@pytest.mark.parametrize("rule", [rule for rule, (script, _) in JOBS.items() if script])
def test_a_rule_s_environment_has_what_its_script_imports(rule):
    script, envs = JOBS[rule]
    wanted = imported(set(), [SCRIPTS / f"{script}.py", *modules_of(SCRIPTS / f"{script}.py")])
    for env in envs:
        assert not wanted - {PYTORCH.get(name, normal(name)) for name in conda_pins(env)}, env


def test_gguf_files_tokenizers_and_tables_find_what_libraries_import_for_them():
    """transformers asks for these when it reads such a file; pandas for pyarrow, with Parquet."""
    for env in ("model", "gpu"):
        assert {"accelerate", "gguf", "sentencepiece"} <= conda_pins(env).keys()
    assert all("pyarrow" in conda_pins(env) for env in ENVS)


def test_who_calls_snakemake_has_what_the_rules_import(tmp_path):
    """The rules are read there, also for the report; its Python is that of the scripts, which read its pickles."""
    text = "".join(path.read_text() for path in [ROOT / "Snakefile", *(ROOT / "workflow/rules").rglob("*.smk")])
    script = tmp_path / "rules.py"
    script.write_text("\n".join(re.findall(r"^from early_exit.*", text, re.MULTILINE)))
    wanted = imported(set(re.findall(r"\w+", text)), [script, *modules_of(script)])
    assert wanted | {"snakemake", "pygments"} <= {normal(name) for name in conda_pins("snakemake")}
    assert JOBS["report"] == ("report", ("snakemake",))


def test_a_package_counts_where_the_function_that_imports_it_is_mentioned(tmp_path):
    module, script = tmp_path / "module.py", tmp_path / "script.py"
    module.write_text("import yaml\ndef late():\n    import torch\ndef never():\n    import datasets\n")
    script.write_text("from early_exit import module\nmodule.late()\n")
    assert imported(set(), [script, module]) == {"pyyaml", "torch"}


@pytest.fixture
def copy(tmp_path):
    """The pipeline without its models, and a conda that notes what it is asked for and makes nothing."""
    for name in ("Makefile", "Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("workflow", "report", "envs", "profiles"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.pin.txt"))
    conda = tmp_path / "bin/conda"
    conda.parent.mkdir()
    conda.write_text(CONDA.format(log=tmp_path / "asked.txt", prefix=tmp_path))
    conda.chmod(0o755)
    return tmp_path


def asked(copy: Path) -> list[str]:
    """What conda was asked to make since the last call."""
    log = copy / "asked.txt"
    lines = [line for line in log.read_text().splitlines() if "create" in line]
    log.write_text("")
    return lines


def test_one_command_freezes_all_environments_and_snakemake_then_makes_those(copy, monkeypatch):
    monkeypatch.setenv("PATH", f"{copy / 'bin'}{os.pathsep}{os.environ['PATH']}")
    subprocess.run(["make", "freeze"], cwd=copy, check=True, capture_output=True)
    assert {re.search(r"--file envs/(\w+)\.yaml$", line)[1] for line in asked(copy)} == ENVS.keys()
    assert {path.name for path in (copy / "envs").glob("*.txt")} == {f"{env}.linux-64.pin.txt" for env in ENVS}
    subprocess.run(["make", "freeze"], cwd=copy, check=True, capture_output=True)
    assert not asked(copy)

    command = [sys.executable, "-m", "snakemake", "--sdm", "conda", "--conda-create-envs-only", "--cores", "1"]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    made = asked(copy)
    assert len(made) == len(ENVS) - 1  # the preset runs on CPUs
    assert all(re.match(r"create .*--file \S+\.pin\.txt", line) for line in made)


def test_a_solve_that_fails_leaves_no_pin_file(copy):
    done = subprocess.run(["make", "freeze", "CONDA=false"], cwd=copy, capture_output=True)
    assert done.returncode != 0 and not list((copy / "envs").glob("*.txt"))


def test_make_hides_the_packages_of_the_caller_s_shell():
    shell = {"PATH": os.environ["PATH"], "PYTHONPATH": "/elsewhere", "PIP_USER": "1", "PIP_TARGET": "/there"}
    command = ["make", "--silent", "--eval=show: ; @env", "show"]
    said = subprocess.run(command, cwd=ROOT, env=shell, text=True, capture_output=True, check=True).stdout
    assert "PYTHONNOUSERSITE=1" in said and not {"PYTHONPATH", "PIP_USER", "PIP_TARGET"} & {
        line.partition("=")[0] for line in said.splitlines()
    }
