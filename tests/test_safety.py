"""What a run must never do: run code that came with a model, unpickle, show a token, write outside results/."""

import ast
import json
import logging
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from test_config import load

from early_exit import backbones, manifests, provenance, redaction, runtime
from early_exit.records import InputError

TINY = ROOT / "workflow/resources/tiny/transformer"
SETTINGS = {"seed": 1, "device": "cpu", "dtype": "float32", "threads": 1}
SOURCES = sorted((ROOT / "workflow/scripts").rglob("*.py"))
TOKEN = "hf_" + "Qx7" * 11  # of a hub's shape, and nobody's
SCRIPT = "<script>alert(1)</script>"


def opened(folder):
    return backbones.open_backbone(manifests.describe("m", {"source": "m"}, folder, str(folder)), SETTINGS)


# --- weights and code ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_module_unpickles_or_trusts_code_from_a_hub(path):
    """`torch.load` reads our own checkpoints alone, and builds nothing but tensors and plain values."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names} | {getattr(node, "module", None)}
            assert not names & {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
        elif isinstance(node, ast.Call):
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert options.get("trust_remote_code", "False") == "False"
            if ast.unparse(node.func).endswith(("read_pickle", "eval", "exec")):
                assert ast.unparse(node.func).endswith(".eval")  # a module's method
            if ast.unparse(node.func) == "torch.load":
                assert options["weights_only"] == "True"
        elif isinstance(node, ast.Dict):
            pairs = {
                ast.unparse(key): ast.unparse(value) for key, value in zip(node.keys, node.values, strict=True) if key
            }
            assert pairs.get("'trust_remote_code'", "False") == "False"


def test_pickled_weights_are_refused_by_name(tmp_path):
    folder = shutil.copytree(TINY, tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors.*pickled weights \(pytorch_model\.bin\) are refused"):
        opened(folder)


def test_pickled_weights_beside_others_are_not_read(tmp_path):
    folder = shutil.copytree(TINY, tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"this would not even load")
    opened(folder)


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    folder, marker = shutil.copytree(TINY, tmp_path / "model"), tmp_path / "was_run"
    code = f"open({str(marker)!r}, 'w').close()\n"
    for name in ("modeling_evil", "configuration_evil", "tokenization_evil"):
        (folder / f"{name}.py").write_text(code)
    for name, classes in (
        ("config.json", {"AutoConfig": "configuration_evil.C", "AutoModelForCausalLM": "modeling_evil.M"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["tokenization_evil.T", None]}),
    ):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": classes}))
    opened(folder)
    assert not marker.exists()


# --- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"401 for hf.example/model with headers {{'authorization': 'Bearer {TOKEN}'}}",
        f"GET https://user:{TOKEN}@example.org/file",
        f"https://example.org/blob?X-Amz-Signature={TOKEN}&x=1",
        f"the value {TOKEN} of HF_TOKEN",
    ],
)
def test_a_token_is_struck_out_of_a_text_wherever_it_came_from(text):
    assert TOKEN not in redaction.redact(text) and redaction.HIDDEN in redaction.redact(text)


def test_a_token_of_any_shape_is_struck_out_if_the_environment_names_it(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "of-another-shape")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-is-no-secret")
    text = redaction.redact("of-another-shape, and false-is-no-secret")
    assert text == f"{redaction.HIDDEN}, and false-is-no-secret"


def test_a_job_that_fails_says_no_token_in_its_log_nor_on_the_terminal(tmp_path):
    code = (
        "import os, sys; from types import SimpleNamespace; from early_exit import runtime\n"
        "with runtime.job(SimpleNamespace(log=[sys.argv[1]], rule='r')) as log:\n"
        "    log.warning('a header: %s', os.environ['HF_TOKEN'])\n"
        "    raise RuntimeError('401: ' + os.environ['HF_TOKEN'])\n"
    )
    environment = {"HF_TOKEN": "not-like-a-token", "PYTHONPATH": str(ROOT / "workflow/scripts")}
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "log"], env=environment, text=True, check=False,
                          capture_output=True)  # fmt: skip
    said = done.stdout + done.stderr + (tmp_path / "log").read_text()
    assert done.returncode == 1 and said.count("401: ") >= 2 and "RuntimeError" in done.stderr
    assert "not-like-a-token" not in said


def test_an_error_of_the_user_s_making_says_none_either(tmp_path, capsys):
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        with pytest.raises(SystemExit) as caught, runtime.job(SimpleNamespace(log=[tmp_path / "log"], rule="fetch")):
            raise InputError(f"refused: {TOKEN}")
    finally:
        logging.root.handlers, logging.root.level, sys.excepthook = handlers, level, sys.__excepthook__
        logging.captureWarnings(False)
    assert str(caught.value) == f"Error in fetch: refused: {redaction.HIDDEN}"
    assert TOKEN not in (tmp_path / "log").read_text() + capsys.readouterr().err


def test_a_config_with_a_token_is_refused_without_showing_it():
    with pytest.raises(InputError) as caught:
        load(token=TOKEN)
    assert "HF_TOKEN" in str(caught.value) and TOKEN not in str(caught.value)


# --- names and text --------------------------------------------------------------------------------------------------

OUTSIDE = ["../up", "a/b", "/etc", "..", ".hidden", "", "a b", "A", SCRIPT]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("section", ["backbones", "datasets", "policies", "recipes", "heads"])
def test_a_name_that_could_leave_results_is_refused(section, name):
    spec = {"recipes": ["calm"], "heads": {"kind": "calm"}, "policies": {"kind": "full"}}.get(section, {"source": "x"})
    with pytest.raises(InputError, match=section):
        load(**{section: {name: spec}})


@pytest.mark.parametrize("name", OUTSIDE)
def test_so_is_an_experiment_s(name):
    with pytest.raises(InputError, match="config key 'name'"):
        load(name=name)


def test_text_from_outside_is_no_markup_on_a_page():
    assert SCRIPT not in provenance._cell(SCRIPT) and "&lt;script&gt;" in provenance._cell(SCRIPT)
