"""Linear layers with packed weights against double precision, and which layers get them."""

import pytest
import torch
from torch import nn

from early_exit.models.packed_linear import PackedLinear, pack_linears

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (16, 1), (3, 40), (200, 1)])
def test_a_product_equals_that_in_double_precision(shape, bias):
    torch.manual_seed(len(shape))
    layer = nn.Linear(320, 400, bias=bias)
    x = torch.randn(*shape, 640)[..., ::2]
    exact = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    pack_linears(layer)
    with torch.inference_mode():
        y = layer(x)
    assert y.shape == (*shape, 400) and y.dtype == torch.float32
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=2e-6)


def test_only_large_single_precision_weights_are_packed():
    layers = nn.ModuleList([nn.Linear(320, 400), nn.Linear(8, 8), nn.Linear(320, 400).double()])
    names = list(layers.state_dict())
    pack_linears(layers)
    assert [type(layer) for layer in layers] == [PackedLinear, nn.Linear, nn.Linear]
    assert list(layers.state_dict()) == names


def test_gradients_equal_the_librarys():
    layer, x = nn.Linear(320, 400), torch.randn(2, 320, requires_grad=True)
    expected = torch.autograd.grad(layer(x).square().sum(), x)[0]
    pack_linears(layer)
    assert torch.equal(torch.autograd.grad(layer(x).square().sum(), x)[0], expected)
