"""Linear layers on packed weights: the library's results, and its own layers again where it is compared with."""

import pytest
import torch
from torch import nn

from early_exit.models import packed_linear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (16, 1), (3, 40), (200, 1)])
def test_product_is_that_of_double_precision(shape, bias):
    torch.manual_seed(len(shape))
    layer = nn.Linear(320, 400, bias=bias)
    x = torch.randn(*shape, 640)[..., ::2]
    exact = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    packed_linear.ours(layer)
    with torch.inference_mode():
        y = layer(x)
    assert y.shape == (*shape, 400) and y.dtype == torch.float32
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=2e-6)


def test_only_large_single_precision_weights_are_packed():
    layers = nn.ModuleList([nn.Linear(320, 400), nn.Linear(8, 8), nn.Linear(320, 400).double()])
    assert [type(layer) for layer in packed_linear.ours(layers)] == [packed_linear.Linear, nn.Linear, nn.Linear]


def test_gradients_are_the_librarys():
    layer, x = nn.Linear(320, 400), torch.randn(2, 320, requires_grad=True)
    expected = torch.autograd.grad(layer(x).square().sum(), x)[0]
    assert torch.equal(torch.autograd.grad(packed_linear.ours(layer)(x).square().sum(), x)[0], expected)


def test_a_module_is_as_the_library_made_it_while_compared_and_ours_again_after():
    model = nn.Sequential(nn.Linear(300, 300), nn.Sequential(nn.Linear(300, 300)), nn.LayerNorm(300))
    names = list(packed_linear.ours(model).state_dict())
    layers, x = [model[0], model[1][0]], torch.randn(3, 300)
    with pytest.raises(RuntimeError, match="within"), packed_linear.as_loaded(model), torch.inference_mode():
        assert [type(layer) for layer in layers] == [nn.Linear] * 2
        assert torch.equal(layers[0](x), nn.functional.linear(x, layers[0].weight, layers[0].bias))
        raise RuntimeError("within")
    assert [type(layer) for layer in layers] == [packed_linear.Linear] * 2
    assert list(model.state_dict()) == names
