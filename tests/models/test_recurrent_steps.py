"""The Mamba-2 steps of our own against the library's, which share no code with them, and that mixers take them."""

import pytest
import torch
from transformers import DynamicCache, Mamba2Config
from transformers.models.mamba2 import modeling_mamba2 as library
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from early_exit.models import recurrent_steps

pytestmark = pytest.mark.skipif(any(recurrent_steps.HAS_KERNEL.values()), reason="the library's own kernel is taken")


def arguments(rows, heads, width, size, groups, dtype=torch.float32):
    """What a mixer hands over, in its order, and by name."""
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
def test_a_step_is_the_librarys(shape):
    """Output and state, up to float32's rounding."""
    given, named = arguments(*shape)
    states = given[0].clone(), given[0].clone()
    theirs = library.mamba2_selective_state_update(states[0], *given[1:], **named)
    ours = recurrent_steps.advance(states[1], *given[1:], **named)
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-5)
    torch.testing.assert_close(*states, rtol=2e-6, atol=2e-5)


def test_in_half_precision_it_is_the_step_of_the_same_numbers_in_float32():
    """Sums are taken in float32, so only the output is rounded; the library rounds on the way."""
    given, named = arguments(5, 4, 8, 16, 2, torch.bfloat16)
    state, exact = given[0].clone(), given[0].clone()
    out = recurrent_steps.advance(state, *given[1:], **named)
    wide = [part.float() for part in given[1:]]
    expected = library.mamba2_selective_state_update(exact, *wide, **{**named, "dt_bias": named["dt_bias"].float()})
    assert out.dtype == torch.bfloat16 and state.dtype == torch.float32
    torch.testing.assert_close(state, exact, rtol=2e-6, atol=2e-5)
    torch.testing.assert_close(out, expected.bfloat16(), rtol=2**-7, atol=2e-5)


@pytest.mark.parametrize("next_to_each_other", ["channels", "kernel"])
@pytest.mark.parametrize("shape", [(1, 4, 4), (7, 12, 3), (3, 5, 2)])
@pytest.mark.parametrize(("bias", "activation"), [(True, "silu"), (False, None)])
def test_a_window_is_the_librarys(shape, bias, activation, next_to_each_other):
    """Output and window, however the window lies in memory."""
    rows, channels, kernel = shape
    torch.manual_seed(rows)
    window, new = torch.randn(rows, channels, kernel), torch.randn(rows, 1, channels).transpose(1, 2)
    rest = torch.randn(channels, kernel), torch.randn(channels) if bias else None, activation
    moved = window.clone()
    expected = library.causal_conv1d_update(new, moved, *rest)
    if next_to_each_other == "channels":
        window = window.mT.contiguous().mT
    torch.testing.assert_close(recurrent_steps.convolve(new, window, *rest), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(window, moved)


def test_a_window_in_half_precision():
    torch.manual_seed(1)
    window, new = torch.randn(3, 6, 4).bfloat16(), torch.randn(3, 6, 1).bfloat16()
    weight, bias, moved = torch.randn(6, 4).bfloat16(), torch.randn(6).bfloat16(), window.clone()
    expected = library.causal_conv1d_update(new, moved, weight, bias, "silu")
    out = recurrent_steps.convolve(new, window, weight, bias, "silu")
    assert out.dtype == torch.bfloat16 and torch.equal(window, moved)
    torch.testing.assert_close(out, expected, rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 50])
@pytest.mark.parametrize(("kernel", "bias", "activation"), [(4, True, "silu"), (2, False, None)])
def test_a_sequence_is_the_librarys(length, kernel, bias, activation):
    """Sequences shorter than the kernel, too."""
    torch.manual_seed(length)
    new = torch.randn(3, length, 10)[..., 2:8].transpose(1, 2)  # as mixers split it from a projection
    rest = torch.randn(6, kernel), torch.randn(6) if bias else None, activation
    expected = library.causal_conv1d_fn(new, *rest)
    torch.testing.assert_close(recurrent_steps.convolve_sequence(new, *rest), expected, rtol=1e-6, atol=1e-6)


def test_a_sequence_in_half_precision():
    torch.manual_seed(2)
    new, weight, bias = torch.randn(2, 6, 9).bfloat16(), torch.randn(6, 4).bfloat16(), torch.randn(6).bfloat16()
    exact = library.causal_conv1d_fn(new.float(), weight.float(), bias.float(), None)
    out = recurrent_steps.convolve_sequence(new, weight, bias, None)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, exact.bfloat16(), rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize(("name", "lengths"), [("advance", [1]), ("convolve", [1]), ("convolve_sequence", [3])])
def test_mixers_take_them_only_while_told(monkeypatch, name, lengths):
    """By the name under which the library's mixers look them up: for single tokens, or for sequences."""
    config = Mamba2Config(hidden_size=16, num_hidden_layers=1, head_dim=8, num_heads=4, state_size=4, n_groups=2)
    mixer, taken, ours = Mamba2Mixer(config, 0).eval(), [], getattr(recurrent_steps, name)

    def watched(*given, **named):
        taken.append(1)
        return ours(*given, **named)

    steps = [(called, watched if step is ours else step, package) for called, step, package in recurrent_steps.STEPS]
    monkeypatch.setattr(recurrent_steps, "STEPS", steps)
    made = {called: getattr(library, called) for called, _, _ in steps}

    def answer(length):
        before = len(taken)
        mixer(torch.randn(2, length, 16), cache_params=cache)
        return len(taken) - before

    with torch.inference_mode():
        cache = DynamicCache(config=config)
        assert answer(3) == answer(1) == 0
        with recurrent_steps.ours():
            cache = DynamicCache(config=config)
            assert [length for length in (3, 1) if answer(length)] == lengths
        assert answer(1) == 0
    assert all(getattr(library, called) is step for called, step in made.items())


def test_the_library_is_as_it_was_after_an_error():
    made = [getattr(library, called) for called, _, _ in recurrent_steps.STEPS]
    with pytest.raises(ZeroDivisionError), recurrent_steps.ours():
        raise ZeroDivisionError
    assert [getattr(library, called) for called, _, _ in recurrent_steps.STEPS] == made
