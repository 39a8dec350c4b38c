"""Shared fixtures: small random models of every supported family, float64 that stays, and where things lie."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import (
    FalconMambaConfig,
    FalconMambaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
CASE = pytest.StashKey[int]()  # which case of its test an item is, from 1

COMMON = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 6, "bos_token_id": 1, "eos_token_id": 2,
          "pad_token_id": 0, "initializer_range": 0.3}  # fmt: skip
ATTENTION = COMMON | {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
                      "max_position_embeddings": 128}  # fmt: skip
RANDOM_MODELS = {
    "mistral": lambda: MistralForCausalLM(MistralConfig(**ATTENTION, sliding_window=None)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**ATTENTION)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**ATTENTION)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**ATTENTION | {"head_dim": 16})),
    "mamba": lambda: MambaForCausalLM(MambaConfig(**COMMON, state_size=4, time_step_rank=3, residual_in_fp32=False)),
    "falcon_mamba": lambda: FalconMambaForCausalLM(
        FalconMambaConfig(**COMMON, state_size=4, time_step_rank=3, mixer_rms_eps=1e-3)
    ),
    "mamba2": lambda: Mamba2ForCausalLM(
        Mamba2Config(**COMMON, expand=2, head_dim=8, num_heads=8, state_size=8, n_groups=2, chunk_size=8)
    ),
}  # fmt: skip
# One family for each kind of cache: keys and values, Mamba-1's states, Mamba-2's. The others differ within a block.
ONE_OF_EACH = ("qwen3", "mamba", "mamba2")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def make_random_model(name: str, dtype: torch.dtype = torch.float32):
    """A random-weight causal LM whose greedy text is not constant.

    Norm weights, biases, D and the like start out equal in every block; a mix-up of blocks would not show.
    """
    torch.manual_seed(0)
    return make_random_norms(RANDOM_MODELS[name]()).to(dtype)


def make_random_norms(model):
    """A model with random norm weights, biases and the like."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim < 2 or key.endswith("A_log"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="session", params=list(RANDOM_MODELS))
def model_of_any_family(request):
    """A random-weight causal LM in float32, of every supported family."""
    return make_random_model(request.param)


@pytest.fixture(scope="session", params=ONE_OF_EACH)
def random_model(request):
    """The same, one for each kind of cache."""
    return make_random_model(request.param)


@pytest.fixture(scope="session", params=ONE_OF_EACH)
def double_model(request):
    """The same in float64: run it under `Float64`."""
    return make_random_model(request.param, torch.float64)


class Float64(TorchFunctionMode):
    """What is float64 stays float64: libraries go down to float32 in norms, softmaxes and scans, whatever they get.

    Asking for float32 in a call on a float64 tensor gives float64; a float32 result of one is an error.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ == "__get__":  # shape, dtype and the like
            return func(*args, **(kwargs or {}))
        kwargs = kwargs or {}
        if func is Tensor.float and args[0].dtype == torch.float64:
            return args[0]
        values = (*args, *kwargs.values())
        for value in values:
            if value is torch.float32 and _holds_float64(values):
                args = [torch.float64 if arg is torch.float32 else arg for arg in args]
                kwargs = {key: torch.float64 if arg is torch.float32 else arg for key, arg in kwargs.items()}
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and out.dtype == torch.float32 and _holds_float64(values):
            raise AssertionError(f"{func} made float32 of float64")
        return out


def _holds_float64(values) -> bool:
    for value in values:
        if isinstance(value, Tensor) and value.dtype == torch.float64:
            return True
        if type(value) in (list, tuple) and _holds_float64(value):
            return True
    return False


def pytest_addoption(parser):
    parser.addoption("--cases", type=int, help="run at most so many cases of each parametrised test")


def pytest_collection_modifyitems(config, items):
    """Leaves the later cases of parametrised tests to `make test`."""
    most, cases = config.getoption("--cases"), Counter()
    if most is None:
        return
    for item in items:
        cases[name := item.nodeid.partition("[")[0]] += 1
        item.stash[CASE] = cases[name]
    config.hook.pytest_deselected(items=[item for item in items if item.stash[CASE] > most])
    items[:] = [item for item in items if item.stash[CASE] <= most]
