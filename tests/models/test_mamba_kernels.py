"""With Mamba's kernels installed (stand-ins): CPUs do without, GPUs give them what they take, broken ones are said."""

import os
import subprocess
import sys

import pytest

from conftest import ROOT

STAND_INS = ROOT / "tests/stand_ins"
SETUP = """
import torch
from conftest import make_random_model
from early_exit.models import loading, mamba_kernels
"""
ON_CPU = """
for name in ("mamba2", "mamba", "falcon_mamba"):
    model = make_random_model(name)
    backbone, tokens = loading.adapt(model), torch.arange(3, 20)[None]
    assert torch.allclose(backbone.logits(backbone.run_prompt(tokens)[0]), model(tokens).logits, atol=1e-4), name
    model.generate(tokens, max_new_tokens=3, do_sample=False)
    model.train()(tokens)
"""
LAYOUTS = """
import causal_conv1d
from transformers.models.mamba2 import modeling_mamba2
from early_exit.models import recurrent_steps
causal_conv1d.DEVICE = "cpu"
mamba_kernels.on_gpu = lambda tensor: True
for step in (modeling_mamba2.causal_conv1d_fn, recurrent_steps.REPLACED["causal_conv1d_fn"]):
    for width, channels, taps in ((2578, 1536, 4), (2576, 1538, 3), (2576, 1536, 4), (40, 16, 5)):
        torch.manual_seed(0)
        new = torch.randn(2, 7, width)[..., :channels].transpose(1, 2)
        rest = torch.randn(channels, taps), torch.randn(channels)
        expected = recurrent_steps.convolve_sequence(new, *rest, activation="silu")
        assert torch.allclose(step(new, *rest, activation="silu"), expected, atol=1e-5), (width, channels, taps)
fused = modeling_mamba2.mamba2_split_conv1d_scan_combined
given = torch.zeros(8), torch.zeros(8), torch.zeros(8)
assert fused(torch.zeros(1, 4, 2578), torch.zeros(1536, 4), torch.zeros(1536), *given, chunk_size=8) is None
"""
SAID = """
from early_exit.base import kernels
print(kernels.states())
"""


def run(code: str, folder=STAND_INS) -> str:
    """What a Python with the packages of a folder prints."""
    path = os.pathsep.join(map(str, (folder, ROOT / "tests", ROOT / "workflow/scripts")))
    command, environment = [sys.executable, "-c", SETUP + code], os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("code", [ON_CPU, LAYOUTS], ids=["on a CPU", "layouts"])
def test_installed_kernels_get_only_what_they_take(code):
    run(code)


@pytest.mark.slow
def test_a_package_that_cannot_be_imported_is_said(tmp_path):
    (tmp_path / "causal_conv1d.py").write_text("raise ImportError('undefined symbol: _ZN3c10')\n")
    (tmp_path / "mamba_ssm.py").write_text("import of_another_package\n")
    said = run(SAID, tmp_path)
    assert "cannot be imported (ImportError: undefined symbol: _ZN3c10)" in said
    assert "cannot be imported (No module named 'of_another_package')" in said
    assert run(SAID).count("in use on GPUs") == 2
