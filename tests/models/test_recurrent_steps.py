"""Our Mamba-2 steps against the library's, which share no code with them, and which mixers take them."""

import pytest
import torch
from transformers import DynamicCache, Mamba2Config
from transformers.models.mamba2 import modeling_mamba2 as library
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from early_exit.models import recurrent_steps


def arguments(rows, heads, width, size, groups, dtype=torch.float32):
    """The arguments of a mixer's call: positional ones and keywords."""
    torch.manual_seed(rows)
    spread = (heads, width)
    return (
        torch.randn(rows, heads, width, size),
        torch.randn(rows, heads, width, dtype=dtype),
        torch.randn(rows, heads, 1, dtype=dtype).expand(-1, -1, width),
        -torch.rand(heads)[:, None, None].expand(-1, width, size),
        torch.randn(rows, groups, size, dtype=dtype),
        torch.randn(rows, groups, size, dtype=dtype),
        torch.randn(heads, dtype=dtype)[:, None].expand(*spread),
    ), {"z": None, "dt_bias": torch.randn(heads, dtype=dtype)[:, None].expand(*spread), "dt_softplus": True}


@pytest.mark.parametrize("shape", [(1, 4, 64, 32, 2), (7, 8, 16, 16, 8), (3, 6, 5, 4, 1)])
def test_a_state_update_equals_the_librarys(shape):
    """Output and state, up to float32's rounding."""
    given, named = arguments(*shape)
    states = given[0].clone(), given[0].clone()
    theirs = library.mamba2_selective_state_update(states[0], *given[1:], **named)
    ours = recurrent_steps.selective_state_update(states[1], *given[1:], **named)
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-5)
    torch.testing.assert_close(*states, rtol=2e-6, atol=2e-5)


def test_a_state_update_in_half_precision_equals_the_one_in_float32():
    """Sums are taken in float32, so only the output is rounded; the library rounds on the way."""
    given, named = arguments(5, 4, 8, 16, 2, torch.bfloat16)
    state, exact = given[0].clone(), given[0].clone()
    out = recurrent_steps.selective_state_update(state, *given[1:], **named)
    wide = [part.float() for part in given[1:]]
    expected = library.mamba2_selective_state_update(exact, *wide, **{**named, "dt_bias": named["dt_bias"].float()})
    assert out.dtype == torch.bfloat16 and state.dtype == torch.float32
    torch.testing.assert_close(state, exact, rtol=2e-6, atol=2e-5)
    torch.testing.assert_close(out, expected.bfloat16(), rtol=2**-7, atol=2e-5)


@pytest.mark.parametrize("next_to_each_other", ["channels", "kernel"])
@pytest.mark.parametrize("shape", [(1, 4, 4), (7, 12, 3), (3, 5, 2)])
@pytest.mark.parametrize(("bias", "activation"), [(True, "silu"), (False, None)])
def test_the_convolution_of_a_token_equals_the_librarys(shape, bias, activation, next_to_each_other):
    """Output and window, for both memory layouts of the window."""
    rows, channels, kernel = shape
    torch.manual_seed(rows)
    window, new = torch.randn(rows, channels, kernel), torch.randn(rows, 1, channels).transpose(1, 2)
    rest = torch.randn(channels, kernel), torch.randn(channels) if bias else None, activation
    moved = window.clone()
    expected = library.causal_conv1d_update(new, moved, *rest)
    if next_to_each_other == "channels":
        window = window.mT.contiguous().mT
    torch.testing.assert_close(recurrent_steps.convolve_token(new, window, *rest), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(window, moved)


def test_the_convolution_of_a_token_in_half_precision():
    torch.manual_seed(1)
    window, new = torch.randn(3, 6, 4).bfloat16(), torch.randn(3, 6, 1).bfloat16()
    weight, bias, moved = torch.randn(6, 4).bfloat16(), torch.randn(6).bfloat16(), window.clone()
    expected = library.causal_conv1d_update(new, moved, weight, bias, "silu")
    out = recurrent_steps.convolve_token(new, window, weight, bias, "silu")
    assert out.dtype == torch.bfloat16 and torch.equal(window, moved)
    torch.testing.assert_close(out, expected, rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 50])
@pytest.mark.parametrize(("kernel", "bias", "activation"), [(4, True, "silu"), (2, False, None)])
def test_the_convolution_of_a_sequence_equals_the_librarys(length, kernel, bias, activation):
    """Includes sequences shorter than the kernel."""
    torch.manual_seed(length)
    new = torch.randn(3, length, 10)[..., 2:8].transpose(1, 2)  # as mixers split it from a projection
    rest = torch.randn(6, kernel), torch.randn(6) if bias else None, activation
    expected = library.causal_conv1d_fn(new, *rest)
    torch.testing.assert_close(recurrent_steps.convolve_sequence(new, *rest), expected, rtol=1e-6, atol=1e-6)


def test_the_convolution_of_a_sequence_in_half_precision():
    torch.manual_seed(2)
    new, weight, bias = torch.randn(2, 6, 9).bfloat16(), torch.randn(6, 4).bfloat16(), torch.randn(6).bfloat16()
    exact = library.causal_conv1d_fn(new.float(), weight.float(), bias.float(), None)
    out = recurrent_steps.convolve_sequence(new, weight, bias, None)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, exact.bfloat16(), rtol=2**-7, atol=2**-7)


CONFIG = Mamba2Config(hidden_size=16, num_hidden_layers=1, head_dim=8, num_heads=4, state_size=4, n_groups=2)


@pytest.mark.parametrize(
    ("name", "lengths"),
    [("mamba2_selective_state_update", [1]), ("causal_conv1d_update", [1]), ("causal_conv1d_fn", [3])],
)
def test_only_patched_mixers_take_our_steps(monkeypatch, name, lengths):
    """For single tokens or sequences; another mixer still takes the library's."""
    taken, scope = [], recurrent_steps.PlainStepMixer.forward.__globals__
    step = scope[name]
    monkeypatch.setitem(scope, name, lambda *given, **named: taken.append(1) or step(*given, **named))
    made = {called: getattr(library, called) for called in recurrent_steps.STEPS}
    mixer, other = Mamba2Mixer(CONFIG, 0).eval(), Mamba2Mixer(CONFIG, 0).eval()
    other.load_state_dict(mixer.state_dict())
    recurrent_steps.use_plain_steps(torch.nn.ModuleList([mixer]))
    caches, counts = (DynamicCache(config=CONFIG), DynamicCache(config=CONFIG)), []
    with torch.inference_mode():
        for length in (3, 1):
            hidden = torch.randn(2, length, 16)
            ours = mixer(hidden, cache_params=caches[0])
            counts.append(len(taken))
            torch.testing.assert_close(ours, other(hidden, cache_params=caches[1]), rtol=1e-5, atol=1e-6)
            assert len(taken) == counts[-1]
    assert counts == ([1, 1] if lengths == [3] else [0, 1])
    assert {called: getattr(library, called) for called in recurrent_steps.STEPS} == made
