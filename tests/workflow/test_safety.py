"""What a run must never do: run code that came with a model, unpickle, show a token, write outside results/."""

import ast
import json
import logging
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import transformers
from safetensors.torch import load_file

from configs import load
from conftest import ROOT
from early_exit.base import job as runtime
from early_exit.base import redaction
from early_exit.base.errors import InputError
from early_exit.evaluation.scoring import score_run
from early_exit.models import loading
from early_exit.report import pages
from early_exit.sources import manifests
from scored_answers import answer, examples

TINY = ROOT / "workflow/resources/tiny/transformer"
SETTINGS = {"seed": 1, "device": "cpu", "dtype": "float32", "threads": 1}
SOURCES = sorted((ROOT / "workflow/scripts").rglob("*.py"))
TOKEN = "hf_" + "Qx7" * 11  # of a hub's shape, and nobody's
SCRIPT = "<script>alert(1)</script>"


def opened(folder):
    return loading.open_backbone(manifests.describe("m", {"source": "m"}, folder, str(folder)), SETTINGS)


# --- weights and code ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_module_unpickles_or_trusts_code_from_a_hub(path):
    """`torch.load` reads our own checkpoints alone, and builds nothing but tensors and plain values.

    Whatever is loaded from a folder says that code is not trusted, itself or by the options of `loading._location`.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names} | {getattr(node, "module", None)}
            assert not names & {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
            assert "load" not in names or node.module not in ("torch", "yaml", "numpy")
        elif isinstance(node, ast.Call):
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert options.get("trust_remote_code", "False") == "False"
            if ast.unparse(node.func).endswith(("read_pickle", "eval", "exec")):
                assert ast.unparse(node.func).endswith(".eval")  # a module's method
            assert options.get("allow_pickle", options.get("shell", "False")) == "False"
            assert ast.unparse(node.func) not in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system")
            if ast.unparse(node.func) == "torch.load":
                assert options["weights_only"] == "True"
            if ast.unparse(node.func).endswith("from_pretrained"):
                assert "trust_remote_code" in options or "**options" in ast.unparse(node)
        elif isinstance(node, ast.Dict):
            pairs = {
                ast.unparse(key): ast.unparse(value) for key, value in zip(node.keys, node.values, strict=True) if key
            }
            assert pairs.get("'trust_remote_code'", "False") == "False"


def test_a_model_is_loaded_from_safetensors_without_trust_in_code(monkeypatch):
    said, real = [], transformers.PreTrainedModel.from_pretrained.__func__

    def load_and_tell(cls, *places, **options):
        said.append(options)
        return real(cls, *places, **options)

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", classmethod(load_and_tell))
    opened(TINY)
    assert [(one["use_safetensors"], one["trust_remote_code"], one["local_files_only"]) for one in said] == [
        (True, False, True)
    ]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "pytorch_model-00001-of-00002.bin"])
def test_pickled_weights_are_refused_by_name(name, tmp_path):
    """Repositories of the hub are in test_formats."""
    folder = shutil.copytree(TINY, tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / name)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=rf"no model\.safetensors.*pickled weights \({name}\) are refused"):
        opened(folder)
    (folder / name).rename(folder / "model.safetensors")
    with pytest.raises(InputError, match=r"model/model\.safetensors: cut short or damaged"):
        opened(folder)


def test_pickled_weights_beside_others_are_not_read(tmp_path):
    folder = shutil.copytree(TINY, tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"this would not even load")
    opened(folder)


@pytest.fixture
def armed(tmp_path):
    """A folder whose model, config and tokenizer name code of its own, and the mark that such code would leave."""
    folder, mark = shutil.copytree(TINY, tmp_path / "model"), tmp_path / "was_run"
    for name in ("modeling_evil", "configuration_evil", "tokenization_evil"):
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    change(folder / "config.json", auto_map={"AutoConfig": "configuration_evil.C",
                                             "AutoModelForCausalLM": "modeling_evil.M"})  # fmt: skip
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.T"] * 2})
    return folder, mark


def change(path, **values):
    kept = {key: value for key, value in (json.loads(path.read_text()) | values).items() if value is not None}
    path.write_text(json.dumps(kept))


@pytest.mark.parametrize("changed", [{}, {"model_type": "evil", "architectures": ["MistralForCausalLM"]}])
def test_code_that_comes_with_a_model_is_passed_over_where_the_library_has_its_own(changed, armed):
    folder, mark = armed
    change(folder / "config.json", **changed)
    change(folder / "tokenizer_config.json", tokenizer_class="EvilTokenizer")
    opened(folder)
    assert not mark.exists()


@pytest.mark.parametrize("architectures", [None, ["EvilForCausalLM"]])
def test_a_model_that_needs_code_of_its_own_is_refused_in_one_line(architectures, armed):
    """And not with the library's advice to trust it."""
    folder, mark = armed
    change(folder / "config.json", model_type="evil", architectures=architectures)
    with pytest.raises(InputError, match=r"needs code that comes with it, which is never run$|is unknown to the inst"):
        opened(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_file_with_other_bytes_than_recorded_is_named_at_every_opening(name, tmp_path):
    """A change of one bit. Downloads, and files that are missing or cut short, are in test_formats."""
    folder = shutil.copytree(TINY, tmp_path / "model")
    manifest = manifests.describe("m", {"source": "m"}, folder, str(folder))
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"model/{name}: not the bytes that fetch_backbone recorded \(sha256\)"):
        loading.open_backbone(manifest, SETTINGS)
    if name != "model.safetensors":
        with pytest.raises(InputError, match=rf"model/{name}: not the bytes"):
            loading.load_tokenizer(manifest)


# --- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"401 for hf.example/model with headers {{'authorization': 'Bearer {TOKEN}'}}",
        f"GET https://user:{TOKEN}@example.org/file",
        f"GET https://{TOKEN[3:]}@example.org/file",
        f'"Authorization": "Basic {TOKEN[3:]}"',
        f"https://example.org/blob?X-Amz-Signature={TOKEN}&x=1",
        f"the value {TOKEN} of HF_TOKEN",
    ],
)
def test_a_token_is_struck_out_of_a_text_wherever_it_came_from(text):
    assert TOKEN[3:] not in redaction.redact(text) and redaction.HIDDEN in redaction.redact(text)


def test_a_token_of_any_shape_is_struck_out_if_the_environment_names_it(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "of-another-shape")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-is-no-secret")
    text = redaction.redact("of-another-shape, and false-is-no-secret")
    assert text == f"{redaction.HIDDEN}, and false-is-no-secret"


def test_a_job_that_fails_says_no_token_in_its_log_nor_on_the_terminal(tmp_path):
    code = (
        "import os, sys; from types import SimpleNamespace; from early_exit.base import job\n"
        "with job.logged(SimpleNamespace(log=[sys.argv[1]], output=[], rule='r')) as log:\n"
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
    job = SimpleNamespace(log=[tmp_path / "log"], output=[], rule="fetch")
    try:
        with pytest.raises(SystemExit) as caught, runtime.logged(job):
            raise InputError(f"refused: {TOKEN}")
    finally:
        logging.root.handlers, logging.root.level, sys.excepthook = handlers, level, sys.__excepthook__
        logging.captureWarnings(False)
        logging.raiseExceptions = True
    assert str(caught.value) == f"Error in fetch: refused: {redaction.HIDDEN}"
    assert TOKEN not in (tmp_path / "log").read_text() + capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "user"),
    [
        ("token", {"token": "of-another-shape"}),
        ("backbones.x.source", {"backbones": {"x": {"source": f"https://user:{TOKEN[3:]}@example.org/x"}}}),
        ("backbones.x.source", {"backbones": {"x": {"source": f"owner/{TOKEN}"}}}),
        ("datasets.coqa.name", {"datasets": {"coqa": {"name": TOKEN}}}),
        ("heads.x.key", {"heads": {"x": {"kind": "mine.py:Head", "key": TOKEN}}}),
        ("heads.x.api_key", {"heads": {"x": {"kind": "mine.py:Head", "api_key": "of-another-shape"}}}),
        ("thresholds[1]", {"thresholds": [0.5, TOKEN]}),
        (redaction.HIDDEN, {TOKEN: 1}),
        (f"backbones.{redaction.HIDDEN}", {"backbones": {TOKEN: {"source": "x"}}}),
    ],
)  # fmt: skip
def test_a_token_in_a_config_is_refused_by_its_key_and_not_shown(key, user):
    with pytest.raises(InputError) as caught:
        load(**user)
    said = str(caught.value)
    assert said == f"config key '{key}': '{redaction.HIDDEN}' belongs in no config, which the report shows; set " \
                   "HF_TOKEN in the environment instead"  # fmt: skip


def test_a_token_of_the_environment_is_refused_in_a_config_too(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "of-another-shape")
    with pytest.raises(InputError, match=r"'corpus\.name': '\[hidden\]' belongs in no config"):
        load(corpus={"name": "of-another-shape"})


# --- names and text --------------------------------------------------------------------------------------------------

OUTSIDE = ["../up", "a/b", "/etc", "..", ".hidden", "", "a b", "A", "a\n", SCRIPT]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("section", ["backbones", "datasets", "policies", "recipes", "heads", "groups"])
def test_a_name_that_could_leave_results_is_refused(section, name):
    specs = {"recipes": ["calm"], "groups": ["full"], "heads": {"kind": "calm"}, "policies": {"kind": "full"}}
    spec = specs.get(section, {"source": "x"})
    with pytest.raises(InputError, match=f"config key '{section}"):
        load(**{section: {name: spec}})


@pytest.mark.parametrize("name", OUTSIDE)
def test_so_is_an_experiment_s(name):
    with pytest.raises(InputError, match="config key 'name'"):
        load(name=name)


@pytest.mark.parametrize("name", ["../tiny", "/etc/tiny", "tiny\n"])
def test_a_preset_is_one_of_those_there_are(name):
    with pytest.raises(InputError, match=r"config key 'preset'.*is unknown"):
        load(preset=name)


def test_an_answer_ends_at_its_scores():
    """What a model says is in no score, and so in no table, figure or page; test_smoke looks for it in a whole run."""
    run = pd.DataFrame([answer("x", SCRIPT, [1, 2])])
    scores = score_run(run, run, examples("x", references=[SCRIPT]), kind="triviaqa")
    assert scores["em"].tolist() == [100]
    assert not [text for text in scores.to_csv().split(",") if "script" in text.lower()]


def test_text_from_outside_is_no_markup_on_a_page():
    """Whole pages are in test_provenance and test_claims."""
    cell = pages.TEMPLATES.get_template("tables.html").module.cell(SCRIPT)
    assert SCRIPT not in cell and "&lt;script&gt;" in cell
